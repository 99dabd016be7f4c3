# cython: annotation_typing=False
"""Non-blocking sockets, plain or TLS, on any backend that AnyIO runs on.

A socket is tried first and waited for only when the kernel says no.

What is peculiar about TLS (tls.py):

- A write that the kernel refuses must be repeated with the very same bytes. It is always from the
  front of what waits, which only ever grows at its end meanwhile.
- Bytes that have been received already do not make the socket readable. So reading goes on while
  something is `pending`, also after a pause.
- Either direction may ask for the other (a key update, for example). A write that wants to read
  is tried again after the next read, a read that wants to write once the socket is writable.
"""

from __future__ import annotations

import array
import os
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from creche.protocol.escaping import escape
from creche.transports.attributes import SocketAttributes
from creche.transports.base import READ_SIZE, TaskStarter, Transport
from creche.transports.tls import TLSSocket

if sys.platform == "win32":  # pragma: no cover - the tests run on Linux
    ioctl = None
else:
    from fcntl import ioctl
    from termios import TIOCOUTQ

T = TypeVar("T")

# A socket with more than fits into the buffer is read so many times in a row before others get a
# turn.
_READS_IN_A_ROW = 2

# TLS gathers nothing: up to this size, a copy costs less than a record and a system call more.
_JOINED = 2**16

_CAN_GATHER = hasattr(socket.socket, "sendmsg")

_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

# The read buffer of a transport that has not been started.
_NOTHING = bytearray()


def set_nodelay(sock: socket.socket) -> None:
    """Send small messages at once: Nagle's algorithm would hold them back for 40 ms."""
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def retry(sock: socket.socket | TLSSocket, operation: Callable[[], T]) -> T:
    """Try a non-blocking operation until the kernel does not refuse it any more.

    Raises:
        OSError: it fails.
    """
    while True:
        try:
            return operation()
        except (BlockingIOError, InterruptedError, ssl.SSLWantReadError):
            await anyio.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await anyio.wait_writable(sock)


def named_error(exc: OSError, what: str) -> OSError:
    """The same error, whose text begins with what could not be done."""
    if exc.errno is None:
        return type(exc)(f"{what}: {exc}")
    return type(exc)(exc.errno, f"{what}: {exc.strerror}")


def shown_path(address: Any) -> str:
    """The path of a Unix socket, or another address, for a text: a file's name may have any
    character, and a name of the kernel's begins with NUL."""
    return escape(str(address) if isinstance(address, tuple) else os.fsdecode(address), None)


