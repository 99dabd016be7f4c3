"""A client with a consumer and a producer on one connection, against the echo server.

python examples/echo_server.py
python examples/consumer_producer.py [URI] [--backend trio]
"""

from __future__ import annotations

import argparse

import anyio

import creche


async def consumer(ws: creche.WebSocket) -> None:
    async for message in ws:
        print("received", message, flush=True)


async def producer(ws: creche.WebSocket) -> None:
    for number in range(5):
        await ws.send(f"message {number}")
        await anyio.sleep(0.1)
    # Returning ends the consumer, too, and leaving connect() closes the connection.


async def main(uri: str) -> None:
    async with creche.connect(uri) as ws:
        await ws.run(consumer, producer)
    print("closed with", ws.close_code)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("uri", nargs="?", default="ws://localhost:8765")
    parser.add_argument("--backend", default="asyncio")
    arguments = parser.parse_args()
    anyio.run(main, arguments.uri, backend=arguments.backend)
