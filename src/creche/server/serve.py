"""The ways to start a server: serve() and its kin."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Unpack

import anyio
from anyio.abc import ByteStream, Listener, TaskStatus

from creche.connection.opening import OpenGate
from creche.connection.websocket import Handler, WebSocket
from creche.engine.background import Background
from creche.handshake.addresses import check_listening, check_mode, check_unix_path
from creche.handshake.server import is_loopback
from creche.options.declared import ListenerOptions, ServerHandshakeOptions, ServerOptions
from creche.options.resolving import server_options
from creche.server.deciding import DecidingHandler
from creche.server.server import Server
from creche.server.visitor import accept, deadline, out_of_time
from creche.transports.listening import (
    UnixPath,
    bind_tcp,
    bind_unix,
    listen_on,
    listening_address,
)
from creche.transports.streams import StreamTransport, TrioStream


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
        with anyio.CancelScope(deadline=deadline(settings, anyio.current_time())):
            ws = await accept(StreamTransport(stream), background, settings, OpenGate())
        if ws is None:
            raise out_of_time(settings)
        async with ws:
            yield ws


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
