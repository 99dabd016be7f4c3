"""A server that consumes: it keeps the mean of what sensors measure.

python examples/consumer.py
creche connect ws://localhost:8765    # then type: kitchen 21.5
"""

from __future__ import annotations

from collections import defaultdict

import creche

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


if __name__ == "__main__":
    creche.run(consumer, "localhost", 8765)
