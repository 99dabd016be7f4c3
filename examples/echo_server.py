"""A server that sends back what it receives.

python examples/echo_server.py
"""

from __future__ import annotations

import anyio

import creche
import program


async def echo(ws: creche.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    async with creche.serving(echo, "localhost", port) as server:
        print("listening at", server.url, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    program.run(main, port=8765)
