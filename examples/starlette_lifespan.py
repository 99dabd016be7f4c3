"""A Starlette application whose lifespan runs a client: it shows the latest price of a feed.

FastAPI takes the same lifespan. pip install starlette hypercorn

python examples/producer.py
python examples/starlette_lifespan.py    # then open http://localhost:8000
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import hypercorn.asyncio
import hypercorn.trio
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

import creche


async def follow(uri: str, app: Starlette) -> None:
    """Keep the latest message of a feed, and come back when it has gone."""

    async def keep(ws: creche.WebSocket) -> None:
        async for message in ws:
            app.state.latest = str(message)

    await creche.reconnect(uri, keep, process_exception=lambda _exc: None)


def make_app(uri: str) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.latest = "nothing yet"
        async with anyio.create_task_group() as tg:
            tg.start_soon(follow, uri, app)
            yield
            tg.cancel_scope.cancel()  # the feed's server is told 1001

    async def latest(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.app.state.latest)

    return Starlette(routes=[Route("/", latest)], lifespan=lifespan)


async def signalled(*_args: Any) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)


async def main(uri: str, port: int, backend: str) -> None:
    config = Config()
    config.bind = [f"localhost:{port}"]
    config.graceful_timeout = 1
    serve: Any = hypercorn.trio.serve if backend == "trio" else hypercorn.asyncio.serve
    await serve(make_app(uri), config, shutdown_trigger=signalled)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--uri", default="ws://localhost:8765")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "trio"])
    options = parser.parse_args()
    anyio.run(main, options.uri, options.port, options.backend, backend=options.backend)
