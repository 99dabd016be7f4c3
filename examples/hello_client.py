"""A client that tells its name and is greeted.

python examples/hello_server.py
python examples/hello_client.py Ada
"""

from __future__ import annotations

import sys

import anyio

import creche


async def main(name: str = "World", uri: str = "ws://localhost:8765") -> None:
    async with creche.connect(uri) as ws:
        await ws.send(name)
        print(">", name)
        print("<", await ws.receive())
    # Here the connection is closed.


if __name__ == "__main__":
    anyio.run(lambda: main(*sys.argv[1:]))