class SocketTransport(Transport):
    """A connected stream socket.

    Args:
        sock: the socket, plain or with TLS over it. It is set to non-blocking, without Nagle's
            algorithm, and belongs to the transport.
        peer: the address of the peer, where it is known already.
        greeting: what is left of the TLS handshake: it is called until it returns, and nothing
            else is read before. It raises what TLSSocket.do_handshake() does.
    """

    def __init__(
        self,
        sock: socket.socket | TLSSocket,
        peer: Any = None,
        greeting: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        plain = sock.plain if isinstance(sock, TLSSocket) else sock
        plain.setblocking(False)
        set_nodelay(plain)
        self._sock: Any = sock
        self._buffer = _NOTHING
        self._tls = isinstance(sock, TLSSocket)
        self._greeting = greeting
        self._paused = False
        self._resumed: anyio.Event | None = None
        self._writing = False  # somebody waits until the socket is writable
        self._read_over = False
        self._eof_sent = False
        # Made when they are asked for, but where they keep what would be lost.
        self._attributes: Mapping[Any, Callable[[], Any]] | None = None
        if peer is not None:
            self._attributes = SocketAttributes(sock, peer)

    # Before start

    async def receive(self) -> bytes:
        return await retry(self._sock, lambda: self._sock.recv(READ_SIZE))

    async def drain(self) -> None:
        while self.outbox:
            try:
                self._send_some()
            except (BlockingIOError, InterruptedError, ssl.SSLWantWriteError):
                await anyio.wait_writable(self._sock)
            except ssl.SSLWantReadError:
                await anyio.wait_readable(self._sock)

    def detach(self) -> socket.socket | None:
        """Before `start`: the plain socket below, which is the caller's from now on; None if there
        is TLS over it, and the transport stays as it was."""
        if self._tls:
            return None
        self.closed = True
        sock: socket.socket = self._sock
        return sock

    # Reading

    def _begin(self) -> None:
        self._attach().start_soon(self._read_all)

    def _attach(self) -> TaskStarter:
        """What starts its children, whose buffer it reads into."""
        tasks = self._tasks
        assert tasks is not None
        self._buffer = tasks.read_buffer
        return tasks

    async def _read_all(self) -> None:
        try:
            await self._read_loop()
        except BaseException:
            # The event loop ends, which cancels this. Nobody may wait for bytes any more.
            self._reading_failed(ConnectionAbortedError("the event loop has ended"))
            raise

    async def _read_loop(self) -> None:
        # TLS: what the opening handshake left decrypted does not make the socket readable.
        readable = self._tls
        while not self.closed and not self._read_over:
            if self._paused:
                self._resumed = anyio.Event()
                await self._resumed.wait()
                readable = self._tls
            elif readable:
                await checkpoint()
                self._receiver.turn_begins()
                readable = self._read_ready()
            else:
                try:
                    await anyio.wait_readable(self._sock)
                except (anyio.ClosedResourceError, OSError, ValueError) as exc:
                    self._reading_failed(exc)
                    return
                self._receiver.turn_begins()
                readable = self._read_ready()

    def _read_ready(self) -> bool:
        """Read what is there; returns whether there may be more that no poll tells of."""
        if not self._tls:
            return self._read_some()
        try:
            return self._is_greeted() and self._read_some()
        finally:
            self._sock.keep()

    def _is_greeted(self) -> bool:
        """Whether the TLS handshake is done; it goes on as far as it can."""
        greeting = self._greeting
        if greeting is None:
            return True
        try:
            greeting()
        except ssl.SSLWantWriteError:
            self._wait_writable()
            return False
        except _WOULD_BLOCK:
            return False
        except OSError as exc:
            self._reading_failed(exc)
            return False
        self._greeting = None
        return True

    def _read_some(self) -> bool:
        turns = _READS_IN_A_ROW
        least, most = READ_SIZE, len(self._buffer)
        while turns:
            turns -= 1
            if self.closed or self._paused or self._read_over:
                return False
            receiver = self._receiver  # it must outlive the call: see Transport
            limit = min(max(receiver.payload_left(), least), most)
            try:
                size = self._sock.recv_into(self._buffer, limit)
            except ssl.SSLWantWriteError:
                self._wait_writable()
                return False
            except _WOULD_BLOCK:
                return False
            except OSError as exc:
                self._reading_failed(exc)
                return False
            if size == 0:
                self._end_reading()
                receiver.eof_received()
                return False
            receiver.data_received(self._buffer, size)
            if self._tls:
                if self.waiting() and not self._writing:
                    self.flush()
                if not self._sock.pending():
                    return False
            elif size < limit:
                return False
        return self._tls

    def _reading_failed(self, exc: Exception) -> None:
        self._end_reading()
        receiver = self._receiver  # nobody, if it was closed meanwhile
        receiver.read_failed(exc)

    def _end_reading(self) -> None:
        """There is nothing to read any more."""
        self._read_over = True

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        if self._resumed is not None:
            self._resumed.set()
            self._resumed = None

    # Writing

    def _send_some(self) -> bool:
        """Write from the front of what waits; returns whether all of that was taken."""
        front = self._front()
        whole = len(front)
        size: int = self._sock.send(front)
        self._taken(size)
        return size == whole

    def flush(self) -> None:
        if self._writing or self._eof_sent or self.closed:
            return
        try:
            while self.waiting():
                if not self._send_some() and not self._tls:
                    self._wait_writable()  # the kernel has no more room
                    break
        except ssl.SSLWantReadError:
            pass  # tried again after the next read
        except _WOULD_BLOCK:
            self._wait_writable()
        except OSError as exc:
            self._write_error(exc)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        blocked = self._writing or bool(self._kept)
        if self._tls and not blocked and len(data) <= _JOINED:
            self.outbox += data
            self.flush()
            return
        if self._tls or blocked or self._eof_sent or self.closed or not _CAN_GATHER:
            self._keep(data, 0)
            self.flush()
            return
        size = self._offer(data)
        if size < 0:
            return
        before = min(len(self.outbox), size)
        self._taken(before)
        self.bytes_sent += size - before
        self._keep(data, size - before)
        if self.waiting():
            self._wait_writable()

    def write_small(self, data: bytes) -> None:
        if self._writing or self._eof_sent or self.closed or self.waiting():
            self.outbox += data
            self.flush()
            return
        size = self._offer(data)
        if size < 0:
            return
        self.bytes_sent += size
        if size < len(data):
            self.outbox += data[size:]
            self._wait_writable()

    def _offer(self, data: bytes | bytearray | memoryview) -> int:
        """Give the kernel the outbox and `data`; how many bytes it took, -1 if that failed."""
        sock = self._sock
        try:
            size: int = sock.sendmsg([self.outbox, data]) if self.outbox else sock.send(data)
        except _WOULD_BLOCK:
            return 0
        except OSError as exc:
            self._write_error(exc)
            return -1
        return size

    def _write_error(self, exc: Exception) -> None:
        """Not a loss yet: the peer's close frame may be waiting to be read."""
        self._drop_output()
        receiver = self._receiver
        receiver.write_failed(exc)
        if self._sock.fileno() < 0 and not self._read_over:
            self._reading_failed(exc)  # somebody else has closed it

    def _wait_writable(self) -> None:
        """Call `_write_ready` when the socket is writable."""
        if not self._writing:
            self._writing = True
            assert self._tasks is not None
            self._tasks.start_soon(self._write_later)

    async def _write_later(self) -> None:
        try:
            await anyio.wait_writable(self._sock)
        except (anyio.ClosedResourceError, OSError, ValueError) as exc:
            self._writing = False
            self._write_error(exc)  # to nobody, if it was closed meanwhile
            return
        self._write_ready()

    def _write_ready(self) -> None:
        self._writing = False
        self.flush()
        receiver = self._receiver
        receiver.output_left()
        if self._tls:
            self._read_ready()  # it may have been reading that wanted to write

    def send_eof(self) -> None:
        if self._eof_sent or self.closed:
            return
        self._eof_sent = True
        try:
            if self._tls:
                self._sock.unwrap()
        except (OSError, ValueError):
            pass
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer has gone

    # The end

    def close(self) -> None:
        if not self.closed:
            self._forget()
            self.resume_reading()
            self._unregister()
            self._sock.close()

    def _unregister(self) -> None:
        """Wake the tasks that wait for the socket before it is closed under them."""
        anyio.notify_closing(self._sock)

    def abort(self) -> None:
        if not self.closed:
            try:
                linger = struct.pack("ii", 1, 0)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            except OSError:
                pass
            self.close()

    def kept_below(self) -> int:
        size: int = self._sock.kept_size() if self._tls else 0
        return size

    def unsent(self) -> int:
        if ioctl is None or self.closed:
            return 0
        size = array.array("i", [0])
        try:
            ioctl(self._sock.fileno(), TIOCOUTQ, size)  # Linux calls it SIOCOUTQ
        except (OSError, ValueError):
            return 0
        return size[0]

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        if self._attributes is None:
            self._attributes = SocketAttributes(self._sock)
        return self._attributes
