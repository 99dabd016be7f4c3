"""serve(): listeners, the opening handshake, a handler for each connection, and shutting down."""

from __future__ import annotations

import logging
import os
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Unpack

import anyio
from anyio import TaskHandle
from anyio.abc import ByteStream, Listener, TaskStatus

from creche.connection.handlers import user_part
from creche.connection.link import Link
from creche.connection.opening import Answering, Gate, OpenGate, find_peer
from creche.connection.tracing import call_trace
from creche.connection.websocket import Handler, WebSocket
from creche.engine.background import Background, is_cancelled
from creche.engine.deadlines import NEVER, Timer
from creche.exceptions import ConnectionClosedError, HandshakeError
from creche.handshake.addresses import check_listening, check_mode, check_unix_path
from creche.handshake.exceptions import Rejection
from creche.handshake.forwarding import client_key
from creche.handshake.headers import HeadersLike
from creche.handshake.http import Request, Response
from creche.handshake.server import (
    OURS,
    ServerHandshake,
    is_loopback,
    is_on_loopback,
    reject,
)
from creche.options import (
    ListenerOptions,
    ServerHandshakeOptions,
    ServerOptions,
    check_delay,
    server_options,
)
from creche.protocol.closing import ABNORMAL, Close, make_close
from creche.protocol.states import Side
from creche.server.deciding import Decider, DecidingHandler, PendingRequest
from creche.server.limits import ClientLimits
from creche.transports.base import Transport
from creche.transports.dialing import open_transport
from creche.transports.listening import (
    RareWarning,
    UnixPath,
    accept_loop,
    accept_streams,
    bind_tcp,
    bind_unix,
    close_listening,
    listen_on,
    listener_address,
    listening_address,
)
from creche.transports.streams import StreamTransport, TrioStream

# While there are as many handshakes as may be, clients are accepted with so many seconds between
# them: then each has a time for its handshake before it is the oldest.
_CROWDED_PAUSE = 0.002

# Close frames that are spread over a time are sent together where less is between them.
_SHORTEST_PAUSE = 0.001

# The part of max_lifetime that chance takes off.
_LIFETIME_JITTER = 0.1

# A client that is refused because the server is full may come again after so many seconds.
_RETRY_AFTER = "10"


async def serve(
    handler: Handler | DecidingHandler,
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
        handler: a coroutine function that takes a WebSocket, or what deciding() makes of one that
            takes the request.
        host: a name or an address to listen on; None for every interface. Of several addresses
            of a name those are passed over that this machine does not have.
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
    handler: Handler | DecidingHandler,
    host: str | None = None,
    port: int = 0,
    **options: Unpack[ServerOptions],
) -> AsyncIterator[Server]:
    """Serve WebSockets over TCP while the body runs, as an async context manager.

    Leaving it shuts the server down. Arguments and exceptions are those of serve().
    """
    _check_handler(handler)
    settings = server_options(options)
    check_listening(host, port)
    sockets = settings["sockets"]
    if sockets is None:
        sockets = await bind_tcp(
            host,
            port,
            backlog=settings["backlog"],
            reuse_port=settings["reuse_port"],
            logger=settings["logger"],
        )
    elif host is not None or port != 0:
        raise TypeError("sockets: host and port cannot be given beside bound sockets")
    else:
        listen_on(sockets, settings["backlog"])
    async with _running(handler, settings, sockets, host) as server:
        yield server


