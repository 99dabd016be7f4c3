"""WebSocket libraries for Python, as peers of creche's in a process of their own.

    python peer.py client LIBRARY SCENARIO URL [CA]
    python peer.py server LIBRARY [CERTIFICATE]

A client goes through a scenario with a server of creche's, and fails unless it holds. A server
prints its port, then a line for each connection that has ended; what it does is in its path. Each
library is wrapped once, in an adapter for both roles. peer.js is the same for JavaScript.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

Message = str | bytes

MESSAGES: list[Message] = ["text é☃🐍", b"binary \x00\xff", "", b""]
LARGE: list[Message] = ["é" * 500_000, b"\xa5" * 1_000_000]
PIECES = ["é", "☃" * 1000, "", "🐍"]
SUBPROTOCOL = "creche.test"


class Adapter:
    """A connection of some library; what one cannot do is in test_matrix.CANNOT."""

    path: str
    subprotocol: str | None
    compressed: bool

    async def send(self, message: Message) -> None:
        raise NotImplementedError

    async def send_pieces(self, pieces: list[str]) -> None:
        """Send a message in fragments; by default, for what sends none, whole."""
        await self.send("".join(pieces))

    async def receive(self) -> Message | None:
        """The next message; None when there is none any more."""
        raise NotImplementedError

    async def ping(self) -> None:
        raise NotImplementedError

    async def close(self, code: int, reason: str) -> None:
        raise NotImplementedError

    async def closed(self) -> tuple[int | None, str]:
        """The peer's close code and reason, once the connection has ended."""
        raise NotImplementedError


Handler = Callable[[Any], Awaitable[None]]
Connect = Callable[[str, list[str], ssl.SSLContext | None], AbstractAsyncContextManager[Adapter]]
Serve = Callable[[Handler, ssl.SSLContext | None], AbstractAsyncContextManager[int]]


# websockets, and picows.websockets, which has the same names


class WebsocketsAdapter(Adapter):
    def __init__(self, ws: Any, ended: type[Exception]) -> None:
        self.ws = ws
        self.ended = ended
        self.path = ws.request.path
        self.subprotocol = ws.subprotocol
        extensions = ws.response.headers.get("Sec-WebSocket-Extensions", "")
        self.compressed = "permessage-deflate" in extensions

    async def send(self, message: Message) -> None:
        await self.ws.send(message)

    async def send_pieces(self, pieces: list[str]) -> None:
        await self.ws.send(pieces)

    async def receive(self) -> Message | None:
        try:
            return await self.ws.recv()  # type: ignore[no-any-return]
        except self.ended:
            return None

    async def ping(self) -> None:
        await (await self.ws.ping())

    async def close(self, code: int, reason: str) -> None:
        await self.ws.close(code, reason)

    async def closed(self) -> tuple[int | None, str]:
        await self.ws.wait_closed()
        return self.ws.close_code, self.ws.close_reason


