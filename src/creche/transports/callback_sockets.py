# cython: annotation_typing=False
"""The same sockets where somebody calls back when they are ready: asyncio's loop, or a Poller.

The reader is registered once, and no task waits for it: half the cost of waiting per read. Where
nobody calls back, as on Windows' proactor, a socket is served as on any other backend.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from creche.engine.polling import Readiness, is_still, log_failure
from creche.transports.sockets import SocketTransport
from creche.transports.tls import TLSSocket


class CallbackSocketTransport(SocketTransport):
    """A connected stream socket, by callbacks where the TaskStarter has a Readiness."""

    def __init__(
        self,
        sock: socket.socket | TLSSocket,
        peer: Any = None,
        greeting: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(sock, peer, greeting)
        self._readiness: Readiness | None = None
        self._descriptor = -1
        self._has_reader = False
        self._has_writer = False
        self._left = False  # whether callbacks stay of a socket that somebody else has closed

    def _begin(self) -> None:
        tasks = self._attach()
        self._descriptor = self._sock.fileno()
        self._readiness = tasks.readiness
        if self._readiness is not None:
            try:
                self._add_reader(self._readiness)
            except NotImplementedError:
                self._readiness = None
            else:
                self.calls_back = True
                self._read_soon(self._readiness)
                return
        tasks.start_soon(self._read_all)

    def _add_reader(self, readiness: Readiness) -> None:
        try:
            self._check_there()
            readiness.add_reader(self._descriptor, self._on_readable)
        except OSError as exc:  # as where a user has as many sockets in epolls as may be
            self._read_over = True
            readiness.call_soon(partial(self._reading_failed, exc))
        else:
            self._has_reader = True

    def _remove_reader(self) -> None:
        if self._has_reader and self._readiness is not None:
            self._has_reader = False
            if self._may_remove():
                self._readiness.remove_reader(self._descriptor)

    def _may_remove(self) -> bool:
        """Whether what was added is ours still."""
        self._left = not is_still(self._sock, self._descriptor)
        return not self._left

    def _check_there(self) -> None:
        if self._sock.fileno() != self._descriptor:
            raise OSError(errno.EBADF, "somebody else has closed the socket")

    def _read_soon(self, readiness: Readiness) -> None:
        if self._tls:
            readiness.call_soon(self._on_pending)

    def _on_readable(self) -> None:
        try:
            receiver = self._receiver  # it must outlive the call: see Transport
            receiver.turn_begins()
            self._read_on()
        except Exception as exc:
            self._mistaken(exc)
        if self._left and self._readiness is not None:
            self._readiness.remove_reader(self._descriptor)

    def _on_pending(self) -> None:
        try:
            self._read_on()
        except Exception as exc:
            self._mistaken(exc)

    def _read_on(self) -> None:
        if self._paused:
            self._remove_reader()  # not before there is something to read
        else:
            self.read_now()
            receiver = self._receiver
            receiver.reading_done()

    def read_now(self) -> bool:
        if self._readiness is None:
            return False
        if self._read_ready():
            self._read_soon(self._readiness)
        return True

    def _mistaken(self, exc: Exception) -> None:
        """A mistake of ours, of the receiver's for example: it ends this connection, and no other.
        A socket that is ready would be reported again and again."""
        log_failure(self)
        try:
            self._reading_failed(exc)
        except Exception:
            log_failure(self)
        self.close()

    def _end_reading(self) -> None:
        super()._end_reading()
        self._remove_reader()

    def resume_reading(self) -> None:
        super().resume_reading()
        readiness = self._readiness
        if readiness is not None and not self.closed and not self._read_over:
            if not self._has_reader:
                self._add_reader(readiness)
            self._read_soon(readiness)

    def _wait_writable(self) -> None:
        if self._readiness is None:
            super()._wait_writable()
            return
        if not self._has_writer:
            try:
                self._check_there()
                self._readiness.add_writer(self._descriptor, self._on_writable)
            except OSError as exc:
                self._write_error(exc)
                return
            self._has_writer = True
        self._writing = True

    def _on_writable(self) -> None:
        try:
            self._write_ready()
            if not self._writing:
                self._remove_writer()
            receiver = self._receiver
            receiver.reading_done()
        except Exception as exc:
            self._mistaken(exc)
        if self._left and self._readiness is not None:
            self._readiness.remove_writer(self._descriptor)

    def _remove_writer(self) -> None:
        if self._has_writer and self._readiness is not None:
            self._has_writer = False
            if self._may_remove():
                self._readiness.remove_writer(self._descriptor)

    def _unregister(self) -> None:
        self._remove_reader()
        self._remove_writer()
        if self._readiness is None:  # otherwise no task waits for the socket
            super()._unregister()
