"""The ways to start a server: serve() and its kin."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Unpack

import anyio
from anyio.abc import ByteStream, Listener, TaskStatus

from creche.connection.callables import check_handler
from creche.connection.pending import Pending, PendingConnection
from creche.connection.websocket import Handler, WebSocket
from creche.engine.current import current_engine
from creche.engine.engine import Account
from creche.engine.patience import PatientScope
from creche.handshake.addresses import check_listening, check_mode, check_unix_path
from creche.handshake.server import is_loopback
from creche.options.declared import ListenerOptions, ServerHandshakeOptions, ServerOptions
from creche.options.resolving import server_options
from creche.server.deciding import DecidingHandler
from creche.server.entered import NotEntered
from creche.server.host import Host
from creche.server.server import Server
from creche.server.single import SingleClient
from creche.server.visitor import out_of_time
from creche.transports.listening import (
    UnixPath,
    bind_tcp,
    bind_unix,
    listen_on,
    listening_address,
)
from creche.transports.streams import TrioStream


def serve(
    handler: Handler | DecidingHandler,
    host: str | None = None,
    port: int = 0,
    *,
    task_status: TaskStatus[Server] = anyio.TASK_STATUS_IGNORED,
    **options: Unpack[ServerOptions],
) -> Coroutine[Any, Any, None]:
    """Serve WebSockets over TCP until cancelled or shut down, as a coroutine.

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
    _check_handler(handler)
    settings = server_options(options)

    async def serve() -> None:
        sockets = await _listen(host, port, settings)
        await _run(handler, settings, sockets, host, task_status.started)

    return NotEntered(
        serve(),
        "serve() is awaited, and runs until it is cancelled: to run a server beside a block, say "
        "'async with creche.serving(...)'",
    )


class serving(Pending[Server]):
    """Serve WebSockets over TCP while the body runs, as an async context manager.

    It gives the Server. Leaving it shuts the server down, in whatever task of the event loop.
    Handlers see the context in which it was entered. What ends the server meanwhile, such as
    SystemExit in a handler, is raised when it is left. Arguments and exceptions are those of
    serve().
    """

    _taken = "this server runs already"
    _host: Host

    def __init__(
        self,
        handler: Handler | DecidingHandler,
        host: str | None = None,
        port: int = 0,
        **options: Unpack[ServerOptions],
    ) -> None:
        _check_handler(handler)
        self._handler = handler
        self._where = host, port
        self._options = server_options(options)

    if not TYPE_CHECKING:  # who finds these mistakes alone

        def __await__(self) -> NoReturn:
            raise TypeError("serving() is entered by 'async with'; what is awaited is serve()")

        def __aiter__(self) -> NoReturn:
            raise TypeError("serving() is entered by 'async with'")

    async def _open(self) -> Server:
        name, port = self._where
        sockets = await _listen(name, port, self._options)
        self._host = Host()
        return await self._host.start(
            lambda started: _run(self._handler, self._options, sockets, name, started)
        )

    async def _close(self, _opened: Server, exc: BaseException | None) -> None:
        await self._host.leave(exc)


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
            await _run(handler, settings, [sock], None, task_status.started)
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

    def started(server: Server) -> None:
        server.add_listener(listener)
        task_status.started(server)

    async with listener:
        await _run(handler, settings, [], None, started)


class server_websocket(PendingConnection):
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

    def __init__(
        self, stream: ByteStream | TrioStream, **options: Unpack[ServerHandshakeOptions]
    ) -> None:
        self._stream = stream
        self._settings = server_options(options)
        _resolve_hosts(self._settings, ())

    async def _open(self) -> WebSocket:
        settings = self._settings
        engine = current_engine()
        with PatientScope(engine, settings["open_timeout"]):
            return await SingleClient(self._stream, engine.clients, settings).open()
        raise out_of_time(settings)


async def _listen(host: str | None, port: int, options: ServerOptions) -> list[socket.socket]:
    """The sockets to accept from, by the options."""
    check_listening(host, port)
    sockets = options["sockets"]
    if sockets is None:
        return await bind_tcp(
            host,
            port,
            backlog=options["backlog"],
            reuse_port=options["reuse_port"],
            logger=options["logger"],
        )
    if host is not None or port != 0:
        raise TypeError("sockets: host and port cannot be given beside bound sockets")
    listen_on(sockets, options["backlog"])
    return list(sockets)


async def _run(
    handler: Handler | DecidingHandler,
    options: ServerOptions,
    sockets: Sequence[socket.socket],
    host: str | None,
    started: Callable[[Server], None],
) -> None:
    """Serve until cancelled or shut down; the handlers are children of this task.

    Args:
        started: is called with the Server when it accepts.
    """
    error: Exception | None = None
    try:
        _resolve_hosts(options, sockets)
        account = Account(current_engine(), options["max_buffered_bytes"])
        async with anyio.create_task_group() as tasks:
            server = Server(handler, options, account, tasks, sockets, host)
            try:
                started(server)
                await server.wait_stopped()
                await server.shutdown()
            except Exception as exc:
                error = exc  # the group would put it into another one
            finally:
                await server.stop_now()
    except anyio.get_cancelled_exc_class():
        if error is None:  # pragma: no branch - what has failed wins over a cancellation
            raise
    finally:
        for sock in sockets:
            sock.close()
    try:
        if error is not None:
            raise error
    finally:
        del error  # a frame that keeps what it raises keeps itself


def _check_handler(handler: object) -> None:
    if not isinstance(handler, DecidingHandler):
        check_handler(handler, "the WebSocket")


def _resolve_hosts(options: ServerHandshakeOptions, sockets: Sequence[socket.socket]) -> None:
    """Decide what hosts="auto" means: "loopback" where a server listens there and nowhere else."""
    if options["hosts"] != "auto":
        return
    addresses = [listening_address(sock) for sock in sockets]
    on_loopback = bool(addresses) and all(
        isinstance(address, tuple) and is_loopback(address[0]) for address in addresses
    )
    options["hosts"] = "loopback" if on_loopback else None
