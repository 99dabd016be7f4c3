"""`creche bench`: how fast an echo server answers."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from array import array
from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio

import creche
from creche.cli.arguments import (
    Command,
    add_backend,
    add_client_tls,
    check_client_options,
    client_tls,
    count_up_to,
    seconds,
)

# No address has more ports to connect from.
MAX_CONNECTIONS = 2**16 - 1

# Each connection holds some copies of a message.
MAX_SIZE = 2**30

# The names of those that are shown, and where each stands among 999 cuts.
PERCENTILES = (("50", 499), ("90", 899), ("99", 989), ("99.9", 998))


class NoEcho(creche.WebSocketError):
    """The server answered with something else."""


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="measure an echo server",
        description="Open connections to an echo server; on each, send a message, wait until it "
        "comes back, and send the next. This client is timed, too: it is not the server's limit.",
    )
    parser.add_argument("uri", metavar="URI", help="of an echo server")
    parser.add_argument(
        "--connections",
        type=count_up_to(MAX_CONNECTIONS),
        default=10,
        metavar="N",
        help="(default: 10)",
    )
    parser.add_argument(
        "--size",
        type=count_up_to(MAX_SIZE),
        default=128,
        metavar="BYTES",
        help="of a message (default: 128)",
    )
    parser.add_argument(
        "--duration", type=seconds, default=5, metavar="SECONDS", help="(default: 5)"
    )
    add_client_tls(parser)
    add_backend(parser)
    parser.set_defaults(prepare=prepare)


def prepare(given: argparse.Namespace) -> Command:
    # What is measured is the server, not how well its echo can be compressed.
    options = check_client_options(
        given.uri, ssl=client_tls(given), max_size=None, compression=None
    )
    return partial(run, given, options)


async def run(given: argparse.Namespace, options: Mapping[str, Any]) -> None:
    delays = array("d")
    message = b"x" * given.size
    connected = 0
    go = anyio.Event()

    async def visit() -> None:
        nonlocal connected
        async with creche.connect(given.uri, **options) as ws:
            connected += 1
            if connected == given.connections:
                go.set()
            await go.wait()
            with anyio.move_on_after(given.duration):
                while True:
                    start = time.perf_counter()
                    await ws.send(message)
                    if await ws.receive() != message:
                        raise NoEcho("the server does not send back what it receives")
                    delays.append(time.perf_counter() - start)

    async def progress() -> None:
        await go.wait()
        for second in range(1, int(given.duration) + 1):
            before = len(delays)
            await anyio.sleep(1)
            rate = len(delays) - before
            print(f"{second:4} s {rate:10,} messages/s", file=sys.stderr, flush=True)

    error: Exception | None = None
    try:
        async with anyio.create_task_group() as tg:
            tg.start_soon(progress)
            async with anyio.create_task_group() as visitors:
                for _ in range(given.connections):
                    visitors.start_soon(visit)
            tg.cancel_scope.cancel()
    except ExceptionGroup as group:
        error = _first(group)
    if error is not None:
        raise error
    for line in report(delays, given.duration, given.connections, given.size):
        print(line)


def _first(group: ExceptionGroup) -> Exception:
    """One of the errors that many connections met together."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


def report(delays: array[float], duration: float, connections: int, size: int) -> list[str]:
    """What was measured, in lines."""
    rate = len(delays) / duration
    lines = [
        f"{connections} connections, messages of {size:,} bytes, {duration:g} s",
        f"{rate:,.0f} messages/s, {rate * size / 1e6:,.1f} MB/s each way",
    ]
    if len(delays) >= 2:
        cuts = statistics.quantiles(delays, n=1000, method="inclusive")
        shown = [f"p{name} {cuts[i] * 1000:.2f}" for name, i in PERCENTILES]
        lines.append(f"delay in ms: {', '.join(shown)}, max {max(delays) * 1000:.2f}")
    return lines
