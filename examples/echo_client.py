"""A client that sends a message and receives one.

python examples/echo_server.py
python examples/echo_client.py
"""

from __future__ import annotations

import creche
import program


async def main(uri: str) -> None:
    async with creche.connect(uri) as ws:
        await ws.send("Hello world!")
        print(await ws.receive())


if __name__ == "__main__":
    program.run(main, uri="ws://localhost:8765")
