"""A client that sends a message and receives one.

python examples/echo_server.py
python examples/echo_client.py
"""

from __future__ import annotations

import sys

import anyio

import creche


async def main(uri: str = "ws://localhost:8765") -> None:
    async with creche.connect(uri) as ws:
        await ws.send("Hello world!")
        print(await ws.receive())


if __name__ == "__main__":
    anyio.run(lambda: main(*sys.argv[1:]))
