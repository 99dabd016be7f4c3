"""serve(): listeners, the opening handshake, a handler for each connection, and shutting down."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Unpack

import anyio
from anyio.abc import ByteStream, Listener, TaskStatus

from creche.background import NEVER, Background, is_cancelled
from creche.exceptions import ConnectionClosedError, HandshakeError
from creche.handlers import user_part
from creche.link import Link
from creche.opening import Gate, OpenGate, answer
from creche.options import (
    ListenerOptions,
    ServerHandshakeOptions,
    ServerOptions,
    server_options,
)
from creche.protocol.closing import make_close
from creche.protocol.server_handshake import ServerHandshake, is_loopback, reject
from creche.protocol.states import Side
from creche.transports.base import Transport
from creche.transports.dialing import open_transport
from creche.transports.listening import (
    RareWarning,
    accept_loop,
    bind_tcp,
    bind_unix,
    close_listening,
    identity,
    listen_on,
    listener_address,
    listening_address,
    remove_unix,
)
from creche.transports.streams import StreamTransport, TrioStream
from creche.websocket import Handler, WebSocket

# While there are as many handshakes as may be, clients are accepted with so many seconds between
# them: then each has a time for its handshake before it is the oldest.
_CROWDED_PAUSE = 0.002

# A client that is refused because the server is full may come again after so many seconds.
_RETRY_AFTER = "10"


async def serve(
    handler: Handler,
    host: str | None = None,
    port: int = 0,
    *,
    task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve WebSockets over TCP until cancelled or shut down.

    `handler(ws)` runs for each connection, which is closed when it returns: with 1000, or with
    1011 and a line in the log if it raises. `await task_group.start(serve, ...)` gives the Server.

    Args:
        handler: a coroutine function that takes a WebSocket.
        host: a name or an address to listen on; None for every interface.
        port: the TCP port; 0 for a free one.
        options: see ServerOptions.

    Raises:
        TypeError, ValueError: an option is not what it should be; its name is in the text.
        OSError: an address cannot be listened on.
    """
    async with serving(handler, host, port, **options) as server:
        task_status.started(server)
        await server.wait_stopped()


@asynccontextmanager
async def serving(
    handler: Handler, host: str | None = None, port: int = 0, **options: Unpack[ServerOptions]
) -> AsyncIterator[Server]:
    """Serve WebSockets over TCP while the body runs, as an async context manager.

    Leaving it shuts the server down. Arguments and exceptions are those of serve().
    """
    settings = server_options(options)
    sockets = settings["sockets"]
    if sockets is None:
        sockets = await bind_tcp(
            host, port, backlog=settings["backlog"], reuse_port=settings["reuse_port"]
        )
    elif host is not None or port != 0:
        raise TypeError("sockets: host and port cannot be given beside bound sockets")
    else:
        listen_on(sockets, settings["backlog"])
    async with _running(handler, settings, sockets, host) as server:
        yield server


