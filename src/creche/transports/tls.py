# cython: annotation_typing=False
"""TLS over a non-blocking socket, with few system calls.

Theory of operation
-------------------

OpenSSL that reads from a socket needs two system calls for each record (RFC 8446 5.1), and one to
write it. Here it reads from memory and writes to memory. One system call receives all that is
there, and one sends up to five records.

In: what was received lies in a buffer that all connections of an event loop share. OpenSSL is given
one record after the other, so that it keeps no more than one. What is left when reading stops is
copied out by `keep`; no view of the buffer is used after that.

Out: what the kernel refuses of the encrypted bytes is kept, and `send` raises SSLWantWriteError. It
is to be called again with the same bytes, and perhaps more behind them: as long as some of what it
encrypted has not left, it encrypts nothing else, and then it says how much that stood for.

A TLSSocket raises what an ssl.SSLSocket does, and BlockingIOError where the kernel has nothing.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any

from anyio.lowlevel import RunVar

# The most plaintext in a record, and the most that a record is longer (RFC 8446 5.1 and 5.2; RFC
# 5246 6.2.3 allows more).
TLS_RECORD = 2**14
_LONGEST = 5 + TLS_RECORD + 2048

# So much is received, and encrypted, at once: 64 KiB and a frame's header fit into either.
_RECEIVED_SIZE = 2**17
_SENT_SIZE = 5 * TLS_RECORD

# Below this size a copy costs less than a view.
_SMALL = 2**11

_CAN_GATHER = hasattr(socket.socket, "sendmsg")

_view: RunVar[memoryview] = RunVar("creche_tls_buffer")


def tls_buffer() -> memoryview:
    """The buffer that this event loop receives encrypted bytes in."""
    try:
        return _view.get()
    except LookupError:
        view = memoryview(bytearray(_LONGEST + _RECEIVED_SIZE))
        _view.set(view)
        return view


def _record_size(data: bytes | bytearray, start: int, end: int) -> int:
    """The length of the record at data[start:end]; 0 while it is not whole.

    What is no record is all for OpenSSL to complain of: nobody waits for the rest of a plain
    request to a TLS port.
    """
    left = end - start
    if left == 0:
        return 0
    if not 20 <= data[start] <= 24:
        return left
    if left < 5:
        return 0
    size = 5 + (data[start + 3] << 8 | data[start + 4])
    if size > _LONGEST or data[start + 1] != 3:
        return left
    return size if size <= left else 0


class TLSSocket:
    """A connected socket with TLS over it.

    Args:
        sock: the socket; it is set to non-blocking, and belongs to this one.
        context: how to speak TLS.
        server_side: whether we are the server.
        server_hostname: the name to ask for and to verify; None at a server.
        buffer: what to receive in; that of this event loop, which only a task can find.

    Attributes:
        plain: the socket below.
        ssl_object: the TLS connection.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        buffer: memoryview | None = None,
    ) -> None:
        sock.setblocking(False)
        self.plain = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._view = tls_buffer() if buffer is None else buffer
        self._buffer: bytearray = self._view.obj  # type: ignore[assignment]
        # What was received and not decrypted: in the buffer from `start` to `end`, or kept.
        self._start = 0
        self._end = 0
        self._kept = b""
        self._decrypted = False  # whether some of a record may be decrypted and not read
        self._over = False  # whether the peer has said that nothing follows
        self._error: OSError | None = None  # what comes after what was read
        # What was encrypted and has not left, and how much plaintext that is.
        self._unsent = b""
        self._encrypted = 0

    def kept_size(self) -> int:
        """Bytes that are kept of what was received, and of what was encrypted."""
        return len(self._kept) + self._end - self._start + len(self._unsent)

    # What is asked of a socket

    def fileno(self) -> int:
        return self.plain.fileno()

    def getsockname(self) -> Any:
        return self.plain.getsockname()

    def getpeername(self) -> Any:
        return self.plain.getpeername()

    def setsockopt(self, level: int, name: int, value: Any) -> None:
        self.plain.setsockopt(level, name, value)

    def shutdown(self, how: int) -> None:
        self.plain.shutdown(how)

    def close(self) -> None:
        self.plain.close()

    # TLS

    def do_handshake(self) -> None:
        """Go on with the handshake; to be called until it returns (RFC 8446 2).

        Raises:
            BlockingIOError, ssl.SSLWantWriteError: it waits for the kernel.
            OSError: it failed.
        """
        self._take_up()
        try:
            while True:
                try:
                    self.ssl_object.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    done = False
                except ssl.SSLError:
                    self._push_alert()
                    raise
                try:
                    self._push()
                except ssl.SSLWantWriteError:
                    raise
                except OSError:
                    pass  # the peer's last words are still to be read, and may say why
                if done:
                    return
                if not self._feed():
                    self._receive()
        finally:
            self.keep()

    def pending(self) -> bool:
        """Whether there is something to decrypt, or to read, that no poll tells of."""
        if self._kept:
            left = _record_size(self._kept, 0, len(self._kept))
        else:
            left = _record_size(self._buffer, self._start, self._end)
        if left or self._over or self._error is not None:
            return True
        return self._decrypted and self.ssl_object.pending() > 0

    def recv(self, size: int) -> bytes:
        """Receive bytes; none at their end.

        Raises:
            as recv_into.
        """
        data = bytearray(min(size, TLS_RECORD))
        try:
            return bytes(data[: self.recv_into(data, len(data))])
        finally:
            self.keep()

    def recv_into(self, buffer: bytearray, size: int) -> int:
        """Receive at most `size` bytes into `buffer`; returns how many, 0 at their end.

        As many records are decrypted as there are, and as have room. `keep` has to follow before
        anybody else reads.

        Raises:
            BlockingIOError: nothing is there.
            ssl.SSLWantWriteError: the kernel has no room for what TLS itself has to say.
            OSError: the connection is broken.
        """
        if self._unsent and self._encrypted == 0:
            self._push()
        self._take_up()
        received = self._read(buffer, size)
        with memoryview(buffer) as view:
            while 0 < received <= size - TLS_RECORD and self._is_whole():
                with view[received:size] as rest:
                    try:
                        count = self._read(rest, size - received)
                    except BlockingIOError:
                        break
                    except OSError as exc:
                        self._error = exc  # after what came before it
                        break
                if count == 0:
                    self._over = True
                    break
                received += count
        return received

    def _is_whole(self) -> bool:
        """Whether there is a record to be decrypted."""
        return _record_size(self._buffer, self._start, self._end) > 0

    def _read(self, buffer: bytearray | memoryview, size: int) -> int:
        """Decrypt a record; returns how many bytes that were, 0 at their end."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        while not self._over:
            if not (self._decrypted or self._feed()):
                self._receive()
                continue
            self._decrypted = False
            try:
                read: Any = self.ssl_object.read(size, buffer)  # not bytes, with a buffer
            except ssl.SSLWantReadError:
                # The record was one of TLS's own: it may ask for an answer (RFC 8446 4.6.3).
                if self._outgoing.pending:
                    self._push()
                continue
            except ssl.SSLEOFError:
                break  # without a close_notify
            except ssl.SSLError:
                self._push_alert()
                raise
            count: int = read
            self._decrypted = count == size  # there may be more of it
            return count
        return 0

    def keep(self) -> None:
        """Copy what is left of what was received: others use the buffer from now on."""
        if self._start < self._end:
            self._kept = bytes(self._view[self._start : self._end])
        self._start = self._end = 0

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send the first of these bytes; returns how many.

        Raises:
            ssl.SSLWantWriteError: the kernel has not taken all; call again with the same bytes.
            ssl.SSLWantReadError: TLS has to read before.
            OSError: the connection is broken.
        """
        if self._unsent:
            self._push()
        size = self._encrypted  # of the call before
        if size == 0:
            size = len(data)
            if size <= TLS_RECORD:
                self.ssl_object.write(data)
                records = [self._outgoing.read()]
                self._encrypted = size
            else:
                records = self._encrypt(data)
                size = self._encrypted
            self._send_encrypted(records)
        self._encrypted = 0
        return size

    def _encrypt(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Some records, as much of `data` as `encrypted` says."""
        records = []
        end = min(len(data), _SENT_SIZE)
        start = 0
        with memoryview(data) as view:
            while start < end:
                stop = min(start + TLS_RECORD, end)
                with view[start:stop] as record:
                    try:
                        self.ssl_object.write(record)
                    except ssl.SSLWantReadError:
                        if start == 0:
                            raise
                        break
                records.append(self._outgoing.read())
                start = stop
        self._encrypted = start
        return records if _CAN_GATHER else [b"".join(records)]

    def unwrap(self) -> None:
        """Say that nothing follows (close_notify, RFC 8446 6.1), without waiting for the peer.

        Raises:
            OSError: that is not possible any more, or the kernel has no room for it.
        """
        try:
            self.ssl_object.unwrap()
        except ssl.SSLWantReadError:
            pass  # the peer has not said so yet
        self._push()

    # In

    def _take_up(self) -> None:
        """Go on with what was kept."""
        if self._kept:
            self._end = len(self._kept)
            self._buffer[: self._end] = self._kept
            self._kept = b""

    def _receive(self) -> None:
        """Receive what is there, behind what is left."""
        left = self._end - self._start
        if self._start:
            self._buffer[:left] = self._view[self._start : self._end]
            self._start, self._end = 0, left
        size = self.plain.recv_into(self._view[left:] if left else self._buffer)
        if size == 0:
            self._incoming.write(self._view[:left])
            self._incoming.write_eof()
            self._start = self._end = 0
        self._end += size

    def _feed(self) -> bool:
        """Give OpenSSL the next record; returns whether it has got something to read."""
        size = _record_size(self._buffer, self._start, self._end)
        if size:
            stop = self._start + size
            data = self._buffer if size < _SMALL else self._view
            self._incoming.write(data[self._start : stop])
            self._start = stop
            return True
        return self._incoming.eof or self._incoming.pending > 0

    # Out

    def _push(self) -> None:
        """Send what TLS has said; what the kernel refuses is kept."""
        if self._outgoing.pending:
            self._unsent += self._outgoing.read()
        if self._unsent:
            self._send_encrypted([self._unsent])

    def _send_encrypted(self, records: list[bytes]) -> None:
        """Send records; what the kernel refuses is kept."""
        self._unsent = b""
        try:
            size = self.plain.send(records[0]) if len(records) == 1 else self.plain.sendmsg(records)
        except (BlockingIOError, InterruptedError):
            size = 0
        except OSError:
            self._encrypted = 0
            raise
        whole = 0
        for record in records:
            whole += len(record)
        if size < whole:
            self._unsent = b"".join(records)[size:]
            raise ssl.SSLWantWriteError("the kernel has no more room")

    def _push_alert(self) -> None:
        """Tell the peer what is wrong, if it can be told (RFC 8446 6.2)."""
        try:
            self._push()
        except OSError:
            pass
