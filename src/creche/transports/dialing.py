"""Connecting: TCP by happy eyeballs (RFC 8305), Unix sockets, and TLS on top of either."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import anyio
from anyio.streams.tls import TLSStream

from creche.engine.current import current_engine
from creche.engine.engine import Event
from creche.handshake.start_lines import (
    JUDGED_BYTES,
    may_be_request_line,
    may_be_status_line,
    recognize,
    show,
)
from creche.transports.base import READ_SIZE, Transport
from creche.transports.callback_sockets import CallbackSocketTransport
from creche.transports.resolving import Address, resolve, socket_address
from creche.transports.sockets import SocketTransport, named_error, retry, shown_path
from creche.transports.streams import StreamTransport, TransportStream, as_os_error, underlying
from creche.transports.tls import TLSSocket

_REASON = "WRONG_VERSION_NUMBER"

# The next address is tried after so long, or when the last one has failed (RFC 8305 5).
ATTEMPT_DELAY = 0.25

# A Unix socket that has no room for another client is asked again after so long.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05


async def dial_tcp(
    host: str, port: int, *, local_address: str | None = None, attempt_delay: float = ATTEMPT_DELAY
) -> socket.socket:
    """Connect to the first address of `host` that answers.

    Args:
        host: a name or an address.
        port: the TCP port.
        local_address: the address to connect from.
        attempt_delay: seconds after which the next address is tried, too.

    Raises:
        OSError: the name cannot be resolved, or no address answers; it names the host.
    """
    addresses = interleave(await resolve(host, port))
    what = f"cannot connect to {host} port {port}"
    if len(addresses) == 1:
        try:
            return await _connect(*addresses[0], local_address)
        except OSError as exc:
            raise named_error(exc, what) from None
    engine = current_engine()
    winner: socket.socket | None = None
    errors: list[OSError] = []

    async def attempt(family: int, address: Any, failed: Event) -> None:
        nonlocal winner
        try:
            sock = await _connect(family, address, local_address)
        except OSError as exc:
            errors.append(named_error(exc, what))
            failed.set()
            return
        if winner is None:
            winner = sock
            tg.cancel_scope.cancel()
        else:
            sock.close()

    try:
        async with anyio.create_task_group() as tg:
            for family, address in addresses:
                failed = engine.new_event()
                tg.start_soon(attempt, family, address, failed)
                with anyio.move_on_after(attempt_delay):
                    await failed.wait()
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    if winner is None:
        error, *others = errors
        error.__cause__ = ExceptionGroup("every address failed", others)
        errors.clear()
        try:
            raise error
        finally:
            del error  # a frame that keeps what it raises keeps itself
    return winner


def interleave(addresses: Sequence[Address]) -> list[Address]:
    """Put the families in turn, the resolver's first one first (RFC 8305 4)."""
    first = addresses[0][0]
    ours = [address for address in addresses if address[0] == first]
    others = [address for address in addresses if address[0] != first]
    turns = []
    while ours or others:
        turns += ours[:1] + others[:1]
        ours, others = ours[1:], others[1:]
    return turns


async def _connect(family: int, address: Any, local_address: str | None) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if local_address is not None:
            sock.bind(socket_address((local_address, 0)))
        try:
            sock.connect(address)
        except (BlockingIOError, InterruptedError) as exc:
            # Linux has no port left for it, or no room: nothing is under way that could be awaited.
            if exc.errno == errno.EAGAIN:
                raise
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code)) from None
    except BaseException:
        sock.close()
        raise
    return sock


async def dial_unix(path: str | os.PathLike[str]) -> socket.socket:
    """Connect to a Unix socket, as soon as there is room among those that wait to be accepted.

    Raises:
        OSError: nobody listens there; it names the path.
    """
    pause = _SHORTEST_PAUSE
    while True:
        try:
            return await _connect(socket.AF_UNIX, os.fspath(path), None)
        except BlockingIOError:
            pass  # no poll tells when there is room
        except OSError as exc:
            raise named_error(exc, f"cannot connect to {shown_path(path)}") from None
        await anyio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def open_transport(
    sock: socket.socket, context: ssl.SSLContext | None, *, server_hostname: str | None = None
) -> SocketTransport:
    """The transport of a client's connected socket, after a TLS handshake where there is a context.

    The socket is closed if that fails or is cancelled.

    Args:
        sock: the socket.
        context: how to speak TLS; None for a connection without it.
        server_hostname: the name to ask for and to verify.

    Raises:
        OSError: the TLS handshake failed (ssl.SSLError, ssl.SSLCertVerificationError).
    """
    try:
        if context is None:
            return CallbackSocketTransport(sock)
        tls = TLSSocket(sock, context, server_hostname=server_hostname)
        await retry(tls, _Greeting(tls, False))
        return CallbackSocketTransport(tls)
    except BaseException:
        sock.close()
        raise


