# cython: annotation_typing=False
"""The contract that all transports share.

A transport has two lives. Until `start`, one task moves bytes with `receive` and `drain`: that is a
client's opening handshake. From `start` on, bytes that arrive are handed to a receiver as they
come, and `flush` gives the kernel what it takes, at once and without waiting; a task is only
started where somebody must wait. One receiver may follow another: what answers a client's opening
handshake, and then the connection. No application task ever waits for the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from creche.engine.polling import Readiness

# So many bytes are read at once; of a payload that has begun, as many as the read buffer takes.
READ_SIZE = 2**17


class Receiver:
    """What a transport reports to. None of these may raise or wait; here they do nothing."""

    def payload_left(self) -> int:
        """Bytes that are still missing of a payload: so many may be read at once without being
        kept unparsed."""
        return 0

    def turn_begins(self) -> None:
        """Called at most once in a turn of the event loop, before what has arrived is read."""

    def data_received(self, data: bytearray, size: int) -> None:
        """Bytes have arrived: the first `size` of `data`, which is only valid during the call and
        may be overwritten."""

    def reading_done(self) -> None:
        """From a transport that `calls_back`: so much has arrived for now. A task that waits for it
        may go on in this very call."""

    def eof_received(self) -> None:
        """The peer's bytes have ended."""

    def output_left(self) -> None:
        """Bytes of the outbox have left that had to wait."""

    def read_failed(self, exc: Exception) -> None:
        """Reading failed: the transport is of no more use."""

    def write_failed(self, exc: Exception) -> None:
        """Writing failed; the peer's last words may still be read."""


NOBODY = Receiver()


class TaskStarter(Protocol):
    """Starts the children of a transport, in a task group that outlives them.

    Attributes:
        readiness: calls back when a socket is ready; None where a task has to wait for it.
        read_buffer: what this event loop reads into.
    """

    readiness: Readiness | None
    read_buffer: bytearray

    def start_soon(
        self, function: Callable[..., Coroutine[Any, Any, None]], /, *args: Any
    ) -> object: ...


class Transport:
    """Moves the bytes of one connection.

    What raises NotImplementedError here is each transport's own.

    Whoever calls the receiver holds it in a variable of its own: the call may close the transport,
    which lets go of a receiver that nobody else may hold, and C does not wait for its end.

    Attributes:
        outbox: what is to be written, after the payloads that `write` has kept. Append to its end
            and call `flush`; the transport takes bytes off its front.
        kept_size: how many bytes of payloads `write` has kept.
        bytes_sent: how many bytes the layer below has taken since the beginning.
        closed: whether `close` or `abort` was called.
        calls_back: whether it reports what it reads outside of any task, and then `reading_done`.
    """

    def __init__(self) -> None:
        self.outbox = bytearray()
        self._kept: list[memoryview] = []  # what stands before the outbox
        self.kept_size = 0
        self.bytes_sent = 0
        self.closed = False
        self.calls_back = False
        self._receiver = NOBODY
        self._tasks: TaskStarter | None = None

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """AnyIO's typed attributes of the connection."""
        raise NotImplementedError

    async def receive(self) -> bytes:
        """Before `start`: the next bytes; b"" at their end.

        Raises:
            OSError: reading failed.
        """
        raise NotImplementedError

    async def drain(self) -> None:
        """Before `start`: return when the outbox is empty.

        Raises:
            OSError: writing failed.
        """
        raise NotImplementedError

    def start(self, tasks: TaskStarter, receiver: Receiver) -> None:
        """Report to `receiver` from now on, and read; children go to `tasks`. What was reported to
        another receiver before is not reported again."""
        self._receiver = receiver
        if self._tasks is None:
            self._tasks = tasks
            self._begin()
        else:
            self.resume_reading()

    def _begin(self) -> None:
        """Begin to read."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write what the layer below takes without waiting; the rest follows by itself."""
        raise NotImplementedError

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """As if `data` were appended to the outbox and that flushed. What the layer below does not
        take at once is not copied, either, if it is `bytes`: many transports may keep one object.
        """
        self._keep(data, 0)
        self.flush()

    def write_small(self, data: bytes) -> None:
        """As `write`, but what is not taken at once is copied."""
        self.outbox += data
        self.flush()

    def waiting(self) -> int:
        """How many bytes are to be written."""
        return self.kept_size + len(self.outbox)

    def payloads(self, most: int) -> list[bytes]:
        """The objects that `write` was given of which some is to be written; none where these are
        more than `most`."""
        if len(self._kept) > most:
            return []
        return [view.obj for view in self._kept]  # type: ignore[misc]

    def _keep(self, data: bytes | bytearray | memoryview, start: int) -> None:
        """Have `data` from `start` on written after all that waits already."""
        if self.outbox:
            self._keep_view(memoryview(bytes(self.outbox)))
            self.outbox.clear()
        view = memoryview(data)[start:]
        if view:
            self._keep_view(view if type(data) is bytes else memoryview(bytes(view)))

    def _keep_view(self, view: memoryview) -> None:
        self._kept.append(view)
        self.kept_size += len(view)

    def _front(self) -> memoryview | bytearray:
        """What is to be written first."""
        return self._kept[0] if self._kept else self.outbox

    def _taken(self, size: int) -> None:
        """The layer below has taken so many bytes of the front."""
        self.bytes_sent += size
        if self._kept:
            self.kept_size -= size
            self._kept[0] = self._kept[0][size:]
            if not self._kept[0]:
                del self._kept[0]
        else:
            del self.outbox[:size]

    def _drop_output(self) -> None:
        """Nothing is to be written any more."""
        self._kept.clear()
        self.kept_size = 0
        self.outbox.clear()

    def pause_reading(self) -> None:
        """Read nothing more until `resume_reading`. May be called twice."""
        raise NotImplementedError

    def resume_reading(self) -> None:
        """Read again."""
        raise NotImplementedError

    def read_now(self) -> bool:
        """Read what is there, at once; False where only a task can do that, which will soon.

        `reading_done` does not follow."""
        return False

    def send_eof(self) -> None:
        """Shut down writing. Nothing waits to be written. Reading goes on."""
        raise NotImplementedError

    def close(self) -> None:
        """Close at once; nothing is reported any more. May be called twice."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once and drop what the layer below has not sent yet, where it can."""
        self.close()

    async def aclose_forcefully(self) -> None:
        """Close at once, also before `start`."""
        self.close()

    def kept_below(self) -> int:
        """Bytes that TLS keeps: received and not handed on, or encrypted and not sent."""
        return 0

    def unsent(self) -> int:
        """How many of `bytes_sent` the peer's side has not taken yet, as far as is known."""
        return 0

    def _forget(self) -> None:
        """Let go of everything that leads back here."""
        self.closed = True
        self._drop_output()
        self._receiver = NOBODY
        self._tasks = None