def websockets_like(module: str) -> tuple[Connect, Serve]:
    library = importlib.import_module(module)

    @asynccontextmanager
    async def connect(
        url: str, subprotocols: list[str], tls: ssl.SSLContext | None
    ) -> AsyncIterator[Adapter]:
        async with library.connect(url, subprotocols=subprotocols or None, ssl=tls) as ws:
            yield WebsocketsAdapter(ws, library.ConnectionClosed)

    @asynccontextmanager
    async def serve(handler: Handler, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
        async def handle(ws: Any) -> None:
            await handler(WebsocketsAdapter(ws, library.ConnectionClosed))

        # Given as subprotocols=, it would be asked of everyone.
        def select(_: Any, offered: Sequence[str]) -> str | None:
            return SUBPROTOCOL if SUBPROTOCOL in offered else None

        async with library.serve(
            handle, "127.0.0.1", 0, select_subprotocol=select, ssl=tls
        ) as server:
            yield next(iter(server.sockets)).getsockname()[1]

    return connect, serve


# aiohttp


class AiohttpAdapter(Adapter):
    def __init__(self, ws: Any, path: str, subprotocol: str | None) -> None:
        self.ws = ws
        self.path = path
        self.subprotocol = subprotocol
        self.compressed = bool(ws.compress)
        self.reason = ""

    async def send(self, message: Message) -> None:
        await (self.ws.send_str if isinstance(message, str) else self.ws.send_bytes)(message)

    async def receive(self) -> Message | None:
        types = importlib.import_module("aiohttp").WSMsgType
        while (message := await self.ws.receive()).type is types.PING:
            await self.ws.pong(message.data)
        if message.type in (types.TEXT, types.BINARY):
            return message.data  # type: ignore[no-any-return]
        if message.type is types.CLOSE:
            self.reason = message.extra
        return None

    async def ping(self) -> None:
        types = importlib.import_module("aiohttp").WSMsgType
        await self.ws.ping(b"?")
        assert (await self.ws.receive()).type is types.PONG

    async def close(self, code: int, reason: str) -> None:
        await self.ws.close(code=code, message=reason.encode())

    async def closed(self) -> tuple[int | None, str]:
        return self.ws.close_code, self.reason


def aiohttp() -> tuple[Connect, Serve]:
    library = importlib.import_module("aiohttp")
    web = importlib.import_module("aiohttp.web")

    @asynccontextmanager
    async def connect(
        url: str, subprotocols: list[str], tls: ssl.SSLContext | None
    ) -> AsyncIterator[Adapter]:
        # What answers pings by itself does not show pongs.
        async with (
            library.ClientSession() as session,
            session.ws_connect(
                url, protocols=subprotocols, compress=15, ssl=tls or True, autoping=False
            ) as ws,
        ):
            yield AiohttpAdapter(ws, urlsplit(url).path, ws.protocol)

    @asynccontextmanager
    async def serve(handler: Handler, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
        async def answer(request: Any) -> Any:
            ws = web.WebSocketResponse(protocols=[SUBPROTOCOL], autoping=False)
            await ws.prepare(request)
            await handler(AiohttpAdapter(ws, request.path, ws.ws_protocol))
            return ws

        app = web.Application()
        app.router.add_get("/ws/{path}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield runner.addresses[0][1]
        await runner.cleanup()

    return connect, serve


# wsproto, which does no I/O


class WsprotoAdapter(Adapter):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.events: list[Any] = []
        self.close_code: int | None = None
        self.reason = ""

    async def connect(self, url: str, subprotocols: list[str]) -> None:
        wsproto = importlib.import_module("wsproto")
        deflate = importlib.import_module("wsproto.extensions").PerMessageDeflate()
        self.peer = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        host, self.path = urlsplit(url).netloc, urlsplit(url).path
        await self.emit(
            "Request", host=host, target=self.path, subprotocols=subprotocols, extensions=[deflate]
        )
        accepted = await self.next_event()
        self.subprotocol = accepted.subprotocol
        self.compressed = deflate.enabled()

    async def accept(self) -> None:
        wsproto = importlib.import_module("wsproto")
        deflate = importlib.import_module("wsproto.extensions").PerMessageDeflate()
        self.peer = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        request = await self.next_event()
        self.path = request.target
        chosen = SUBPROTOCOL if SUBPROTOCOL in request.subprotocols else None
        await self.emit("AcceptConnection", subprotocol=chosen, extensions=[deflate])

    async def emit(self, name: str, **fields: Any) -> None:
        event = getattr(importlib.import_module("wsproto.events"), name)(**fields)
        await self.emit_event(event)

    async def emit_event(self, event: Any) -> None:
        self.writer.write(self.peer.send(event))
        await self.writer.drain()

    async def next_event(self) -> Any:
        while not self.events:
            self.peer.receive_data(await self.reader.read(2**16) or None)
            self.events.extend(self.peer.events())
        return self.events.pop(0)

    async def send(self, message: Message) -> None:
        await self.emit("TextMessage" if isinstance(message, str) else "BytesMessage", data=message)

    async def send_pieces(self, pieces: list[str]) -> None:
        for piece in pieces:
            await self.emit("TextMessage", data=piece, message_finished=False)
        await self.emit("TextMessage", data="")

    async def receive(self) -> Message | None:
        pieces: list[Any] = []
        while True:
            event = await self.next_event()
            match type(event).__name__:
                case "TextMessage" | "BytesMessage":
                    pieces.append(event.data)
                    if event.message_finished:
                        return type(event.data)().join(pieces)  # type: ignore[no-any-return]
                case "Ping":
                    await self.emit_event(event.response())
                case "CloseConnection":
                    self.close_code, self.reason = event.code, event.reason or ""
                    if self.peer.state.name == "REMOTE_CLOSING":
                        await self.emit_event(event.response())
                    return None

    async def ping(self) -> None:
        await self.emit("Ping", payload=b"?")
        assert (await self.next_event()).payload == b"?"

    async def close(self, code: int, reason: str) -> None:
        await self.emit("CloseConnection", code=code, reason=reason)
        while await self.receive() is not None:
            pass

    async def closed(self) -> tuple[int | None, str]:
        self.writer.close()
        return self.close_code, self.reason


def wsproto() -> tuple[Connect, Serve]:
    @asynccontextmanager
    async def connect(
        url: str, subprotocols: list[str], tls: ssl.SSLContext | None
    ) -> AsyncIterator[Adapter]:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=tls)
        ws = WsprotoAdapter(reader, writer)
        await ws.connect(url, subprotocols)
        yield ws
        writer.close()

    @asynccontextmanager
    async def serve(handler: Handler, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            ws = WsprotoAdapter(reader, writer)
            await ws.accept()
            await handler(ws)

        async with await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls) as server:
            yield server.sockets[0].getsockname()[1]

    return connect, serve


# Autobahn|Python


class AutobahnAdapter(Adapter):
    def __init__(self, ws: Any, path: str, subprotocol: str | None) -> None:
        self.ws = ws
        self.path = path
        self.subprotocol = subprotocol
        self.compressed = bool(ws.websocket_extensions_in_use)
        self.messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self.pong = asyncio.Event()

    async def send(self, message: Message) -> None:
        text = isinstance(message, str)
        self.ws.sendMessage(message.encode() if isinstance(message, str) else message, not text)

    async def send_pieces(self, pieces: list[str]) -> None:
        self.ws.beginMessage(False)
        for piece in pieces:
            self.ws.sendMessageFrame(piece.encode())
        self.ws.endMessage()

    async def receive(self) -> Message | None:
        return await self.messages.get()

    async def ping(self) -> None:
        self.ws.sendPing(b"?")
        await self.pong.wait()

    async def close(self, code: int, reason: str) -> None:
        self.ws.sendClose(code, reason)
        while await self.messages.get() is not None:
            pass

    async def closed(self) -> tuple[int | None, str]:
        return self.ws.remoteCloseCode, self.ws.remoteCloseReason or ""


def autobahn() -> tuple[Connect, Serve]:
    library = importlib.import_module("autobahn.asyncio.websocket")
    compress = importlib.import_module("autobahn.websocket.compress")

    def answering(base: type[Any], opened: Callable[[Adapter], object]) -> type[Any]:
        """A protocol that puts what comes into an adapter."""

        class Protocol(base):  # type: ignore[misc]
            adapter: AutobahnAdapter

            def onConnect(self, request: Any) -> str | None:
                return SUBPROTOCOL if SUBPROTOCOL in getattr(request, "protocols", ()) else None

            def onOpen(self) -> None:
                self.adapter = AutobahnAdapter(
                    self,
                    getattr(self, "http_request_path", ""),
                    self.websocket_protocol_in_use,
                )
                opened(self.adapter)

            def onMessage(self, payload: bytes, is_binary: bool) -> None:
                self.adapter.messages.put_nowait(payload if is_binary else payload.decode())

            def onPong(self, payload: bytes) -> None:
                self.adapter.pong.set()

            def onClose(self, was_clean: bool, code: int, reason: str) -> None:
                self.adapter.messages.put_nowait(None)

        return Protocol

    @asynccontextmanager
    async def connect(
        url: str, subprotocols: list[str], tls: ssl.SSLContext | None
    ) -> AsyncIterator[Adapter]:
        loop = asyncio.get_running_loop()
        opened = loop.create_future()
        factory = library.WebSocketClientFactory(url, protocols=subprotocols, loop=loop)
        factory.protocol = answering(library.WebSocketClientProtocol, opened.set_result)
        factory.setProtocolOptions(
            perMessageCompressionOffers=[compress.PerMessageDeflateOffer()],
            perMessageCompressionAccept=compress.PerMessageDeflateResponseAccept,
        )
        await loop.create_connection(factory, factory.host, factory.port, ssl=tls)
        yield await opened

    @asynccontextmanager
    async def serve(handler: Handler, tls: ssl.SSLContext | None) -> AsyncIterator[int]:
        loop = asyncio.get_running_loop()
        tasks = set()
        factory = library.WebSocketServerFactory(protocols=[SUBPROTOCOL], loop=loop)
        factory.protocol = answering(
            library.WebSocketServerProtocol,
            lambda adapter: tasks.add(loop.create_task(handle(adapter))),
        )
        factory.setProtocolOptions(
            perMessageCompressionAccept=lambda offers: compress.PerMessageDeflateOfferAccept(
                offers[0]
            )
        )

        async def handle(adapter: Adapter) -> None:
            await handler(adapter)

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=tls)
        async with server:
            yield server.sockets[0].getsockname()[1]

    return connect, serve


# websocket-client, which blocks; it has no server


class WebSocketClientAdapter(Adapter):
    compressed = False

    def __init__(self, ws: Any) -> None:
        self.ws = ws
        self.subprotocol = ws.subprotocol
        self.abnf = importlib.import_module("websocket").ABNF
        self.close_code: int | None = None
        self.reason = ""

    async def send(self, message: Message) -> None:
        opcode = self.abnf.OPCODE_TEXT if isinstance(message, str) else self.abnf.OPCODE_BINARY
        await asyncio.to_thread(self.ws.send, message, opcode)

    async def send_pieces(self, pieces: list[str]) -> None:
        for i, piece in enumerate(pieces):
            opcode = self.abnf.OPCODE_CONT if i else self.abnf.OPCODE_TEXT
            frame = self.abnf.create_frame(piece.encode(), opcode, int(piece is pieces[-1]))
            await asyncio.to_thread(self.ws.send_frame, frame)

    async def receive(self) -> Message | None:
        opcode, data = await asyncio.to_thread(self.ws.recv_data)
        if opcode == self.abnf.OPCODE_CLOSE:
            self.close_code, self.reason = int.from_bytes(data[:2], "big"), data[2:].decode()
            return None
        return data.decode() if opcode == self.abnf.OPCODE_TEXT else data  # type: ignore[no-any-return]

    async def ping(self) -> None:
        await asyncio.to_thread(self.ws.ping, "?")
        opcode, _ = await asyncio.to_thread(self.ws.recv_data, True)
        assert opcode == self.abnf.OPCODE_PONG

    async def close(self, code: int, reason: str) -> None:
        await asyncio.to_thread(self.ws.close, code, reason.encode())

    async def closed(self) -> tuple[int | None, str]:
        return self.close_code, self.reason


def websocket_client() -> tuple[Connect, None]:
    library = importlib.import_module("websocket")

    @asynccontextmanager
    async def connect(
        url: str, subprotocols: list[str], tls: ssl.SSLContext | None
    ) -> AsyncIterator[Adapter]:
        options = {"subprotocols": subprotocols or None, "sslopt": {"context": tls}, "timeout": 20}
        ws = await asyncio.to_thread(library.create_connection, url, **options)
        yield WebSocketClientAdapter(ws)

    return connect, None


LIBRARIES: dict[str, Callable[[], tuple[Connect, Serve | None]]] = {
    "websockets": lambda: websockets_like("websockets"),
    "picows": lambda: websockets_like("picows.websockets"),
    "aiohttp": aiohttp,
    "wsproto": wsproto,
    "autobahn": autobahn,
    "websocket-client": websocket_client,
}


# As a client: the scenarios


async def echoes(ws: Adapter, messages: list[Message]) -> None:
    for message in messages:
        await ws.send(message)
        assert await ws.receive() == message


async def talk(ws: Adapter) -> None:
    await echoes(ws, MESSAGES)


async def talk_large(ws: Adapter) -> None:
    await echoes(ws, LARGE)


async def talk_compressed(ws: Adapter) -> None:
    assert ws.compressed
    await echoes(ws, [*MESSAGES, *LARGE, "again"])


async def talk_in_fragments(ws: Adapter) -> None:
    await ws.send_pieces(PIECES)
    assert await ws.receive() == "".join(PIECES)


async def agree_on_subprotocol(ws: Adapter) -> None:
    assert ws.subprotocol == SUBPROTOCOL


async def ping(ws: Adapter) -> None:
    await ws.ping()
    await ws.send("ping me")
    assert await ws.receive() == "answered"


async def close(ws: Adapter) -> None:
    await ws.close(4000, "done é")


async def be_closed(ws: Adapter) -> None:
    await ws.send("close")
    assert await ws.receive() is None
    assert await ws.closed() == (4001, "bye é")


SCENARIOS: dict[str, Callable[[Adapter], Awaitable[None]]] = {
    "messages": talk,
    "large": talk_large,
    "compression": talk_compressed,
    "fragments": talk_in_fragments,
    "subprotocol": agree_on_subprotocol,
    "ping": ping,
    "close": close,
    "closed": be_closed,
    "TLS": talk,
}


async def run_client(library: str, scenario: str, url: str, ca: str | None = None) -> None:
    connect, _ = LIBRARIES[library]()
    tls = ssl.create_default_context(cafile=ca) if ca else None
    subprotocols = ["other", SUBPROTOCOL] if scenario == "subprotocol" else []
    async with connect(url, subprotocols, tls) as ws:
        await SCENARIOS[scenario](ws)


# As a server


async def answer(ws: Adapter) -> None:
    while (message := await ws.receive()) is not None:
        if ws.path == "/ws/fragments":
            assert isinstance(message, str)
            await ws.send_pieces([message[:1], message[1:], ""])
        elif ws.path == "/ws/ping":
            await ws.ping()
            await ws.send("answered")
        elif ws.path == "/ws/closed":
            await ws.close(4001, "bye é")
            break
        else:
            await ws.send(message)
    code, reason = await ws.closed()
    print("closed", code, reason, flush=True)


async def run_server(library: str, certificate: str | None = None) -> None:
    _, serve = LIBRARIES[library]()
    assert serve is not None
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    async with serve(answer, tls) as port:
        print(port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    role, *arguments = sys.argv[1:]
    asyncio.run((run_client if role == "client" else run_server)(*arguments))