def accept_transport(
    sock: socket.socket, context: ssl.SSLContext | None, peer: Any, buffer: memoryview
) -> SocketTransport:
    """The transport of a socket that a server has accepted, with the TLS handshake before it where
    there is a context. It may be made outside of any task.

    The socket is closed if that fails.

    Args:
        sock: the socket.
        context: how to speak TLS; None for a connection without it.
        peer: the client's address, as accept() tells it; it cannot be asked for any more once the
            connection has been reset.
        buffer: what TLS receives in.

    Raises:
        OSError: the socket is of no use.
    """
    try:
        if context is None:
            return CallbackSocketTransport(sock, peer)
        tls = TLSSocket(sock, context, server_side=True, buffer=buffer)
        return CallbackSocketTransport(tls, peer, _Greeting(tls, True))
    except BaseException:
        sock.close()
        raise


class _Greeting:
    """The TLS handshake, with a look at what comes first: OpenSSL does not say what it was, and
    would wait for five bytes of whoever sends less and then waits for us. To be called until it
    returns."""

    __slots__ = ("_judged", "_server_side", "_tls")

    def __init__(self, tls: TLSSocket, server_side: bool) -> None:
        self._tls = tls
        self._server_side = server_side
        self._judged = False

    def __call__(self) -> None:
        if not self._judged:
            self._judge(self._tls.plain)
        self._tls.do_handshake()

    def _judge(self, plain: socket.socket) -> None:
        try:
            first = plain.recv(JUDGED_BYTES, socket.MSG_PEEK)
        except OSError:
            first = b""  # which the handshake will meet, too
        self._judged = first != b""
        if self._judged and not _may_be_tls(first, self._server_side):
            plain.recv(READ_SIZE)  # unread, it would make closing the socket a reset
            raise _not_tls(first, self._server_side)


def _may_be_tls(first: bytes, server_side: bool) -> bool:
    # A record (RFC 8446 5.1); a client may begin as in SSL 2.0 (RFC 5246 E.2).
    return 20 <= first[0] <= 24 or (server_side and first[0] >= 0x80)


class NotTLS(ssl.SSLError):
    """The peer does not speak TLS.

    Attributes:
        protocol: what it seems to speak; empty where that is not known.
        why: what it does instead, to follow upon its name.
    """

    protocol = ""
    why = ""


def _not_tls(first: bytes, server_side: bool) -> NotTLS:
    is_http = may_be_status_line(first) or may_be_request_line(first[: first.find(b"\n") + 1])
    name = "HTTP" if is_http else recognize(first)
    why = "does not speak TLS"
    if name:
        why += f", it seems to be {name}"
    if not server_side:  # what a client says is a request, perhaps with credentials
        why += f": {show(first)}"
    peer = "client" if server_side else "server"
    error = NotTLS(ssl.SSL_ERROR_SSL, f"[SSL: {_REASON}] the {peer} {why}")
    error.library, error.reason = "SSL", _REASON  # as OpenSSL has it
    error.protocol, error.why = name, why
    return error


async def add_tls(
    transport: SocketTransport, context: ssl.SSLContext, *, server_hostname: str | None
) -> Transport:
    """A client's TLS over a transport that leads to a server already, through TLS perhaps.

    The transport is closed if that fails or is cancelled.

    Raises:
        OSError: the TLS handshake failed (ssl.SSLError, ssl.SSLCertVerificationError).
    """
    sock = transport.detach()
    if sock is not None:
        return await open_transport(sock, context, server_hostname=server_hostname)
    try:
        return StreamTransport(
            await _wrap(TransportStream(transport, _judge), context, server_hostname)
        )
    except BaseException:
        transport.close()
        raise


def _judge(first: bytes) -> None:
    if not _may_be_tls(first, False):
        raise _not_tls(first, False)


async def _wrap(
    stream: TransportStream, context: ssl.SSLContext, server_hostname: str | None
) -> TLSStream:
    """A client's TLS over a stream; what AnyIO says of a handshake that fails is told as over a
    socket."""
    try:
        return await TLSStream.wrap(
            stream, hostname=server_hostname, ssl_context=context, standard_compatible=False
        )
    except anyio.EndOfStream:
        why = "the server closed the connection during the TLS handshake"
        raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, why) from None
    except anyio.BrokenResourceError as exc:
        error = as_os_error(underlying(exc))
    try:
        raise error
    finally:
        del error  # a frame that keeps what it raises keeps itself
