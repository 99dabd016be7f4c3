"""What the examples share: options from the command line, an end by signals, and a page.

Nothing of it is needed to use creche; graceful_shutdown.py shows how a server does without.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskStatus

import creche


def run(main: Callable[..., Awaitable[None]], **defaults: Any) -> None:
    """Run `main(**options)` until it returns, or until Ctrl-C or SIGTERM cancels it.

    Each of `defaults` is an option of the command line: port=8765 can be given as --port 1234.
    There is --backend, too: asyncio or trio.
    """
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", default=default, type=type(default), help=" ")
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "trio"], help=" ")
    options = vars(parser.parse_args())
    backend = options.pop("backend")
    try:
        anyio.run(until_signal, partial(main, **options), backend=backend)
    except* (OSError, creche.HandshakeError) as group:
        sys.exit(f"{group.exceptions[0]}")


async def until_signal(main: Callable[[], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as tg:
        await tg.start(cancel_by_signal, tg.cancel_scope)
        await main()
        tg.cancel_scope.cancel()


async def cancel_by_signal(
    scope: anyio.CancelScope, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


def page(name: str) -> Callable[[creche.Request], creche.Response | None]:
    """A `process_request` that answers "/" with a page, and leaves "/ws" to WebSocket."""
    content = Path(__file__).with_name(name).read_bytes()

    def process_request(request: creche.Request) -> creche.Response | None:
        if request.path == "/ws":
            return None
        if request.path == "/":
            return creche.Response(200, {"Content-Type": "text/html; charset=utf-8"}, content)
        return creche.Response(404, body="There is / and /ws.\n")

    return process_request