async def serve_unix(
    handler: Handler,
    path: str | os.PathLike[str],
    *,
    mode: int | None = None,
    task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve WebSockets on a Unix socket; otherwise as serve().

    Args:
        handler: a coroutine function that takes a WebSocket.
        path: where to listen; it is removed at the end.
        mode: the socket's permissions, such as 0o660; None for what the umask leaves.
        options: see ServerOptions.

    Raises:
        OSError: the path is taken, or cannot be made.
    """
    settings = server_options(options)
    sock = bind_unix(path, mode=mode, backlog=settings["backlog"])
    made = identity(path)
    try:
        async with _running(handler, settings, [sock], None) as server:
            task_status.started(server)
            await server.wait_stopped()
    finally:
        remove_unix(path, made)


async def serve_listener(
    handler: Handler,
    listener: Listener[ByteStream],
    *,
    task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
    **options: Unpack[ListenerOptions],
) -> None:
    """Serve WebSockets on any listener of AnyIO; otherwise as serve().

    Args:
        handler: a coroutine function that takes a WebSocket.
        listener: what accepts byte streams; it is closed at the end.
        options: see ListenerOptions.
    """
    settings = server_options(options)
    async with listener, _running(handler, settings, [], None) as server:
        server.add_listener(listener)
        task_status.started(server)
        await server.wait_stopped()


@asynccontextmanager
async def server_websocket(
    stream: ByteStream | TrioStream, **options: Unpack[ServerHandshakeOptions]
) -> AsyncIterator[WebSocket]:
    """Open a WebSocket as the server over a byte stream that is connected already.

    Args:
        stream: an anyio.abc.ByteStream or a trio.abc.Stream; it is closed at the end.
        options: see ServerHandshakeOptions.

    Raises:
        HandshakeError: the client did not ask for a WebSocket properly; it has been told.
        OSError: the stream broke.
        TimeoutError: the opening handshake took longer than `open_timeout`.
        TypeError, ValueError: an option is not what it should be; its name is in the text.
    """
    settings = server_options(options)
    _resolve_hosts(settings, ())
    async with Background() as background:
        ws = None
        with anyio.CancelScope(deadline=_deadline(settings)):
            ws = await _accept(StreamTransport(stream), background, settings, OpenGate())
        if ws is None:
            raise _timeout(settings)
        async with ws:
            yield ws


@dataclass
class ServerStats:
    """What a server has seen so far.

    Attributes:
        accepted: TCP connections.
        opened: opening handshakes that succeeded.
        refused: opening handshakes that did not.
        failed: handlers that raised.
    """

    accepted: int = 0
    opened: int = 0
    refused: int = 0
    failed: int = 0


class Server:
    """A running server.

    Attributes:
        addresses: where it listens: (host, port), or the path of a Unix socket.
        url: a URI to connect to the first of them.
        connections: the open WebSockets.
        draining: whether it has stopped accepting.
        stats: counts since it was started.
    """

    def __init__(
        self,
        handler: Handler,
        options: ServerOptions,
        background: Background,
        sockets: Sequence[socket.socket],
        host: str | None,
    ) -> None:
        self.addresses: list[Any] = [listening_address(sock) for sock in sockets]
        self.connections: set[WebSocket] = set()
        self.draining = False
        self.stats = ServerStats()
        self._handler = handler
        self._options = options
        self._logger = options["logger"]
        self._background = background
        self._sockets = list(sockets)
        self._host = host
        self._accepting: list[anyio.CancelScope] = []
        self._clients: set[_Client] = set()
        self._opening: dict[_Client, None] = {}  # those that shake hands, the oldest first
        self._admitted = 0
        self._warn = RareWarning(self._logger)
        self._links: set[Link] = set()
        self._idle = anyio.Event()
        self._stopped = anyio.Event()
        self._failure: OSError | None = None
        for sock in sockets:
            background.handlers.start_soon(self._accept_sockets, sock)

    @property
    def url(self) -> str:
        """A URI that connects to the first address; ws://localhost/ for a Unix socket."""
        scheme = "ws" if self._options["ssl"] is None else "wss"
        address = self.addresses[0] if self.addresses else None
        if not isinstance(address, tuple):
            return f"{scheme}://localhost/"
        host = self._host or "localhost"
        if host in ("0.0.0.0", "::"):
            host = "localhost"
        if ":" in host:
            host = f"[{host}]"
        return f"{scheme}://{host}:{address[1]}/"

    def __repr__(self) -> str:
        return f"<creche.Server {self.url} {len(self.connections)} connections>"

    # Stopping

    async def shutdown(self, code: int = 1001, reason: str = "", grace: float = 10) -> None:
        """Stop accepting, close every connection, and stop.

        Every peer is sent a close frame at once; handlers see the end of the stream. Opening
        handshakes under way are dropped. Handlers that are not done after `grace` seconds are
        cancelled; cancelling shutdown() cancels them now. A handler that calls it is one of those
        it waits for.

        Args:
            code: the close code to send.
            reason: at most 123 bytes of UTF-8.
            grace: seconds that the handlers have.

        Raises:
            ValueError, TypeError: as WebSocket.aclose; nothing has been closed then.
        """
        close = make_close(code, reason)
        try:
            with anyio.move_on_after(grace):
                self._stop_accepting()
                for client in list(self._opening):
                    client.scope.cancel()
                for link in list(self._links):
                    link.begin_close(close)
                await self._wait_idle()
        finally:
            try:
                await self._cancel_clients()
            finally:
                self._stopped.set()

    async def drain(self) -> None:
        """Stop accepting, keep what is open; stop when all connections have ended.

        Until then shutdown() may end it.
        """
        self._stop_accepting()
        await self._wait_idle()
        self._stopped.set()

    async def wait_stopped(self) -> None:
        """Return when the server has been shut down.

        Raises:
            OSError: a listening socket broke.
        """
        await self._stopped.wait()
        if self._failure is not None:
            raise self._failure

    def _stop_accepting(self) -> None:
        self.draining = True
        for scope in self._accepting:
            scope.cancel()
        for sock in self._sockets:
            close_listening(sock)
        self._sockets.clear()

    async def _wait_idle(self) -> None:
        while self._clients:
            self._idle = anyio.Event()
            await self._idle.wait()

    async def _cancel_clients(self) -> None:
        """Cancel every handler; each connection closes within its bound."""
        for client in list(self._clients):
            client.scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._wait_idle()

    async def stop_now(self) -> None:
        """Stop accepting and cancel everything."""
        try:
            self._stop_accepting()
            await self._cancel_clients()
        finally:
            for link in list(self._links):
                link.abort("the server was stopped")
            self._stopped.set()

    # Connections

    def add_listener(self, listener: Listener[ByteStream]) -> None:
        """Accept connections from a listener of AnyIO."""
        self.addresses.append(listener_address(listener))
        self._background.handlers.start_soon(self._accept_streams, listener)

    async def _accept_sockets(self, sock: socket.socket) -> None:
        await self._accept_with(accept_loop, sock, self._add_socket, self._logger)

    async def _accept_streams(self, listener: Listener[ByteStream]) -> None:
        await self._accept_with(listener.serve, self._serve_stream, self._background.handlers)

    async def _accept_with(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        with anyio.CancelScope() as scope:
            self._accepting.append(scope)
            try:
                await function(*args)
            except (OSError, anyio.ClosedResourceError) as exc:
                if not self.draining:
                    self._logger.error("accepting failed: %s", exc)
                    self._failure = OSError(f"accepting failed: {exc}")
                    self._stopped.set()

    def _add_socket(self, sock: socket.socket) -> float | None:
        async def open_socket() -> Transport:
            return await open_transport(sock, self._options["ssl"], server_side=True)

        self._background.handlers.start_soon(self._serve_client, open_socket)
        return _CROWDED_PAUSE if len(self._opening) == self._options["max_handshakes"] else None

    async def _serve_stream(self, stream: ByteStream) -> None:
        async def open_stream() -> Transport:
            return StreamTransport(stream)

        await self._serve_client(open_stream)

    async def _serve_client(self, open_transport_of: Callable[[], Awaitable[Transport]]) -> None:
        """All of one client's time here. It raises nothing."""
        self.stats.accepted += 1
        client = _Client(self)
        with client.scope:
            self._begin_opening(client)
            try:
                ws = await self._open(client, open_transport_of)
                self._opening.pop(client, None)
                if ws is not None:
                    await self._handle(ws)
            except Exception:
                self._logger.exception("a connection failed; please report it")
            except anyio.get_cancelled_exc_class():
                # The task ends here anyway. What got out of it would keep its frames in a cycle,
                # and on asyncio would cancel the server if nobody has cancelled this task: the
                # handler has awaited one that was cancelled elsewhere.
                if not is_cancelled():
                    self._logger.error("handler was cancelled from outside of its scopes")
            finally:
                self._opening.pop(client, None)
                self._clients.discard(client)
                self._admitted -= client.admitted
                if not self._clients:
                    self._idle.set()

    def _begin_opening(self, client: _Client) -> None:
        """One more handshake is under way; where there are too many, the oldest is dropped."""
        self._clients.add(client)
        self._opening[client] = None
        limit = self._options["max_handshakes"]
        if limit is not None and len(self._opening) > limit:
            oldest = next(iter(self._opening))
            del self._opening[oldest]
            oldest.scope.cancel()
            self.stats.refused += 1
            self._warn("more than max_handshakes=%d: the oldest are dropped", limit)

    async def _open(
        self, client: _Client, open_transport_of: Callable[[], Awaitable[Transport]]
    ) -> WebSocket | None:
        """The opening handshake; None if it failed."""
        try:
            transport = await open_transport_of()
            ws = await _accept(transport, self._background, self._options, client)
        except (OSError, HandshakeError) as exc:
            self._refused(exc)
            return None
        except anyio.get_cancelled_exc_class():
            if client.is_late():
                self._refused(_timeout(self._options))
            raise
        client.scope.deadline = NEVER
        self.stats.opened += 1
        return ws

    def _refused(self, exc: Exception) -> None:
        self.stats.refused += 1
        self._logger.debug("opening handshake failed: %s", exc)

    async def _handle(self, ws: WebSocket) -> None:
        link = ws._link
        self.connections.add(ws)
        self._links.add(link)
        logger = ws.logger
        logger.debug("connection open")
        try:
            async with ws:
                await self._handler(ws)
        except Exception as exc:
            if user_part(exc, link) is not None:
                self.stats.failed += 1
                logger.exception("handler raised; the connection is closed with 1011")
            elif isinstance(exc, ConnectionClosedError):
                logger.info("connection lost: %s", exc)
            else:
                logger.debug("handler met the end: %s", exc)
        finally:
            self.connections.discard(ws)
            self._links.discard(link)
        logger.debug("connection closed")


class _Client(Gate):
    """A client of a server, from its first byte to its last."""

    __slots__ = ("_server", "admitted", "scope")

    def __init__(self, server: Server) -> None:
        self.scope = anyio.CancelScope(deadline=_deadline(server._options))
        self.admitted = False
        self._server = server

    def is_late(self) -> bool:
        """Whether the time for the opening handshake is over."""
        return anyio.current_time() >= self.scope.deadline

    def check_open(self) -> None:
        if self._server.draining:
            raise reject(503, "the server is shutting down")

    def admit(self) -> None:
        server = self._server
        limit = server._options["max_connections"]
        if limit is not None and server._admitted >= limit:
            server._warn("more than max_connections=%d: clients are refused", limit)
            raise reject(503, "the server is full", [("Retry-After", _RETRY_AFTER)])
        server._admitted += 1
        self.admitted = True


@asynccontextmanager
async def _running(
    handler: Handler,
    options: ServerOptions,
    sockets: Sequence[socket.socket],
    host: str | None,
) -> AsyncIterator[Server]:
    """A server that runs while the body does."""
    try:
        if not callable(handler):
            raise TypeError(f"handler must be callable, not {type(handler).__name__}")
        _resolve_hosts(options, sockets)
        async with Background(options["max_buffered_bytes"], polling=True) as background:
            server = Server(handler, options, background, sockets, host)
            try:
                yield server
                await server.shutdown()
            finally:
                await server.stop_now()
    finally:
        for sock in sockets:
            sock.close()


def _resolve_hosts(options: ServerHandshakeOptions, sockets: Sequence[socket.socket]) -> None:
    """Decide what hosts="auto" means: "loopback" where a server listens there and nowhere else."""
    if options["hosts"] != "auto":
        return
    addresses = [listening_address(sock) for sock in sockets]
    on_loopback = bool(addresses) and all(
        isinstance(address, tuple) and is_loopback(address[0]) for address in addresses
    )
    options["hosts"] = "loopback" if on_loopback else None


async def _accept(
    transport: Transport,
    background: Background,
    options: ServerHandshakeOptions,
    gate: Gate,
) -> WebSocket:
    """The opening handshake on a new transport, which is closed if it fails."""
    try:
        handshake = ServerHandshake(
            origins=options["origins"],
            subprotocols=options["subprotocols"],
            select_subprotocol=options["select_subprotocol"],
            extensions=options["extensions"],
            hosts=options["hosts"],
            max_header_bytes=options["max_header_bytes"],
        )
        request, response = await answer(transport, handshake, options, gate)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await transport.aclose_forcefully()
        raise
    return WebSocket(
        transport,
        background,
        Side.SERVER,
        options,
        request=request,
        response=response,
        subprotocol=handshake.subprotocol,
        extensions=handshake.extensions,
        early_data=handshake.trailing_data,
    )


def _deadline(options: ServerHandshakeOptions) -> float:
    """When an opening handshake that begins now must be over."""
    seconds = options["open_timeout"]
    return NEVER if seconds is None else anyio.current_time() + seconds


def _timeout(options: ServerHandshakeOptions) -> TimeoutError:
    return TimeoutError(f"the opening handshake took over {options['open_timeout']:g} s")
