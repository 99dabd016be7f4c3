# cython: annotation_typing=False
"""Link: joins the protocol of one connection, its transport, and the tasks that wait for it.

Theory of operation
-------------------

`protocol.Connection` decides everything; a transport moves bytes; a Link lets tasks wait.

In: the transport hands bytes to `data_received`, which parses them at once, whoever is waiting for
what, so that control frames are answered and the end is noticed. Messages wait in the protocol's
inbox until a task takes them. When the inbox is full and more arrives, reading pauses.

Out: a sender appends a whole frame to the outbox and calls `commit`, in one synchronous step. Bytes
leave when the transport is flushed: at once for the first message after a wait or a pause,
otherwise at the end of the loop's turn, before the task waits for a message, or at 64 KiB.

Invariants:

1. No application task ever waits for the wire: it waits for an event, and looks again when woken.
2. There is no await between looking and acting: a cancelled call has done nothing.
3. `_update` runs after everything that may have changed the protocol's state, and it alone draws
   the consequences: tasks are woken, handlers cancelled, the transport ended.
4. `gone` is true once the transport is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from creche.connection.handlers import Branch, ConnectionTaskGroup, current_branches
from creche.engine.buffers import COUNTED_FROM
from creche.engine.deadlines import NEVER
from creche.engine.engine import Account
from creche.engine.polling import log_failure
from creche.exceptions import (
    ConnectionAlreadyClosed,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    EndOfMessages,
    PeerHasClosed,
)
from creche.options.declared import ConnectionOptions
from creche.protocol.closing import Close
from creche.protocol.connection import Connection
from creche.protocol.extensions import Extension
from creche.protocol.messages import encode_message, message_opcode
from creche.protocol.pings import Ping
from creche.protocol.prepared import LARGE, PreparedMessage
from creche.protocol.states import CLOSED, ENDED_BADLY, ENDED_WELL, LOST, OPEN, Side
from creche.transports.base import Receiver, Transport

T = TypeVar("T")

# The outbox is flushed at this size, whatever else may be said in the same turn.
_FLUSH_SIZE = 2**16

# A payload from this size on is not copied to the outbox if the kernel takes it at once.
_LARGE = LARGE  # which the compiler knows to be a number

# A sender that has said nothing for so many seconds is taken to have waited for something.
_PAUSE = 0.0002

# So many payloads are counted once for all connections that keep them.
_SHARED_PAYLOADS = 32

# Where a transport cannot be read at once, its task is given so many turns to do so before a
# deadline is judged.
_LOOKS = 5

# Leaving a cancelled scope takes at most so many seconds.
_CANCELLED_CLOSE_TIMEOUT = 1.0


class Link(Receiver):
    """One connection and who waits for it. It knows nothing of the WebSocket in front of it."""

    def __init__(
        self,
        transport: Transport,
        account: Account,
        side: Side,
        options: ConnectionOptions,
        extensions: Sequence[Extension] = (),
    ) -> None:
        self.transport = transport
        engine = account.engine
        self.account = account
        self.engine = engine
        self.connection = Connection(
            side,
            transport.outbox,
            engine.now(),
            max_size=options["max_size"],
            max_fragments=options["max_fragments"],
            max_queue=options["max_queue"],
            max_queue_bytes=options["max_queue_bytes"],
            write_limit=options["write_limit"],
            ping_interval=options["ping_interval"],
            ping_timeout=options["ping_timeout"],
            stall_timeout=options["stall_timeout"],
            close_timeout=options["close_timeout"],
            message_timeout=options["message_timeout"],
            extensions=extensions,
        )
        self.closed_by_us = False
        self._ended_before = False  # whether it had ended badly when we closed it
        self.gone = False
        self._gone_event: anyio.Event | None = None  # made when somebody waits for it
        self._now = engine.now
        self._budget = engine.budget
        self._turn = 0  # the last turn of the event loop that the budget has told
        self._write_limit = options["write_limit"]
        self._key = object()  # marks our own exceptions, without keeping us alive
        self.connection.timers.ping_sooner(engine.next_phase())
        self._timer = engine.schedule(self, self.connection.next_timeout)
        self._drops = False  # whether the end drops what the kernel has not sent yet
        self._hurried = False  # whether the closing handshake has a second at most
        self._looks = 0  # turns that are left to read what has arrived before a deadline is judged
        self._paused = False
        self._continuing = False  # reading pauses until others have had their turn
        self._direct_from = 0.0  # from when on a message goes out at once
        self._sent_at = 0.0  # the time of this send, where the budget has looked at the clock
        self._streaming = False  # whether a sender only stopped to let others have their turn
        self._replying = False  # whether the last message was waited for, and nothing sent since
        self._flush_scheduled = False
        self._counted = 0  # bytes of ours that the account knows
        self._traffic = account.traffic
        self._turns = engine.turns
        self._sent_seen = transport.bytes_sent  # what of it the traffic knows
        self._finished_seen = 0
        self._error: Exception | None = None  # what broke the transport
        self._outcome_seen = False
        # Who waits.
        self._receiving = False
        self._taking_parts = False  # whether messages are taken bit by bit
        self._sending_parts = False  # whether a message is begun and not finished
        self._arrival = engine.new_waiter()
        self._senders: tuple[_Sender, ...] = ()
        self._flushers: tuple[anyio.Event, ...] = ()
        self._pingers: tuple[tuple[Ping, anyio.Event], ...] = ()
        self._groups: tuple[ConnectionTaskGroup, ...] = ()

    def start(self, early_data: bytes) -> None:
        """Begin to read. `early_data` came together with the opening handshake."""
        self.engine.residents.add(self)
        self.transport.start(self.engine, self)
        if early_data:
            self.data_received(bytearray(early_data), len(early_data))

    # Taking messages

    async def next_message(self, iterating: bool = False, part: bool = False) -> Any:
        """Wait for the next message; or for some of it, which comes with whether that is its end.

        Raises:
            StopAsyncIteration: instead of ConnectionClosedOK, where `iterating`.
            ConnectionClosed: there is none to come.
            anyio.BusyResourceError: another task is waiting.
        """
        try:
            self._check_not_busy(part)
            message = None
            turning = self._budget.spend()
            if not turning:
                message = self._take(part)
            elif not (self._has_news() or self._paused):
                turning = False  # it waits anyway
            while message is None:
                self._receiving = True
                try:
                    if not turning:
                        self.flush_now()
                        await self._arrival.wait()
                        turning = self._budget.spend() and self._budget.is_late()
                    if turning:
                        self._streaming = True
                        await self._budget.wait_in_line(self._arrival)
                finally:
                    self._receiving = False
                turning = False
                if part and not self._taking_parts:
                    raise anyio.ClosedResourceError  # another task has closed the stream
                message = self._take(part)
                self._replying = True
            return message
        except (anyio.EndOfStream, ConnectionAlreadyClosed):
            if iterating:
                raise StopAsyncIteration from None
            raise

    def begin_parts(self) -> None:
        """From now on messages are taken bit by bit, by one task.

        Raises:
            anyio.BusyResourceError: another one receives.
        """
        self._check_not_busy(False)
        self._taking_parts = True

    def end_parts(self, finished: bool, begun: bool = True) -> None:
        """Messages are taken whole again; the rest of one that was begun, and not finished, is
        dropped."""
        self._taking_parts = False
        if self._receiving:
            self._arrival.wake()  # it waits through a stream that is no more
        if not begun:
            self.connection.inbox.restore_limit()
        elif not finished:
            self.connection.skip_message()
            if self._paused:
                self._resume()
            self._count()

    def take(self) -> str | bytes | None:
        """The next message; None if it has to be waited for.

        Raises:
            ConnectionClosed: there is none to come.
            anyio.BusyResourceError: another task is waiting.
        """
        self._check_not_busy(False)
        self._replying = False
        if self._budget.spend():
            return None
        message: str | bytes | None = self._take(False)
        return message

    def _check_not_busy(self, part: bool) -> None:
        if self._receiving or (self._taking_parts and not part):
            raise anyio.BusyResourceError("receiving from")

    def _take(self, part: bool) -> Any:
        """The next message, or some of it; None if it has to be waited for."""
        while True:
            if self.closed_by_us:
                raise self.ending(EndOfMessages)
            connection = self.connection
            message: Any
            if part:
                message = connection.next_part(self._now())
            else:
                message = connection.inbox.take_message()
                if message is None and (
                    connection.ended or connection.held or connection.inbox.oversized
                ):
                    message = connection.next_message(self._now())
            resumed = self._paused and connection.inbox.is_low()
            if resumed:
                self._resume()
            if self._counted and connection.kept() <= self._counted >> 1:
                self._count()
            if message is not None or not (resumed or connection.ended):
                return message
            if not resumed:  # otherwise more may have been parsed
                self._report_end()
                raise self.ending(EndOfMessages)

    def _wake_receiver(self) -> None:
        if self._may_go_on():
            self._arrival.wake()

    def _may_go_on(self) -> bool:
        """Whether a task waits for a message, and needs not."""
        return self._receiving and self._has_news()

    def _has_news(self) -> bool:
        """Whether there is something for who receives."""
        inbox = self.connection.inbox
        return (
            bool(inbox.messages)
            or inbox.full
            or self.connection.held
            or self.connection.ended
            or (self._taking_parts and inbox.has_part())
        )

    def _report_end(self) -> None:
        """The application has got to the end of the stream."""
        self.transport.flush()  # the close frame for a peer that broke the protocol
        self._update()
        if self.connection.outcome is ENDED_WELL:
            self.connection.timers.end_taken()
            self._cancel_rest(current_branches())

    # Committing messages

    def is_open(self) -> bool:
        """Whether messages may be sent."""
        return self.connection.can_send and not self.closed_by_us and self._error is None

    def has_room(self) -> bool:
        """Whether a message may be committed before others that wait."""
        return not (self._senders or self._sending_parts or self.is_slow())

    def is_slow(self) -> bool:
        """Whether too much waits for the peer already."""
        return self.transport.waiting() >= self._write_limit

    def check_sendable(self) -> None:
        if not self.is_open():
            raise self.ending(PeerHasClosed)

    def try_send(self, message: object, text: bool | None, compress: bool) -> bool:
        """Commit a message, unless that has to wait; then the sender waits for room first.

        Raises:
            TypeError: `message` is neither str nor bytes-like.
            ValueError: it cannot be UTF-8.
            ConnectionClosed: nothing can be sent any more.
        """
        # The first answer to a message that was waited for need not wait again: the work that a
        # task does for one message is then done in one turn of the loop, and not in two.
        replying, self._replying = self._replying, False
        if self._budget.spend() and not replying:
            return False
        self.check_sendable()
        if not self.has_room():
            return False
        self._sent_at = self._budget.now
        self.send(message, text, compress)
        return True

    def send(self, message: object, text: bool | None, compress: bool) -> None:
        """Commit a message; there is room.

        Args:
            message: str, bytes-like or a PreparedMessage.
            text: whether it is text; None if that is for its type to say.
            compress: whether extensions may change it.

        Raises:
            TypeError: `message` is neither str nor bytes-like.
        """
        if type(message) is PreparedMessage:
            message.check_text(text)
            self._commit_prepared(message, compress, True)
        else:
            opcode = message_opcode(message, text)
            self._commit(opcode, encode_message(message, text), compress, None, True)

    def post(self, message: PreparedMessage, at_once: bool) -> bool:
        """Commit a message of many, if the connection is open and has room; returns whether it was.

        It is written at the end of the turn unless `at_once`.
        """
        if not (self.is_open() and self.has_room()):
            return False
        self._commit_prepared(message, True, at_once)
        return True

    def _commit_prepared(self, message: PreparedMessage, compress: bool, at_once: bool) -> None:
        """Commit a message, as far as possible as it was encoded for others."""
        shared = compress and message.compress
        encoded = message.encode_for(self.connection.extensions if shared else ())
        if encoded is None:
            self._commit(message.opcode, message.payload, True, None, at_once)
        else:
            opcode, payload, frame = encoded
            self._commit(opcode, payload, False, frame, at_once)

    def _commit(
        self,
        opcode: int,
        payload: bytes | memoryview,
        encode: bool,
        frame: bytes | None,
        at_once: bool,
    ) -> None:
        """Commit a message: write it, or append it to the outbox for the end of the turn.

        Args:
            opcode: what it is, with its reserved bits.
            payload: its payload.
            encode: whether extensions may change it.
            frame: the frame without a mask, where it has been made for others.
            at_once: whether it may be written in this call.
        """
        self._traffic.messages_sent += 1
        connection = self.connection
        single = at_once and self._is_single()
        if connection.masking or (encode and connection.extensions):
            connection.send_message(opcode, payload, encode)
        elif len(payload) >= _LARGE:
            connection.send_header(opcode, payload)
            self._write(payload, True)
            connection.observe_sent(opcode, payload)
            return
        elif single and type(payload) is bytes:
            self._write(connection.make_message(opcode, payload, frame), False)
            connection.observe_sent(opcode, payload)
            return
        else:
            connection.send_message(opcode, payload, False)
        if single:
            self._flush()
        else:
            self._appended(at_once)

    def _write(self, data: bytes | memoryview, large: bool) -> None:
        """Write what is a message, or the rest of one."""
        try:
            if large:
                self.transport.write(data)
            else:
                self.transport.write_small(data)  # type: ignore[arg-type]
        except BaseException:
            # What is sent next would be taken for the rest of it.
            self.abort("a message could not be written to its end")
            raise
        self._written()

    async def wait_for_room(self, within: bool = False) -> None:
        """Wait until a message may be committed; the caller commits it without an await.

        Args:
            within: whether the frame may stand within a message that another task has begun: a
                control frame, or one of that message itself.
        """
        if self._budget.spend():
            self._streaming = True
            await self._budget.wait_in_line(self._arrival)
        self.check_sendable()
        if self.has_room() or (within and self._sending_parts and not self.is_slow()):
            return
        self.flush_now()
        sender = _Sender(within)
        self._senders += (sender,)
        try:
            while self._next_sender() is not sender:
                self._wake_sender()  # it may be another's turn by now, who sleeps
                await sender.woken.wait()
                sender.woken = anyio.Event()
                if self._budget.spend() and self._budget.is_late():
                    await self._budget.wait_in_line(self._arrival)
                self.check_sendable()
        finally:
            self._senders = _without(sender, self._senders)
            self._wake_sender()  # woken and cancelled, or room for more: the next one's turn

    def _next_sender(self) -> _Sender | None:
        """Whose turn it is."""
        if self.is_slow():
            return None
        if self._sending_parts:
            return next((sender for sender in self._senders if sender.within), None)
        return self._senders[0] if self._senders else None

    def _wake_sender(self) -> None:
        sender = self._next_sender()
        if sender is not None:
            sender.woken.set()

    # A message in parts

    async def begin_message(self) -> None:
        """Wait until a message may be sent bit by bit; until `end_message` no other one is."""
        await self.wait_for_room()
        self._sending_parts = True
        self._wake_sender()  # one whose frame may stand within

    def send_part(self, opcode: int, payload: bytes | memoryview, fin: bool) -> None:
        """Commit a frame of the message that was begun; there is room."""
        self.connection.send_frame(opcode, payload, fin)
        self._traffic.messages_sent += fin
        self.commit()

    def end_message(self) -> None:
        """Others may send again."""
        self._sending_parts = False
        self._wake_sender()

    def commit(self) -> None:
        """Something was appended to the outbox: write it, now or at the end of the turn."""
        if self._is_single():
            self._flush()
        else:
            self._appended(True)

    def _appended(self, at_once: bool) -> None:
        """Something was appended to the outbox: write it at the end of the turn, or now if it is
        much."""
        if at_once and self.transport.waiting() >= _FLUSH_SIZE:
            self._flush()
        elif not self._flush_scheduled:
            self._turns.run_soon(self.end_turn)  # and then noted: a signal may strike in between
            self._flush_scheduled = True

    def _is_single(self) -> bool:
        """Whether a message that is sent now seems to be none of many; then it is written at once,
        and what follows it soon is not."""
        if self.connection.inbox.messages or (self._direct_from and self._flush_scheduled):
            return False
        now = self._sent_at or perf_counter()
        self._sent_at = 0.0
        if now < self._direct_from:
            return False
        self._direct_from = now + _PAUSE
        return True

    def end_turn(self) -> None:
        """Write what was said in this turn.

        After that the next message goes out at once, unless its sender is at work and has stopped
        only to let others have their turn: then what follows is written together again.
        """
        self._flush_scheduled = False
        self._direct_from = NEVER if self._streaming else 0.0
        self._streaming = False
        if self.transport.waiting():
            try:
                self._flush()
            except Exception as exc:
                self._mistaken(exc)

    def flush_now(self) -> None:
        """Write what the kernel takes; the next message goes out at once again."""
        self._direct_from = 0.0
        self._streaming = False
        if self.transport.waiting():
            self._flush()

    def _flush(self) -> None:
        self.transport.flush()
        self._written()

    def _written(self) -> None:
        """The transport has just been given what there was to write."""
        self._count_sent()
        connection = self.connection
        if connection.output_left():
            self.transport.flush()
        if self.transport.waiting():
            if not connection.timers.is_watching_output():
                # Bytes wait for the peer: it must take some in time.
                delivered = self.transport.bytes_sent - self.transport.unsent()
                connection.timers.output_waits(self._now(), delivered)
                self._reschedule()
            self._count()
        elif self._counted:
            self._count()

    async def wait_until_written(self) -> None:
        """Wait until the kernel has everything."""
        await checkpoint()
        self.flush_now()
        while self.transport.waiting():
            self.check_sendable()
            written = anyio.Event()
            self._flushers += (written,)
            try:
                await written.wait()
            finally:
                self._flushers = _without(written, self._flushers)
        self.check_sendable()

    async def ping(self, payload: bytes | None) -> float:
        """Send a ping and wait for its pong; the seconds it took."""
        await self.wait_for_room(within=True)
        ping = self.connection.send_ping(payload, self._now())
        self.commit()
        self._reschedule()
        pinger = ping, pong = ping, anyio.Event()
        self._pingers += (pinger,)
        try:
            await pong.wait()
        finally:
            self._pingers = _without(pinger, self._pingers)
            self.connection.forget_ping(ping)
        if ping.latency is None:
            raise self.ending(PeerHasClosed)
        return ping.latency

    def set_keepalive(self, ping_interval: float | None, ping_timeout: float | None) -> None:
        """Ping otherwise from now on."""
        self.connection.set_keepalive(self._now(), ping_interval, ping_timeout)
        self._reschedule()

    # Closing

    def begin_close(self, close: Close) -> None:
        """Send a close frame; messages are received until the peer's."""
        self.connection.send_close(close, self._now())
        self.transport.flush()
        self._update()

    def close_for_good(self, close: Close) -> None:
        """Send a close frame; nothing more is received."""
        if not self.closed_by_us:
            self._ended_before = self.connection.outcome is ENDED_BADLY
        self.closed_by_us = True
        self.connection.discard_input()
        self.begin_close(close)
        if self._paused:
            self._resume()
        elif self._counted:
            self._count()

    async def aclose(self, close: Close) -> None:
        """Close and wait for the end; cancelled, end at once.

        Raises:
            RuntimeError: this is another event loop than the connection's.
        """
        if not self._may_close():
            return
        self.close_for_good(close)
        try:
            await self.wait_gone()
        except BaseException:
            self.abort("closing was cancelled")
            raise
        self._cancel_rest(current_branches())

    def _may_close(self) -> bool:
        """Whether there is a closing handshake to wait for.

        Raises:
            RuntimeError: this is another event loop than the connection's.
        """
        if self.engine.is_over():
            self.loop_ends()
            return False
        self.engine.check_current("this connection")
        return True

    async def leave(self, exc: BaseException | None) -> None:
        """The scope of the connection ends, with `exc`: close and be gone.

        It takes as long as the peer takes bytes, and the closing handshake may take then; a second
        at most where somebody cancels.

        Raises:
            RuntimeError: this is another event loop than the connection's.
        """
        if not self._may_close():
            return
        cancelled = exc is not None and not isinstance(exc, Exception)
        self.close_for_good(Close(1000 if exc is None else 1001 if cancelled else 1011))
        try:
            if cancelled:
                await self._leave_quickly()
            else:
                try:
                    if not self.gone:
                        await self.wait_gone()
                except BaseException:
                    await self._leave_quickly()
                    raise
        finally:
            self.abort("the scope of the connection has ended")  # whatever has happened

    async def _leave_quickly(self) -> None:
        """Give the closing handshake one second, whoever cancels."""
        timers = self.connection.timers
        now = self._now()
        since = min(timers.closing_since, now)  # it may have had its second already
        seconds = max(since + min(timers.close_timeout, _CANCELLED_CLOSE_TIMEOUT) - now, 0)
        timers.close_within(seconds, now)
        self._hurried = True
        self._reschedule()
        with anyio.CancelScope(shield=True):
            await self.wait_gone()

    async def wait_gone(self) -> None:
        """Return when the transport is closed; any number of tasks may wait."""
        if self._gone_event is None:
            self._gone_event = anyio.Event()
            if self.gone:
                self._gone_event.set()
        await self._gone_event.wait()

    def abort(self, reason: str) -> None:
        """End the connection at once, without a closing handshake."""
        self._lose(reason, True)

    def _lose(self, reason: str, at_once: bool) -> None:
        """The transport is of no more use; `at_once` drops what the kernel has not sent yet."""
        self._drops = at_once
        self.connection.lose(reason)
        self._update()

    def loop_ends(self) -> None:
        """The event loop ends, or has ended: whatever cannot be done without waiting is not."""
        if self.gone:
            return
        self.close_for_good(Close(1001))
        self.transport.send_eof()
        self.transport.read_now()  # closing with unread input would destroy what was sent
        self._lose("the event loop has ended", False)

    def drop(self) -> None:
        """Nobody holds the connection any more: close it, which nobody waits for."""
        if not self.gone:
            self.close_for_good(Close(1001))

    # The end, told to the application

    @property
    def detail(self) -> str:
        """Why the connection ended, where no close frame tells."""
        connection = self.connection
        if connection.failure is not None:
            return str(connection.failure)
        if connection.received is not None:
            return ""
        return connection.loss if self._error is None else f"connection lost: {self._error}"

    def ending(self, well: type[ConnectionClosedOK]) -> ConnectionClosed:
        """The exception that tells of the end; of the class `well` if it ended well."""
        connection = self.connection
        outcome = connection.outcome
        kind: type[ConnectionClosed]
        if self._ended_by_us():
            kind = ConnectionAlreadyClosed
        elif outcome is ENDED_WELL:
            kind = well
        elif outcome is ENDED_BADLY or self._error is not None:
            kind = ConnectionClosedError
        else:
            kind = ConnectionAlreadyClosed  # send_eof() or Server.shutdown() was called
        exc = kind(connection.received, connection.sent, self.detail)
        exc.set_connection(self._key)
        if kind is ConnectionClosedError:
            exc.__cause__ = connection.failure or self._error
        return exc

    def _ended_by_us(self) -> bool:
        """Whether we have closed a connection that was not lost before: what came first is told
        of it."""
        return self.closed_by_us and not self._ended_before

    def ended_by_peer(self) -> bool:
        """Whether the connection has ended, and not because we have closed it."""
        connection = self.connection
        if self._ended_by_us() or connection.outcome is None:
            return False
        # What is sent in answer to the peer's close frame is that very object.
        answered = connection.sent is None or connection.sent is connection.received
        return answered or connection.outcome is ENDED_BADLY

    def is_own_end(self, exc: BaseException) -> bool:
        return isinstance(exc, ConnectionClosed) and exc.of_connection(self._key)

    def loss(self) -> ConnectionClosed | None:
        if self._ended_by_us() or self.connection.outcome is not ENDED_BADLY:
            return None
        return self.ending(EndOfMessages)

    def join_group(self, group: ConnectionTaskGroup) -> None:
        self._groups += (group,)
        if self.connection.outcome is ENDED_BADLY:
            group.cancel_all()

    def leave_group(self, group: ConnectionTaskGroup) -> None:
        self._groups = _without(group, self._groups)

    def _cancel_rest(self, spared: set[Branch]) -> None:
        for group in self._groups:
            group.cancel_rest(spared)

    # What the transport reports

    def payload_left(self) -> int:
        return self.connection.payload_wanted()

    def turn_begins(self) -> None:
        self._turn = self._budget.seen(self._turn)

    def data_received(self, data: bytearray, size: int) -> None:
        self._traffic.bytes_received += size
        self.connection.receive_data(data, self._now(), size)
        self._after_input()
        if not self.transport.calls_back:
            self._wake_receiver()

    def reading_done(self) -> None:
        if self._may_go_on():
            self._arrival.resume()

    def _after_input(self) -> None:
        connection = self.connection
        finished = connection.inbox.finished
        self._traffic.messages_received += finished - self._finished_seen
        self._finished_seen = finished
        self._count()
        if connection.answered:
            self._wake_pingers()
        if (
            connection.held
            and self._receiving
            and not self._taking_parts
            and not connection.inbox.messages
        ):
            # The task that waits takes whole messages, and the next one is too large.
            connection.next_message(self._now())
        if connection.must_pause():
            if not self._paused:
                self._pause()
        elif connection.must_continue and not self._continuing:
            self._turns.run_soon(self._continue)
            self._continuing = True
            self.transport.pause_reading()
        if connection.timers.is_watching_message():
            self._reschedule()
        if self.transport.waiting() and not self._flush_scheduled:
            self._flush()  # an answer to a ping or a close frame
        if connection.state is not OPEN:
            self._update()

    def eof_received(self) -> None:
        self.connection.receive_eof()
        self._after_input()
        self._wake_receiver()

    def read_failed(self, exc: Exception) -> None:
        self._keep_error(exc)
        self._lose("connection lost", False)

    def write_failed(self, exc: Exception) -> None:
        self._keep_error(exc)
        timers = self.connection.timers
        timers.close_within(timers.close_timeout, self._now())
        self._update()  # nothing waits to be written any more

    def _keep_error(self, exc: Exception) -> None:
        if self._error is None:
            # Its traceback would keep every frame alive that it passed.
            exc.__context__ = exc.__traceback__ = None
            self._error = exc

    def output_left(self) -> None:
        self._count_sent()
        if self.transport.waiting() or self.connection.output_left():
            self._flush()
        self._wake_sender()
        if not self.transport.waiting():
            timers = self.connection.timers
            if timers.is_watching_output() and not self.transport.unsent():
                timers.output_taken()
            if self._counted:
                self._count()
            for written in self._flushers:
                written.set()
        if self.connection.state is not OPEN:
            self._update()

    def _continue(self) -> None:
        """The others have had their turn: parse on."""
        self._continuing = False
        try:
            self.connection.resume(self._now())
            self._after_input()
            self._wake_receiver()
            if not (self._continuing or self._paused):
                self.transport.resume_reading()
        except Exception as exc:
            self._mistaken(exc)

    def _mistaken(self, exc: Exception) -> None:
        """A mistake of ours, in a callback: what follows it on this connection cannot be trusted.
        It ends this one, and no other."""
        log_failure(self)
        self._keep_error(exc)
        self.abort("connection lost")

    # Counting

    def _count_sent(self) -> None:
        """The transport may have written."""
        sent = self.transport.bytes_sent
        self._traffic.bytes_sent += sent - self._sent_seen
        self._sent_seen = sent

    def note_skipped(self) -> None:
        """A message to many has passed over this connection, since it is slow."""
        self._traffic.skipped += 1

    def _count(self) -> None:
        """What we keep has changed."""
        transport = self.transport
        own = self.connection.kept() + len(transport.outbox)
        if self._paused or transport.kept_size or transport.outbox:
            own += transport.kept_below()
        if own >= COUNTED_FROM or transport.kept_size or self._counted:
            payloads = transport.payloads(_SHARED_PAYLOADS)
            if not payloads:
                own += transport.kept_size  # too many to look at all of them each time
            self._counted = self.account.buffers.count(self, own, payloads)

    def shed(self, limit: int) -> None:
        self.connection.discard_input()
        self.abort(f"max_buffered_bytes: all connections together keep more than {limit} bytes")

    # Pausing

    def _pause(self) -> None:
        self._paused = True
        self.transport.pause_reading()
        self.connection.timers.set_paused(True, self._now())
        self._count()

    def _resume(self) -> None:
        """There is room in the inbox: parse what was kept, then read again."""
        now = self._now()
        connection = self.connection
        connection.resume(now)
        if not connection.must_pause():
            self._paused = False
            connection.timers.set_paused(False, now)
            if not self._continuing:
                self.transport.resume_reading()
        self._after_input()
        self._wake_receiver()

    # Deadlines

    def timeout_due(self, now: float) -> float:
        if self._looks:
            return NEVER
        try:
            # The event loop may have been held up, or the whole process: then what the peer has
            # said in time has not been read yet.
            if self.connection.timers.is_over(now) and not self._hurried:
                if not self.transport.read_now():
                    self._turns.run_soon(self._look_again)
                    self._looks = _LOOKS
                    return NEVER
                self._wake_receiver()
            return self._judge(now)
        except Exception as exc:
            self._mistaken(exc)
            return NEVER

    def _look_again(self) -> None:
        """The task that reads has had a turn."""
        self._looks -= 1
        try:
            if self._looks:
                self._turns.run_soon(self._look_again)
            else:
                self._judge(self._now())
                self._reschedule()
        except Exception as exc:  # pragma: no cover - as in timeout_due
            self._mistaken(exc)

    def _judge(self, now: float) -> float:
        """Do what the deadlines ask for; returns the next one."""
        transport = self.transport
        unsent = transport.unsent()
        in_flight = unsent + transport.waiting()
        self._drops = in_flight > 0 and not self._hurried
        out_of_time = self.connection.handle_timeout(now, transport.bytes_sent - unsent, in_flight)
        if transport.waiting():
            self._flush()
        if out_of_time:
            self._cancel_rest(set())
        self._update()
        return self.connection.next_timeout

    def _reschedule(self) -> None:
        due = self.connection.next_timeout
        if due < self._timer.deadline and self._timer.target is not None:
            self._timer.cancel()
            self._timer = self.engine.schedule(self, due)

    # Consequences

    def _update(self) -> None:
        """Draw the consequences of the protocol's state."""
        connection = self.connection
        transport = self.transport
        if connection.state is CLOSED and not transport.waiting():
            if connection.eof:
                connection.lose("")
            elif not connection.masking or connection.failure is not None:
                transport.send_eof()  # the server closes TCP first (RFC 6455 7.1.1)
        if connection.state is LOST and not self.gone:
            if self._drops:
                transport.abort()
            else:
                transport.close()
            self.gone = True
            self.engine.residents.discard(self)
            self._count()
            if self._gone_event is not None:
                self._gone_event.set()
        if self.gone and self.closed_by_us:
            connection.timers.end_taken()
            self._timer.cancel()
        if not self._outcome_seen and connection.outcome is not None:
            self._outcome_seen = True
            if connection.outcome is ENDED_BADLY and not self.closed_by_us:
                for group in self._groups:
                    group.cancel_all()
        self._wake_all()
        self._reschedule()

    def _wake_all(self) -> None:
        """Let everyone look again for whom waiting has no point any more."""
        if self.closed_by_us or self.connection.ended:
            self._arrival.wake()
        if not self.is_open():
            for sender in self._senders:
                sender.woken.set()
            for written in self._flushers:
                written.set()
        if self.closed_by_us or self.connection.outcome is not None:
            for _, pong in self._pingers:
                pong.set()

    def _wake_pingers(self) -> None:
        answered = self.connection.take_answered()
        for ping, pong in self._pingers:
            if ping in answered:
                pong.set()


def _without(one: T, several: tuple[T, ...]) -> tuple[T, ...]:
    """Of those who wait there are mostly none: an empty tuple is one for all connections."""
    return tuple([other for other in several if other is not one])


class _Sender:
    """A task that waits for room in the outbox."""

    __slots__ = ("within", "woken")

    def __init__(self, within: bool) -> None:
        self.within = within
        self.woken = anyio.Event()
