"""A server that produces: it sends a price that goes up and down.

python examples/producer.py
creche connect ws://localhost:8765
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio

import creche


async def prices() -> AsyncGenerator[str]:
    """Your business logic stands here."""
    price = 100.0
    while True:
        price *= random.uniform(0.99, 1.01)
        yield f"{price:.2f}"
        await anyio.sleep(0.5)


async def producer(ws: creche.WebSocket) -> None:
    async with aclosing(prices()) as messages:
        async for message in messages:
            await ws.send(message)


async def handler(ws: creche.WebSocket) -> None:
    # A producer alone would learn that its client has gone when it next sends.
    await ws.run(producer, creche.discard)


if __name__ == "__main__":
    creche.run(handler, "localhost", 8765)
