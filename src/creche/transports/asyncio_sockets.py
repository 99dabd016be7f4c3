# cython: annotation_typing=False
"""The same sockets on asyncio's own reader and writer callbacks.

The reader is registered once, and no task waits for it: half the cost of waiting per read. A loop
without add_reader (Windows' proactor) is served as any other backend is.
"""

from __future__ import annotations

import asyncio
import socket

from anyio.lowlevel import current_token

from creche.transports.base import Receiver, TaskStarter
from creche.transports.sockets import SocketTransport


def socket_transport(sock: socket.socket) -> SocketTransport:
    """The transport of a connected socket that suits the running event loop."""
    native = current_token().native_token
    if isinstance(native, asyncio.AbstractEventLoop):
        return AsyncioSocketTransport(sock, native)
    return SocketTransport(sock)


class AsyncioSocketTransport(SocketTransport):
    """A connected stream socket under asyncio or uvloop."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(sock)
        self._loop = loop
        self._has_reader = False
        self._has_writer = False
        self._callbacks = True  # whether the loop has add_reader

    def start(self, tasks: TaskStarter, receiver: Receiver) -> None:
        try:
            self._add_reader()
        except NotImplementedError:
            self._callbacks = False
            super().start(tasks, receiver)
            return
        self._tasks = tasks
        self._receiver = receiver
        self._read_soon()

    def _add_reader(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._on_readable)
        self._has_reader = True

    def _remove_reader(self) -> None:
        if self._has_reader:
            self._has_reader = False
            self._loop.remove_reader(self._sock.fileno())

    def _read_soon(self) -> None:
        if self._tls:
            self._loop.call_soon(self._on_readable)

    def _on_readable(self) -> None:
        if self._paused:
            self._remove_reader()  # not before there is something to read
        elif self._read_ready():
            self._read_soon()

    def _end_reading(self) -> None:
        super()._end_reading()
        self._remove_reader()

    def resume_reading(self) -> None:
        super().resume_reading()
        if self._callbacks and not self.closed and not self._read_over:
            if not self._has_reader:
                self._add_reader()
            self._read_soon()

    def _wait_writable(self) -> None:
        if not self._callbacks:
            super()._wait_writable()
            return
        self._writing = True
        if not self._has_writer:
            self._has_writer = True
            self._loop.add_writer(self._sock.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        self._write_ready()
        if not self._writing:
            self._remove_writer()

    def _remove_writer(self) -> None:
        if self._has_writer:
            self._has_writer = False
            self._loop.remove_writer(self._sock.fileno())

    def _unregister(self) -> None:
        self._remove_reader()
        self._remove_writer()
        if not self._callbacks:  # otherwise no task waits for the socket
            super()._unregister()
