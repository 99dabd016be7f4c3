"""The command line: `creche` and `python -m creche`."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import time
from collections.abc import Sequence

import anyio

import creche
from creche.protocol import COMPILED

MESSAGES = ("Hello", "from a task", "in a nursery")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Raises:
        SystemExit: --help or --version was asked for, or the arguments are wrong.
    """
    parser = argparse.ArgumentParser(prog="creche", description="WebSockets on Trio and asyncio.")
    build = "compiled" if COMPILED else "pure Python"
    parser.add_argument(
        "--version",
        action="version",
        version=f"creche {creche.__version__} ({build}), Python {platform.python_version()}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="run a server and a client and show what they say")
    parser.parse_args(arguments)
    # Python 3.11 may lose the trace of a frame that has run an event loop.
    for backend in ("asyncio", "trio"):  # pragma: no branch
        if importlib.util.find_spec(backend) is not None:  # pragma: no branch
            anyio.run(demo, backend, backend=backend)


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
