"""Listening: bound sockets."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from anyio.abc import SocketAttribute

from creche.transports.resolving import Address, resolve
from creche.transports.sockets import named_error, shown_path

# The kernel is out of something.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC})

_PORT_ATTEMPTS = 8


# An address that this machine does not have: IPv6 in many containers, though names lead to it.
_NOT_HERE = frozenset(
    {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH, errno.ENODEV, errno.EINVAL}
)


async def bind_tcp(
    host: str | None,
    port: int,
    *,
    backlog: int = 1024,
    reuse_port: bool = False,
    logger: logging.Logger | None = None,
) -> list[socket.socket]:
    """Listen on every address of `host` that this machine has, on one and the same port.

    Args:
        host: a name or an address; None or "" for every interface, IPv4 and IPv6.
        port: the TCP port; 0 for a free one.
        backlog: connections that the kernel keeps until they are accepted.
        reuse_port: whether other processes may listen on the same port.
        logger: is told of the addresses that it does not have.

    Raises:
        OSError: the name cannot be resolved, this machine has none of its addresses, or one cannot
            be bound, since it is taken for example; it names them.
    """
    addresses = list(dict.fromkeys(await resolve(host, port, passive=True)))
    attempts = 0
    while True:
        try:
            sockets, passed_over = _bind_all(addresses, port, backlog, reuse_port)
        except OSError as exc:
            # A free port of the first address may be taken at the second one.
            attempts += 1
            if port != 0 or exc.errno != errno.EADDRINUSE or attempts == _PORT_ATTEMPTS:
                raise
        else:
            if logger is not None:
                for why in passed_over:
                    logger.info("%s; listening on the other addresses of %s", why, host)
            return sockets


def _bind_all(
    addresses: Sequence[Address], port: int, backlog: int, reuse_port: bool
) -> tuple[list[socket.socket], list[OSError]]:
    """The sockets, and why there is none for others of the addresses."""
    sockets: list[socket.socket] = []
    passed_over: list[OSError] = []
    try:
        for family, address in addresses:
            here = (address[0], port, *address[2:])
            try:
                with _closed_on_error(_new_socket(family, here)) as sock:
                    _bind(sock, here, backlog, reuse_port)
            except OSError as exc:
                if exc.errno not in _NOT_HERE:
                    raise
                passed_over.append(exc)
            else:
                sockets.append(sock)
                port = sock.getsockname()[1]
        if not sockets:
            raise passed_over.pop(0)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets, passed_over


@contextmanager
def _closed_on_error(sock: socket.socket) -> Iterator[socket.socket]:
    try:
        yield sock
    except BaseException:
        sock.close()
        raise


def _new_socket(family: int, address: Any) -> socket.socket:
    try:
        return socket.socket(family, socket.SOCK_STREAM)
    except OSError as exc:
        if exc.errno not in EXHAUSTED:
            # A kernel without IPv6, or one that does not let us use it, has many words for it.
            exc = OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        raise named_error(exc, _cannot_listen(address)) from None


def _cannot_listen(address: Any) -> str:
    return f"cannot listen on {address[0]} port {address[1]}"


def _bind(sock: socket.socket, address: Any, backlog: int, reuse_port: bool) -> None:
    try:
        if os.name == "posix":  # pragma: no branch - Windows would let two servers share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            # IPv4 has a socket of its own.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except OSError as exc:
        raise named_error(exc, _cannot_listen(address)) from None


def listen_on(sockets: Sequence[socket.socket], backlog: int) -> None:
    """Listen on bound sockets; those that listen already only get another backlog.

    Raises:
        OSError: one cannot be listened on; it names the address.
    """
    for sock in sockets:
        try:
            sock.listen(backlog)
        except OSError as exc:
            raise named_error(exc, f"cannot listen on {shown_path(sock.getsockname())}") from None


def bind_unix(
    path: str | os.PathLike[str], *, mode: int | None = None, backlog: int = 1024
) -> socket.socket:
    """Listen on a Unix socket. One that its process has left behind is replaced.

    Args:
        path: where to make the socket.
        mode: its permissions, such as 0o660; None for what the umask leaves.
        backlog: connections that the kernel keeps until they are accepted.

    Raises:
        OSError: the path is taken, or cannot be made; it names the path.
    """
    name = os.fspath(path)
    made = False
    with _closed_on_error(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        try:
            _remove_stale(name)
            sock.bind(name)
            made = True
            if mode is not None:
                os.chmod(name, mode)
            sock.listen(backlog)
        except OSError as exc:
            if made:
                os.unlink(name)
            raise named_error(exc, f"cannot listen on {shown_path(path)}") from None
    return sock


def _remove_stale(name: str) -> None:
    """Remove a socket that its process has left behind."""
    try:
        if not stat.S_ISSOCK(os.stat(name).st_mode):
            return
    except FileNotFoundError:
        return
    # A stream that is connected may have to wait for room, would be a client to whoever listens,
    # and is refused by who does not listen yet. A datagram socket has nothing to do with any of
    # that: the kernel refuses it where no socket is bound any more, and otherwise finds it to be of
    # the wrong kind.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            os.unlink(name)
        except OSError:
            pass  # whatever it is, it is there, which bind() will say


class UnixPath:
    """The path of a Unix socket that we have made."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.path.abspath(path)  # a daemon may go elsewhere
        self._made = self._identity()

    def _identity(self) -> tuple[int, int, int]:
        """What tells a file from another of the same name: a file system may use the number of one
        that is gone again, for the socket of a process that takes over."""
        status = os.stat(self._path)
        return status.st_dev, status.st_ino, status.st_mtime_ns

    def remove(self, logger: logging.Logger) -> None:
        """Remove it, unless another process has made it anew. That it cannot be removed, by a
        process that has dropped its rights for example, is no more than logged."""
        try:
            if self._identity() == self._made:
                os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.warning("cannot remove %s: %s", shown_path(self._path), exc.strerror)


def listening_address(sock: socket.socket) -> Any:
    """Where a socket listens: (host, port), or the path of a Unix socket."""
    address = sock.getsockname()
    return address[:2] if isinstance(address, tuple) else address


def listener_address(listener: Any) -> Any:
    """Where an anyio listener listens, None where it does not say."""
    return listener.extra(SocketAttribute.local_address, None)
