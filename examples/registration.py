"""A server that knows who is connected, and passes on to all what anybody says.

python examples/registration.py
creche connect ws://localhost:8765    # twice
"""

from __future__ import annotations

import anyio

import creche
import program

connected: set[creche.WebSocket] = set()


async def handler(ws: creche.WebSocket) -> None:
    connected.add(ws)
    try:
        creche.broadcast(connected, f"{len(connected)} connected")
        async for message in ws:
            creche.broadcast(connected, message)  # it waits for nobody
    finally:
        connected.discard(ws)
        creche.broadcast(connected, f"{len(connected)} connected")


async def main(port: int) -> None:
    async with creche.serving(handler, "localhost", port) as server:
        print("listening at", server.url, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    program.run(main, port=8765)
