"""Servers in a thread of their own: those of others, and ours."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import websockets
from aiohttp import ClientWebSocketResponse, web

import creche
from creche.connection.websocket import Handler

# What gives the port of a running server, as an async context manager.
Server = Callable[[ssl.SSLContext | None], Any]


@contextmanager
def in_thread(server: Server, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Run a server of asyncio in a thread of its own; gives its port on loopback."""
    started = threading.Event()
    state: dict[str, Any] = {}

    async def main() -> None:
        state["loop"] = asyncio.get_running_loop()
        state["stop"] = asyncio.Event()
        async with server(tls) as port:
            state["port"] = port
            started.set()
            await state["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(10)
    try:
        yield state["port"]
    finally:
        state["loop"].call_soon_threadsafe(state["stop"].set)
        thread.join(10)


def creche_server(handler: Handler, **options: Any) -> Server:
    """A server of ours, for what runs an event loop of its own."""

    @asynccontextmanager
    async def run(tls: ssl.SSLContext | None) -> AsyncIterator[int]:
        async with creche.serving(handler, "127.0.0.1", ssl=tls, **options) as server:
            yield server.addresses[0][1]

    return run


def websockets_server(
    handler: Callable[[websockets.ServerConnection], Awaitable[None]], **options: Any
) -> Server:
    """A server of websockets'."""

    @asynccontextmanager
    async def run(tls: ssl.SSLContext | None) -> AsyncIterator[int]:
        async with websockets.serve(
            handler, "127.0.0.1", 0, ssl=tls, max_size=None, compression=None, **options
        ) as server:
            yield next(iter(server.sockets)).getsockname()[1]

    return run


def aiohttp_server(
    handler: Callable[[web.WebSocketResponse], Awaitable[None]], **options: Any
) -> Server:
    """A server of aiohttp's; `options` are those of its WebSocketResponse."""

    @asynccontextmanager
    async def run(tls: ssl.SSLContext | None) -> AsyncIterator[int]:
        async def answer(request: web.Request) -> web.WebSocketResponse:
            ws = web.WebSocketResponse(max_msg_size=0, **options)
            await ws.prepare(request)
            await handler(ws)
            return ws

        app = web.Application()
        app.router.add_get("/", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        yield runner.addresses[0][1]
        await runner.cleanup()

    return run


async def talk_by_aiohttp(ws: ClientWebSocketResponse, messages: Sequence[str | bytes]) -> None:
    """Send each message to an echo server, and see that it comes back."""
    for message in messages:
        if isinstance(message, str):
            await ws.send_str(message)
            assert await ws.receive_str() == message
        else:
            await ws.send_bytes(message)
            assert await ws.receive_bytes() == message


__all__ = [
    "Server",
    "aiohttp_server",
    "creche_server",
    "in_thread",
    "talk_by_aiohttp",
    "websockets_server",
]
