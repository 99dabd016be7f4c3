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
import program


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


async def main(port: int) -> None:
    async with creche.serving(handler, "localhost", port) as server:
        print("listening at", server.url, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    program.run(main, port=8765)
