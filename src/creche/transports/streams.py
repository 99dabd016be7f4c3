"""Any stream of AnyIO or Trio: a Unix pipe, TLS over something else, memory.

Such a stream only has `await send()`, so that a child task writes. It is cancelled only when the
connection is given up: a cancelled send may leave half of its bytes on the wire.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from creche.transports.base import READ_SIZE, Transport

# A stream that cannot be half closed is given so many seconds to close well.
_CLOSE_SECONDS = 1.0

# So many bytes are handed to the stream at once.
_WRITE_SIZE = 2**16


class TrioStream(Protocol):
    """The part of trio.abc.Stream that is needed."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...

    async def aclose(self) -> None: ...


class StreamTransport(Transport):
    """A connected byte stream.

    Args:
        stream: an anyio.abc.ByteStream or a trio.abc.Stream; it belongs to the transport.

    Raises:
        TypeError: it is neither.
    """

    def __init__(self, stream: ByteStream | TrioStream) -> None:
        super().__init__()
        self._stream: Any = stream
        self._receive: Callable[[int], Awaitable[bytes | bytearray]]
        self._send: Callable[[bytes], Awaitable[None]]
        if isinstance(stream, ByteStream):
            self._receive, self._send = stream.receive, stream.send
        elif hasattr(stream, "receive_some") and hasattr(stream, "send_all"):
            self._receive, self._send = stream.receive_some, stream.send_all
        else:
            raise TypeError(f"stream must be a byte stream, not {type(stream).__name__}")
        self._paused = False
        self._resumed = anyio.Event()
        self._work = anyio.Event()
        self._write_broken = False
        self._eof_wanted = False
        self._scope = anyio.CancelScope()
        self._attributes: Mapping[Any, Callable[[], Any]] | None = None

    async def receive(self) -> bytes:
        try:
            return bytes(await self._receive(READ_SIZE))
        except anyio.EndOfStream:
            return b""
        except Exception as exc:
            raise as_os_error(exc) from exc

    async def drain(self) -> None:
        try:
            while self.outbox:
                await self._write_some()
        except Exception as exc:
            raise as_os_error(exc) from exc

    async def _write_some(self) -> None:
        data = bytes(self._front()[:_WRITE_SIZE])
        await self._send(data)
        self._taken(len(data))

    def _begin(self) -> None:
        assert self._tasks is not None
        self._tasks.start_soon(self._run)

    async def _run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(self._write_loop)
                    await self._read_loop()
        except BaseException:
            # The event loop ends, which cancels this. Nobody may wait for bytes any more.
            self._receiver.read_failed(ConnectionAbortedError("the event loop has ended"))
            raise
        finally:
            await anyio.aclose_forcefully(self._stream)

    async def _read_loop(self) -> None:
        while not self.closed:
            if self._paused:
                await self._resumed.wait()
                continue
            try:
                data = await self.receive()
            except OSError as exc:
                self._receiver.read_failed(exc)
                return
            if not data:
                self._receiver.eof_received()
                return
            self._receiver.data_received(bytearray(data), len(data))

    async def _write_loop(self) -> None:
        while not self.closed:
            if self.waiting():
                try:
                    await self._write_some()
                except Exception as exc:
                    self._write_broken = True
                    self._drop_output()
                    self._receiver.write_failed(as_os_error(exc))
                    return
                self._receiver.output_left()
            elif self._eof_wanted:
                await self._send_eof()
                return
            else:
                self._work = anyio.Event()
                await self._work.wait()

    async def _send_eof(self) -> None:
        try:
            await self._stream.send_eof()
        except (AttributeError, NotImplementedError):
            # It cannot be half closed, as TLS: then all of it, or the peer would wait for us.
            with anyio.move_on_after(_CLOSE_SECONDS):
                try:
                    await self._stream.aclose()
                except Exception:
                    pass
        except Exception:
            pass

    def flush(self) -> None:
        if self._write_broken:
            self._drop_output()
        elif self.waiting():
            self._work.set()

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self._resumed = anyio.Event()

    def resume_reading(self) -> None:
        self._paused = False
        self._resumed.set()

    def send_eof(self) -> None:
        self._eof_wanted = True
        self._work.set()

    def close(self) -> None:
        if not self.closed:
            self._forget()
            self._scope.cancel()

    async def aclose_forcefully(self) -> None:
        self.close()
        await anyio.aclose_forcefully(self._stream)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Those of the stream, asked for once.

        Raises:
            OSError: it has none any more, as one of AnyIO whose connection uvloop has dropped.
        """
        if self._attributes is None:
            try:
                is_of_anyio = isinstance(self._stream, ByteStream)
                self._attributes = self._stream.extra_attributes if is_of_anyio else {}
            except Exception as exc:
                raise as_os_error(exc) from exc
        return self._attributes


class TransportStream(ByteStream):
    """A transport that is not started, as a byte stream: for TLS inside of TLS.

    Args:
        transport: the transport.
        judge: is told what comes first, and raises if it is not what it should be.
    """

    def __init__(self, transport: Transport, judge: Callable[[bytes], None] | None = None) -> None:
        self._transport = transport
        self._judge = judge
        self._left = b""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        data = self._left or await self._transport.receive()
        if not data:
            raise anyio.EndOfStream
        if self._judge is not None:
            judge, self._judge = self._judge, None
            judge(data)
        self._left = data[max_bytes:]
        return data[:max_bytes]

    async def send(self, item: bytes) -> None:
        self._transport.outbox += item
        await self._transport.drain()

    async def send_eof(self) -> None:
        self._transport.send_eof()

    async def aclose(self) -> None:
        self._transport.close()
        await checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self._transport.extra_attributes


def underlying(exc: Exception) -> Exception:
    """What the kernel or OpenSSL has said, which AnyIO may keep as the cause of its own error."""
    if isinstance(exc, anyio.BrokenResourceError) and isinstance(exc.__cause__, OSError):
        return exc.__cause__
    return exc


def as_os_error(exc: Exception) -> OSError:
    """What a stream raises when it breaks, as the OSError that a socket would raise."""
    if isinstance(exc, OSError):
        return exc
    return ConnectionError(str(exc) or type(exc).__name__)
