"""A server that knows who is connected, and passes on to all what anybody says.

python examples/registration.py
creche connect ws://localhost:8765    # twice
"""

from __future__ import annotations

import creche

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


if __name__ == "__main__":
    creche.run(handler, "localhost", 8765)
