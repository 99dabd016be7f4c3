"""`creche demo`: a server and a client, and what they say."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

import anyio

import creche

MESSAGES = ("Hello", "from a task", "in a nursery")


def add_to(commands: Any) -> None:
    parser = commands.add_parser("demo", help="run a server and a client and show what they say")
    parser.set_defaults(prepare=lambda _: run, backend="asyncio")


async def run() -> None:
    await demo("asyncio")
    if find_spec("trio") is not None:
        # A loop of its own, in a thread of its own.
        await anyio.to_thread.run_sync(lambda: anyio.run(demo, "trio", backend="trio"))


async def demo(backend: str) -> None:
    """A server that answers in capitals, and a client with a consumer and a producer."""
    print(f"--- {backend}")
    start = time.perf_counter()

    def show(text: str) -> None:
        print(f"{(time.perf_counter() - start) * 1000:8.2f} ms  {text}", flush=True)

    async def answer(ws: creche.WebSocket) -> None:
        async for message in ws:
            show(f"server < {message!r}")
            await ws.send(message.upper())

    async def producer(ws: creche.WebSocket) -> None:
        for message in MESSAGES:
            show(f"client > {message!r}")
            await ws.send(message)
            await anyio.sleep(0.05)
        await ws.send_eof()  # the consumer goes on until the server has closed, too

    async def consumer(ws: creche.WebSocket) -> None:
        async for message in ws:
            show(f"client < {message!r}")

    async with creche.serving(answer, "localhost") as server:
        show(f"server listens at {server.url}")
        async with creche.connect(server.url) as ws:
            await ws.run(consumer, producer, until="all")
            show(f"closed with {ws.close_code}")
