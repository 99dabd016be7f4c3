"""Accepting: the connections of a listening socket, or of a listener of AnyIO."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from anyio.abc import ByteStream, Listener, TaskGroup

from creche.engine.deadlines import NEVER
from creche.engine.engine import Engine
from creche.engine.polling import Readiness, is_still
from creche.transports.listening import EXHAUSTED
from creche.transports.streams import underlying

# Only these say that a listening socket is broken. Whatever else accept() reports passes, or is of
# one connection: Linux passes on what the network has said of it, and a firewall may forbid it.
_FATAL = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EFAULT})

# What the kernel is out of it will not have back at once.
PAUSE = 0.1
# After another error: what goes on for ever may not keep the event loop busy, and who makes
# connections fail may not keep others waiting.
SHORT_PAUSE = 0.001
_LOG_INTERVAL = 1.0


class RareWarning:
    """Logs what happens often no more than once a second.

    Args:
        logger: where to.
        now: a clock, in seconds.
    """

    def __init__(self, logger: logging.Logger, now: Callable[[], float]) -> None:
        self._logger = logger
        self._now = now
        self._logged_at = float("-inf")

    def __call__(self, message: str, *args: object) -> None:
        now = self._now()
        if now >= self._logged_at + _LOG_INTERVAL:
            self._logged_at = now
            self._logger.warning(message, *args)


class Acceptor:
    """Accepts the connections of a listening socket, one in each turn of the event loop.

    Whatever does not break the socket is logged once a second and sat out.

    Args:
        sock: the socket, which belongs to the acceptor.
        engine: calls back when somebody has come; where it cannot, a task of its own waits.
        accepted: takes each connection, with its peer's address, and must not wait; it may return
            the seconds until the next is wanted.
        failed: is told what has broken the socket.
        warn: logs.
    """

    def __init__(
        self,
        sock: socket.socket,
        engine: Engine,
        accepted: Callable[[socket.socket, Any], float | None],
        failed: Callable[[Exception], None],
        warn: RareWarning,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._engine = engine
        self._accepted = accepted
        self._failed = failed
        self._warn = warn
        self._watched: Readiness | None = None  # what calls back
        self._descriptor = -1
        self._by_task = False
        self._closed = False

    def start(self) -> None:
        """Accept from now on."""
        readiness = self._engine.readiness
        if readiness is not None:
            try:
                self._descriptor = self._sock.fileno()
                if self._descriptor < 0:
                    raise OSError(errno.EBADF, "somebody else has closed the socket")
                readiness.add_reader(self._descriptor, self._on_readable)
            except NotImplementedError:
                pass
            except OSError as exc:  # as where too many descriptors are watched by epoll
                self._go_on_after(self._pause_after(exc))
                return
            else:
                self._watched = readiness
                return
        self._by_task = True
        self._engine.start_soon(self._run)

    def close(self) -> None:
        """Accept nothing more, and close the socket. May be called twice."""
        if not self._closed:
            self._closed = True
            self._unwatch()
            if self._by_task:
                anyio.notify_closing(self._sock)
            self._sock.close()

    def _unwatch(self, called: bool = False) -> None:
        readiness, self._watched = self._watched, None
        if readiness is not None and (called or is_still(self._sock, self._descriptor)):
            readiness.remove_reader(self._descriptor)

    def _on_readable(self) -> None:
        if self._sock.fileno() != self._descriptor:
            self._unwatch(called=True)
        pause = self._accept()
        if pause:
            self._unwatch()
            self._go_on_after(pause)

    def _go_on_after(self, seconds: float) -> None:
        self._engine.schedule(self, self._engine.now() + seconds)

    def timeout_due(self, _now: float) -> float:
        """A pause is over."""
        if not self._closed:
            self.start()
        return NEVER

    async def _run(self) -> None:
        while not self._closed:
            try:
                await anyio.wait_readable(self._sock)
            except (OSError, ValueError, anyio.ClosedResourceError) as exc:
                if self._closed:
                    return
                pause = self._pause_after(exc)
            else:
                pause = self._accept()
            if pause:
                await anyio.sleep(pause)

    def _accept(self) -> float:
        """Accept a connection; the seconds until the next is wanted."""
        try:
            client, address = self._sock.accept()
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            return self._pause_after(exc)
        return self._accepted(client, address) or 0

    def _pause_after(self, exc: Exception) -> float:
        """The seconds after which accepting is of use again."""
        pause = _pause_after(exc, self._warn)
        if pause is None:
            self.close()
            self._failed(exc)
        return pause or 0


async def accept_streams(
    listener: Listener[ByteStream],
    accepted: Callable[[ByteStream], Coroutine[Any, Any, None]],
    task_group: TaskGroup,
    warn: RareWarning,
) -> None:
    """Serve a listener of AnyIO; whatever does not break it is logged once a second and sat out.

    Raises:
        OSError, BrokenResourceError, ClosedResourceError: it is broken.
    """
    while True:
        try:
            return await listener.serve(accepted, task_group)
        except Exception as exc:
            error = _single(exc)
            pause = _pause_after(error, warn)
            if pause is None:
                try:
                    raise error from None
                finally:
                    del error  # a frame that keeps what it raises keeps itself
        await anyio.sleep(pause)


def _single(exc: Exception) -> Exception:
    """What happened to one of the listeners that a listener may consist of, as the kernel said it:
    on some backends AnyIO says it otherwise for some sockets."""
    return _single(exc.exceptions[0]) if isinstance(exc, ExceptionGroup) else underlying(exc)


def _pause_after(exc: Exception, warn: RareWarning) -> float | None:
    """The seconds after which accepting is of use again; None where it will never be."""
    if not isinstance(exc, OSError) or exc.errno is None or exc.errno in _FATAL:
        return None
    warn("cannot accept connections for now: %s", exc)
    return PAUSE if exc.errno in EXHAUSTED else SHORT_PAUSE
