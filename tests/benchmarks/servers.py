"""The servers that are compared: `python servers.py NAME LOOP [CERTIFICATE]` runs one.

Each sends back what it receives. To the message FEED it sends FEED_MESSAGES messages of MESSAGE
instead, in a loop; to the message CAST it sends MESSAGE to every connection, by the library's
broadcast where it has one. It prints its port, and ends at the end of its input.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

MESSAGE = b"x" * 128
FEED = b"feed"
FEED_MESSAGES = 256
CAST = b"cast"

TLS = ssl.SSLContext | None
# Called with the port as soon as there is one; returns when the server has to end.
Ready = Callable[[int], Awaitable[None]]


def answering(cast: Callable[[set[Any]], Awaitable[object]]) -> Callable[[Any], Awaitable[None]]:
    """A handler for connections with the methods of websockets; `cast` sends MESSAGE to many."""
    connections: set[Any] = set()

    async def handler(ws: Any) -> None:
        connections.add(ws)
        try:
            async for message in ws:
                if message == FEED:
                    for _ in range(FEED_MESSAGES):
                        await ws.send(MESSAGE)
                elif message == CAST:
                    await cast(connections)
                else:
                    await ws.send(message)
        finally:
            connections.discard(ws)

    return handler


async def serve_creche(tls: TLS, ready: Ready) -> None:
    import creche

    async def cast(connections: set[creche.WebSocket]) -> None:
        creche.broadcast(connections, MESSAGE)

    async with creche.serving(answering(cast), "127.0.0.1", ssl=tls) as server:
        await ready(server.addresses[0][1])


async def serve_websockets(tls: TLS, ready: Ready) -> None:
    import websockets
    from websockets.asyncio.server import broadcast

    async def cast(connections: set[websockets.ServerConnection]) -> None:
        broadcast(connections, MESSAGE)

    async with websockets.serve(answering(cast), "127.0.0.1", 0, ssl=tls) as server:
        await ready(next(iter(server.sockets)).getsockname()[1])


async def serve_websockets_trio(tls: TLS, ready: Ready) -> None:
    import trio
    from websockets.trio.server import ServerConnection, serve

    async def cast(connections: set[ServerConnection]) -> None:
        for other in list(connections):
            await other.send(MESSAGE)

    handler = answering(cast)
    async with trio.open_nursery() as nursery:
        server: Any = await nursery.start(
            lambda **status: serve(handler, 0, host="127.0.0.1", ssl=tls, **status)
        )
        await ready(server.listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def serve_trio_websocket(tls: TLS, ready: Ready) -> None:
    import trio
    from trio_websocket import ConnectionClosed, WebSocketConnection, serve_websocket

    connections: set[WebSocketConnection] = set()

    async def handler(request: Any) -> None:
        ws = await request.accept()
        connections.add(ws)
        try:
            while True:
                message = await ws.get_message()
                if message == FEED:
                    for _ in range(FEED_MESSAGES):
                        await ws.send_message(MESSAGE)
                elif message == CAST:
                    for other in list(connections):
                        await other.send_message(MESSAGE)
                else:
                    await ws.send_message(message)
        except ConnectionClosed:
            pass
        finally:
            connections.discard(ws)

    async with trio.open_nursery() as nursery:
        server: Any = await nursery.start(serve_websocket, handler, "127.0.0.1", 0, tls)
        await ready(server.port)
        nursery.cancel_scope.cancel()


async def serve_picows(tls: TLS, ready: Ready) -> None:
    import picows

    connections: set[picows.WSTransport] = set()

    class Handler(picows.WSListener):  # type: ignore[misc, unused-ignore]
        def on_ws_connected(self, transport: picows.WSTransport) -> None:
            connections.add(transport)

        def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
            connections.discard(transport)

        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            kind = frame.msg_type
            if kind == picows.WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
                transport.disconnect()
                return
            message = frame.get_payload_as_bytes()
            if message == FEED:
                for _ in range(FEED_MESSAGES):
                    transport.send(picows.WSMsgType.BINARY, MESSAGE)
            elif message == CAST:
                for other in connections:
                    other.send(picows.WSMsgType.BINARY, MESSAGE)
            else:
                transport.send(kind, message)

    server = await picows.ws_create_server(lambda _: Handler(), "127.0.0.1", 0, ssl=tls)
    await ready(server.sockets[0].getsockname()[1])
    server.close()


async def serve_picows_websockets(tls: TLS, ready: Ready) -> None:
    import picows.websockets

    async def cast(connections: set[Any]) -> None:
        picows.websockets.broadcast(connections, MESSAGE)

    async with picows.websockets.serve(answering(cast), "127.0.0.1", 0, ssl=tls) as server:
        await ready(next(iter(server.sockets)).getsockname()[1])


async def serve_aiohttp(tls: TLS, ready: Ready) -> None:
    from aiohttp import WSMsgType, web

    connections: set[web.WebSocketResponse] = set()

    async def handler(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        connections.add(ws)
        try:
            async for message in ws:
                if message.type is WSMsgType.TEXT:
                    await ws.send_str(message.data)
                elif message.data == FEED:
                    for _ in range(FEED_MESSAGES):
                        await ws.send_bytes(MESSAGE)
                elif message.data == CAST:
                    for other in list(connections):
                        await other.send_bytes(MESSAGE)
                else:
                    await ws.send_bytes(message.data)
        finally:
            connections.discard(ws)
        return ws

    app = web.Application()
    app.router.add_get("/", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    await ready(runner.addresses[0][1])
    await runner.cleanup()


async def serve_tcp(tls: TLS, ready: Ready) -> None:
    """The limit: bytes sent back, without a protocol."""

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, ssl=tls, backlog=1024)
    await ready(server.sockets[0].getsockname()[1])
    server.close()


async def serve_tcp_trio(tls: TLS, ready: Ready) -> None:
    """The limit on Trio."""
    import trio

    async def echo(stream: trio.abc.Stream) -> None:
        try:
            while data := await stream.receive_some():
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listeners: Any = [listener if tls is None else trio.SSLListener(listener, tls)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, listeners)
        await ready(listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


Server = Callable[[TLS, Ready], Awaitable[None]]

# What is compared: the name, the loop, and the function.
SERVERS: dict[tuple[str, str], Server] = {
    ("creche", "asyncio"): serve_creche,
    ("creche", "uvloop"): serve_creche,
    ("creche", "trio"): serve_creche,
    ("picows", "asyncio"): serve_picows,
    ("picows", "uvloop"): serve_picows,
    ("picows.websockets", "asyncio"): serve_picows_websockets,
    ("picows.websockets", "uvloop"): serve_picows_websockets,
    ("aiohttp", "asyncio"): serve_aiohttp,
    ("aiohttp", "uvloop"): serve_aiohttp,
    ("websockets", "asyncio"): serve_websockets,
    ("websockets", "uvloop"): serve_websockets,
    ("websockets", "trio"): serve_websockets_trio,
    ("trio-websocket", "trio"): serve_trio_websocket,
    ("TCP echo", "asyncio"): serve_tcp,
    ("TCP echo", "uvloop"): serve_tcp,
    ("TCP echo", "trio"): serve_tcp_trio,
}


def main() -> None:
    name, loop = sys.argv[1:3]
    tls: TLS = None
    if len(sys.argv) > 3:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(sys.argv[3])

    async def ready(port: int) -> None:
        print(port, flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)

    async def run() -> None:
        await SERVERS[name, loop](tls, ready)

    run_on(loop, run)


def run_on(loop: str, function: Callable[..., Awaitable[None]], *args: Any) -> None:
    """anyio.run() on "asyncio", "uvloop" or "trio"."""
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    backend = "trio" if loop == "trio" else "asyncio"
    anyio.run(function, *args, backend=backend, backend_options=options)


if __name__ == "__main__":
    main()
