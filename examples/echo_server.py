"""A server that sends back what it receives.

python examples/echo_server.py
"""

from __future__ import annotations

import creche


async def echo(ws: creche.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


if __name__ == "__main__":
    creche.run(echo, "localhost", 8765)
