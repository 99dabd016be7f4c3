"""A server that consumes: it keeps the mean of what sensors measure.

python examples/consumer.py
creche connect ws://localhost:8765    # then type: kitchen 21.5
"""

from __future__ import annotations

from collections import defaultdict

import anyio

import creche
import program

measured: defaultdict[str, list[float]] = defaultdict(list)


async def consume(message: str | bytes) -> None:
    """Your business logic stands here."""
    sensor, _, value = str(message).partition(" ")
    values = measured[sensor]
    values.append(float(value))
    print(f"{sensor}: {sum(values) / len(values):.1f} on average", flush=True)


async def consumer(ws: creche.WebSocket) -> None:
    async for message in ws:  # until the client closes
        try:
            await consume(message)
        except ValueError:
            await ws.aclose(1008, "say: NAME NUMBER")


async def main(port: int) -> None:
    async with creche.serving(consumer, "localhost", port) as server:
        print("listening at", server.url, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    program.run(main, port=8765)