async def serve_unix(
    handler: Handler | DecidingHandler,
    path: str | os.PathLike[str],
    *,
    mode: int | None = None,
    task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve WebSockets on a Unix socket; otherwise as serve().

    Args:
        handler: a coroutine function that takes a WebSocket, or what deciding() makes of one that
            takes the request.
        path: where to listen; it is removed at the end, if this process still may do so then.
        mode: the socket's permissions, such as 0o660; None for what the umask leaves.
        options: see ServerOptions.

    Raises:
        OSError: the path is taken, or cannot be made.
    """
    _check_handler(handler)
    check_unix_path(path, listening=True)
    if mode is not None:
        check_mode(mode)
    settings = server_options(options)
    with bind_unix(path, mode=mode, backlog=settings["backlog"]) as sock:
        made = UnixPath(path)
        try:
            async with _running(handler, settings, [sock], None) as server:
                task_status.started(server)
                await server.wait_stopped()
        finally:
            made.remove(settings["logger"])


async def serve_listener(
    handler: Handler | DecidingHandler,
    listener: Listener[ByteStream],
    *,
    task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
    **options: Unpack[ListenerOptions],
) -> None:
    """Serve WebSockets on any listener of AnyIO; otherwise as serve().

    Args:
        handler: a coroutine function that takes a WebSocket, or what deciding() makes of one that
            takes the request.
        listener: what accepts byte streams; it is closed at the end.
        options: see ListenerOptions.
    """
    _check_handler(handler)
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
        with anyio.CancelScope(deadline=_deadline(settings, anyio.current_time())):
            ws = await _accept(StreamTransport(stream), background, settings, OpenGate())
        if ws is None:
            raise _timeout(settings)
        async with ws:
            yield ws


@dataclass(frozen=True)
class ServerStats:
    """What a server has and has seen, at one moment.

    Attributes:
        open: open connections.
        handshakes: opening handshakes in progress.
        accepted: TCP connections since the start; so are all that follow.
        opened: opening handshakes that succeeded.
        refused: opening handshakes that did not.
        refused_by_status: how many of those were answered with which status.
        closed_by_code: how many connections have ended with which close code.
        failed: handlers that raised.
        messages_received: messages that arrived whole.
        messages_sent: messages that were committed.
        bytes_received: bytes of frames.
        bytes_sent: bytes of frames that the kernel has taken.
        skipped: messages that a broadcast did not send to a slow connection.
        buffered: bytes that connections keep now, received and to be sent. Those with less than
            4 KiB are not counted; a payload that waits for many is counted once.
    """

    open: int = 0
    handshakes: int = 0
    accepted: int = 0
    opened: int = 0
    refused: int = 0
    refused_by_status: Mapping[int, int] = field(default_factory=dict)
    closed_by_code: Mapping[int, int] = field(default_factory=dict)
    failed: int = 0
    messages_received: int = 0
    messages_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    skipped: int = 0
    buffered: int = 0


class Server:
    """A running server.

    Attributes:
        addresses: where it listens: (host, port), or the path of a Unix socket.
        url: a URI to connect to the first of them.
        connections: the open WebSockets.
        draining: whether it has stopped accepting.
    """

    def __init__(
        self,
        handler: Handler | DecidingHandler,
        options: ServerOptions,
        background: Background,
        sockets: Sequence[socket.socket],
        host: str | None,
    ) -> None:
        self.addresses: list[Any] = [listening_address(sock) for sock in sockets]
        self.connections: set[WebSocket] = set()
        self.draining = False
        self._accepted = 0
        self._opened = 0
        self._refusals = 0
        self._failed = 0
        self._statuses: Counter[int] = Counter()
        self._codes: Counter[int] = Counter()
        self._limits = ClientLimits(
            options["max_connections_per_client"], options["handshake_rate"]
        )
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
        """A URI that connects to the first address, by the host that was given where clients may
        ask for it; ws://localhost/ for a Unix socket."""
        scheme = "ws" if self._options["ssl"] is None else "wss"
        address = self.addresses[0] if self.addresses else None
        if not isinstance(address, tuple):
            return f"{scheme}://localhost/"
        host = self._host_for_clients(address[0])
        if ":" in host:
            host = f"[{host.replace('%', '%25')}]"  # RFC 6874 2
        return f"{scheme}://{host}:{address[1]}/"

    def _host_for_clients(self, address: str) -> str:
        """The host by which clients reach what listens at this address, and may ask for it."""
        everywhere = address in ("0.0.0.0", "::")
        if everywhere or not self._host:
            if not (everywhere or is_loopback(address)):
                return address
            # localhost may be an address of IPv4 alone.
            with_ipv4 = any("." in each[0] for each in self.addresses if isinstance(each, tuple))
            return "localhost" if with_ipv4 else "::1"
        # The resolver knows other names and numbers of loopback than we, such as "127.1".
        name = self._host.lower().rstrip(".")
        refused = self._options["hosts"] == "loopback" and not is_on_loopback(name)
        return address if refused else self._host

    @property
    def stats(self) -> ServerStats:
        """Counts, for a monitor; it costs the same however many connections there are."""
        traffic = self._background.traffic
        return ServerStats(
            open=len(self.connections),
            handshakes=len(self._opening),
            accepted=self._accepted,
            opened=self._opened,
            refused=self._refusals,
            refused_by_status=dict(self._statuses),
            closed_by_code=dict(self._codes),
            failed=self._failed,
            messages_received=traffic.messages_received,
            messages_sent=traffic.messages_sent,
            bytes_received=traffic.bytes_received,
            bytes_sent=traffic.bytes_sent,
            skipped=traffic.skipped,
            buffered=self._background.buffers.total,
        )

    def __repr__(self) -> str:
        return f"<creche.Server {self.url} {len(self.connections)} connections>"

    # Stopping

    async def shutdown(
        self, code: int = 1001, reason: str = "", grace: float = 10, spread: float = 0
    ) -> None:
        """Stop accepting, close every connection, and stop.

        Every peer is sent a close frame, at once or one after the other; handlers see the end of
        the stream. Opening handshakes under way are dropped. Handlers that are not done after
        `grace` seconds are cancelled; cancelling shutdown() cancels them now. A handler that calls
        it is one of those
        it waits for.

        Args:
            code: the close code to send.
            reason: at most 123 bytes of UTF-8.
            grace: seconds that the handlers have, after the last close frame.
            spread: seconds over which the close frames are spread, so that not all clients connect
                elsewhere at once.

        Raises:
            ValueError, TypeError: an argument is not what it should be; nothing has been closed
                then.
        """
        close = make_close(code, reason)
        check_delay("grace", grace)
        check_delay("spread", spread)
        try:
            self._stop_accepting()
            for client in list(self._opening):
                client.cancel()
            links = list(self._links)
            start = anyio.current_time()
            for number, link in enumerate(links):
                pause = start + spread * number / len(links) - anyio.current_time()
                if pause >= _SHORTEST_PAUSE:
                    await anyio.sleep(pause)
                if link in self._links:
                    link.begin_close(close)
            with anyio.move_on_after(grace):
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
            client.cancel()
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
        await self._accept_with(
            accept_streams, listener, self._serve_stream, self._background.handlers, self._logger
        )

    async def _accept_with(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        with anyio.CancelScope() as scope:
            self._accepting.append(scope)
            try:
                await function(*args)
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as exc:
                if not self.draining:
                    why = str(exc) or type(exc).__name__
                    self._logger.error("accepting failed: %s", why)
                    self._failure = OSError(f"accepting failed: {why}")
                    self._stopped.set()

    def _add_socket(self, sock: socket.socket, peer: Any) -> float | None:
        client = _Client(self)
        client.peer = peer
        try:
            self._begin_opening(client)
            client.task = self._background.handlers.start_soon(self._serve_client, client, sock)
        except BaseException:
            # KeyboardInterrupt may strike here: nobody must wait for a task that is none.
            self._forget(client)
            sock.close()
            raise
        return _CROWDED_PAUSE if len(self._opening) == self._options["max_handshakes"] else None

    async def _serve_stream(self, stream: ByteStream) -> None:
        client = _Client(self)
        with anyio.CancelScope() as client.task:
            self._begin_opening(client)
            await self._serve_client(client, stream)

    def _begin_opening(self, client: _Client) -> None:
        """One more handshake is under way; where there are too many, the oldest is dropped."""
        self._accepted += 1
        self._clients.add(client)
        self._opening[client] = None
        limit = self._options["max_handshakes"]
        if limit is not None and len(self._opening) > limit:
            oldest = next(iter(self._opening))
            del self._opening[oldest]
            oldest.cancel()
            self._refusals += 1
            self._warn("more than max_handshakes=%d: the oldest are dropped", limit)

    def _forget(self, client: _Client) -> None:
        """A client has gone."""
        self._opening.pop(client, None)
        self._clients.discard(client)
        client.dismiss()
        if not self._clients:
            self._idle.set()

    async def _serve_client(self, client: _Client, accepted: socket.socket | ByteStream) -> None:
        """All of one client's time here. It raises nothing.

        Every coroutine that waits takes a quarter of a KiB: most of it is in this one.
        """
        self._tell("connection.open.started")
        try:
            if isinstance(self._handler, DecidingHandler):
                await _Decider(self, client).serve(accepted, self._handler)
                return
            ws = await self._open(client, accepted)
            if ws is None:
                return
            lifetime = self._begin(ws)
            try:
                async with ws:
                    await self._handler(ws)
            except Exception as exc:
                self._note_end(ws, exc)
            finally:
                self._end(ws, lifetime)
        except Exception:
            self._logger.exception("a connection failed; please report it")
        except anyio.get_cancelled_exc_class():
            # The task ends here anyway. What got out of it would keep its frames in a cycle, and on
            # asyncio would cancel the server if nobody has cancelled this task: the handler has
            # awaited one that was cancelled elsewhere.
            if not is_cancelled():
                self._logger.error("handler was cancelled from outside of its scopes")
        finally:
            self._forget(client)

    async def _open(
        self, client: _Client, accepted: socket.socket | ByteStream
    ) -> WebSocket | None:
        """The opening handshake; None if it failed."""
        try:
            transport = await self._open_transport(client, accepted)
            ws = await _accept(transport, self._background, self._options, client)
        except (OSError, HandshakeError) as exc:
            self._refused(exc)
            return None
        except anyio.get_cancelled_exc_class():
            if client.late:
                self._refused(_timeout(self._options))
            raise
        self._has_opened(client)
        return ws

    async def _open_transport(
        self, client: _Client, accepted: socket.socket | ByteStream
    ) -> Transport:
        if isinstance(accepted, socket.socket):
            peer, client.peer = client.peer, None  # the transport keeps it
            return await open_transport(accepted, self._options["ssl"], server_side=True, peer=peer)
        return StreamTransport(accepted)

    def _has_opened(self, client: _Client) -> None:
        client.timer.cancel()
        self._opening.pop(client, None)
        self._opened += 1

    def _refused(self, exc: Exception) -> None:
        self._refusals += 1
        if isinstance(exc, Rejection):
            self._statuses[exc.response.status] += 1
        self._logger.debug("opening handshake failed: %s", exc)
        self._tell("connection.open.failed", exception=exc)

    def _tell(self, event: str, **info: Any) -> None:
        call_trace(self._options["trace"], self._logger, event, **info)

    def _begin(self, ws: WebSocket) -> Timer | None:
        """A connection is open; returns the timer of its life, if that is limited."""
        self.connections.add(ws)
        self._links.add(ws._link)
        self._log(ws, logging.DEBUG, "connection open")
        self._tell("connection.open.complete", websocket=ws)
        seconds = self._options["max_lifetime"]
        if seconds is None:
            return None
        # Those that came together need not come back together.
        seconds *= 1 - _LIFETIME_JITTER * random.random()
        return self._background.schedule(_Lifetime(ws._link), anyio.current_time() + seconds)

    def _note_end(self, ws: WebSocket, exc: Exception) -> None:
        """What the handler has raised."""
        if user_part(exc, ws._link) is not None:
            self._failed += 1
            ws.logger.error("handler raised; the connection is closed with 1011", exc_info=exc)
        elif isinstance(exc, ConnectionClosedError):
            self._log(ws, logging.INFO, "connection lost: %s", exc)
        else:
            self._log(ws, logging.DEBUG, "handler met the end: %s", exc)

    def _end(self, ws: WebSocket, lifetime: Timer | None) -> None:
        """The handler has ended, and with it the connection."""
        self.connections.discard(ws)
        self._links.discard(ws._link)
        self._codes[ws.close_code or ABNORMAL] += 1
        if lifetime is not None:
            lifetime.cancel()
        self._log(ws, logging.DEBUG, "connection closed")

    def _log(self, ws: WebSocket, level: int, message: str, *args: object) -> None:
        """With the connection's name, which is made only where somebody wants to know it."""
        if self._logger.isEnabledFor(level):
            ws.logger.log(level, message, *args)


class _Decider(Decider):
    """Carries out what a deciding() handler decides about one client."""

    def __init__(self, server: Server, client: _Client) -> None:
        self._server = server
        self._client = client
        self._decided = False
        self._ws: WebSocket | None = None
        self._lifetime: Timer | None = None

    async def serve(self, accepted: socket.socket | ByteStream, handler: DecidingHandler) -> None:
        server = self._server
        try:
            self._transport = await server._open_transport(self._client, accepted)
            try:
                self._handshake = _handshake(server._options)
                self._answering = Answering(
                    self._transport, self._handshake, server._options, self._client
                )
                await self._run(handler, PendingRequest(await self._answering.read_request(), self))
            finally:
                if self._ws is None:
                    with anyio.CancelScope(shield=True):
                        await self._transport.aclose_forcefully()
        except (OSError, HandshakeError) as exc:
            server._refused(exc)
        except anyio.get_cancelled_exc_class():
            if self._ws is None and self._client.late:
                server._refused(_timeout(server._options))
            raise

    async def _run(self, handler: DecidingHandler, request: PendingRequest) -> None:
        server = self._server
        error: Exception | None = None
        try:
            await handler.function(request)
        except BaseException as exc:
            if self._ws is not None:
                await self._ws.__aexit__(type(exc), exc, None)
            if not isinstance(exc, Exception):
                raise
            error = exc
        else:
            if self._ws is not None:
                await self._ws.__aexit__(None, None, None)
        finally:
            if self._ws is not None:
                server._end(self._ws, self._lifetime)
        try:
            if self._ws is not None:
                if error is not None:
                    server._note_end(self._ws, error)
            elif self._decided and isinstance(error, OSError | HandshakeError):
                raise error
            elif error is not None or not self._decided:
                server._logger.error("handler did not decide about a request", exc_info=error)
                if not self._decided:
                    refusal = reject(500, "the server failed to decide about the request")
                    await self.reject(refusal.response)
                server._failed += error is not None
        finally:
            del error  # a frame that keeps what it raises keeps itself

    async def accept(
        self, request: Request, subprotocol: str | None, headers: HeadersLike
    ) -> WebSocket:
        self._decided = True
        server, answering = self._server, self._answering
        chosen = await answering.choose_subprotocol(request)
        response = await answering.accept(
            request, chosen if subprotocol is OURS else subprotocol, headers
        )
        self._ws = _new_websocket(
            self._transport,
            server._background,
            server._options,
            self._handshake,
            request,
            response,
        )
        server._has_opened(self._client)
        self._lifetime = server._begin(self._ws)
        return self._ws

    async def reject(self, response: Response) -> None:
        self._decided = True
        await self._answering.refuse(response)
        self._server._refused(Rejection(response))


class _Lifetime:
    """The deadline by which a connection is closed, however well it is."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def timeout_due(self, _now: float) -> float:
        self._link.begin_close(Close(1001, "max_lifetime"))
        return NEVER


class _Client(Gate):
    """A client of a server, from its first byte to its last.

    Attributes:
        task: what serves it.
        peer: its address as accept() has told it, until there is a transport.
        timer: the deadline of the opening handshake.
        late: whether that is over.
        admitted: whether it counts among the connections.
    """

    __slots__ = ("_client", "_server", "admitted", "late", "peer", "task", "timer")

    def __init__(self, server: Server) -> None:
        self.task: TaskHandle[None] | anyio.CancelScope | None = None
        self.peer: Any = None
        self.late = False
        self.admitted = False
        self._client: str | None = None  # what counts as one client
        self._server = server
        background = server._background
        self.timer = background.schedule(self, _deadline(server._options, background.now()))

    def cancel(self) -> None:
        """Cancel its task."""
        assert self.task is not None  # from the turn on in which the client came
        self.task.cancel()

    def timeout_due(self, _now: float) -> float:
        """The time for its handshake is over."""
        self.late = True
        self.cancel()
        return NEVER

    def check_open(self, request: Request) -> None:
        server = self._server
        if server.draining:
            raise reject(503, "the server is shutting down")
        options = server._options
        if options["handshake_rate"] is None and options["max_connections_per_client"] is None:
            return
        self._client = client_key(find_peer(request), request.headers, options["trusted_proxies"])
        if self._client is not None:
            seconds = server._limits.handshake(self._client, anyio.current_time())
            if seconds:
                raise reject(429, "you ask too often", [("Retry-After", f"{seconds:.0f}")])

    def admit(self) -> None:
        server = self._server
        limit = server._options["max_connections"]
        if limit is not None and server._admitted >= limit:
            server._warn("more than max_connections=%d: clients are refused", limit)
            raise reject(503, "the server is full", [("Retry-After", _RETRY_AFTER)])
        if self._client is not None and not server._limits.connect(self._client):
            raise reject(429, "you have too many connections", [("Retry-After", _RETRY_AFTER)])
        server._admitted += 1
        self.admitted = True

    def dismiss(self) -> None:
        """It has gone."""
        self.timer.cancel()
        if self.admitted:
            self._server._admitted -= 1
            if self._client is not None:
                self._server._limits.disconnect(self._client)


@asynccontextmanager
async def _running(
    handler: Handler | DecidingHandler,
    options: ServerOptions,
    sockets: Sequence[socket.socket],
    host: str | None,
) -> AsyncIterator[Server]:
    """A server that runs while the body does."""
    try:
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


def _check_handler(handler: object) -> None:
    if not callable(handler) and not isinstance(handler, DecidingHandler):
        raise TypeError(f"handler must be callable, not {type(handler).__name__}")


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
        handshake = _handshake(options)
        answering = Answering(transport, handshake, options, gate)
        request = await answering.read_request()
        subprotocol = await answering.choose_subprotocol(request)
        response = await answering.accept(request, subprotocol)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await transport.aclose_forcefully()
        raise
    return _new_websocket(transport, background, options, handshake, request, response)


def _handshake(options: ServerHandshakeOptions) -> ServerHandshake:
    return ServerHandshake(
        origins=options["origins"],
        subprotocols=options["subprotocols"],
        extensions=options["extensions"],
        hosts=options["hosts"],
        max_header_bytes=options["max_header_bytes"],
    )


def _new_websocket(
    transport: Transport,
    background: Background,
    options: ServerHandshakeOptions,
    handshake: ServerHandshake,
    request: Request,
    response: Response,
) -> WebSocket:
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


def _deadline(options: ServerHandshakeOptions, now: float) -> float:
    """When an opening handshake that begins now must be over."""
    seconds = options["open_timeout"]
    return NEVER if seconds is None else now + seconds


def _timeout(options: ServerHandshakeOptions) -> TimeoutError:
    return TimeoutError(f"the opening handshake took over {options['open_timeout']:g} s")
