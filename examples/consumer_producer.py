"""A server that does both: it counts, and the client says by how much.

python examples/consumer_producer.py
creche connect ws://localhost:8765    # then type: 10
"""

from __future__ import annotations

import anyio

import creche


class Counting:
    """What one connection does. Its consumer and its producer share a step."""

    def __init__(self) -> None:
        self.step = 1

    async def consumer(self, ws: creche.WebSocket) -> None:
        async for message in ws:
            self.step = int(message)

    async def producer(self, ws: creche.WebSocket) -> None:
        count = 0
        while True:
            await ws.send(f"{count}")
            count += self.step
            await anyio.sleep(0.2)


async def handler(ws: creche.WebSocket) -> None:
    counting = Counting()
    # When one returns or fails, when the client goes, or when this server ends, both end.
    await ws.run(counting.consumer, counting.producer)


if __name__ == "__main__":
    creche.run(handler, "localhost", 8765)
