# cython: annotation_typing=False
"""Outgoing: what is sent, and when it leaves.

A message is committed whole, or begun and sent bit by bit. It is written at once, or together with
what else is said in the same turn of the event loop; what the kernel does not take follows by
itself. Here is also who waits for room in the outbox, and who until all of it is written.
"""

from __future__ import annotations

from time import perf_counter

from anyio.lowlevel import checkpoint

from creche.connection.ending import Ending, without
from creche.engine.deadlines import NEVER
from creche.engine.engine import Account, Event
from creche.exceptions import PeerHasClosed
from creche.protocol.connection import Connection
from creche.protocol.messages import encode_message, message_opcode
from creche.protocol.prepared import LARGE, PreparedMessage
from creche.protocol.states import OPEN
from creche.transports.base import Transport

# The outbox is flushed at this size, whatever else may be said in the same turn.
_FLUSH_SIZE = 2**16

# A payload from this size on is not copied to the outbox if the kernel takes it at once.
_LARGE = LARGE  # which the compiler knows to be a number

# A sender that has said nothing for so many seconds is taken to have waited for something.
_PAUSE = 0.0002


class Outgoing(Ending):
    """A connection, as far as what it sends goes."""

    def __init__(
        self, transport: Transport, account: Account, connection: Connection, write_limit: int
    ) -> None:
        super().__init__(transport, account, connection)
        engine = account.engine
        self._budget = engine.budget
        self._write_limit = write_limit
        self._direct_from = 0.0  # from when on a message goes out at once
        self._sent_at = 0.0  # the time of this send, where the budget has looked at the clock
        self._streaming = False  # whether a sender only stopped to let others have their turn
        self._replying = False  # whether the last message was waited for, and nothing sent since
        self._flush_scheduled = False
        self._traffic = account.traffic
        self._sent_seen = transport.bytes_sent  # what of it the traffic knows
        self._sending_parts = False  # whether a message is begun and not finished
        self._arrival = engine.new_waiter()  # for a message, or for one's turn in line
        self._senders: tuple[_Sender, ...] = ()
        self._flushers: tuple[Event, ...] = ()

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
        sender = _Sender(within, self.engine.new_event())
        self._senders += (sender,)
        try:
            while self._next_sender() is not sender:
                self._wake_sender()  # it may be another's turn by now, who sleeps
                await sender.woken.wait()
                sender.woken = self.engine.new_event()
                if self._budget.spend() and self._budget.is_late():
                    await self._budget.wait_in_line(self._arrival)
                self.check_sendable()
        finally:
            self._senders = without(sender, self._senders)
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
            written = self.engine.new_event()
            self._flushers += (written,)
            try:
                await written.wait()
            finally:
                self._flushers = without(written, self._flushers)
        self.check_sendable()

    # What the transport has written

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

    def _count_sent(self) -> None:
        """The transport may have written."""
        sent = self.transport.bytes_sent
        self._traffic.bytes_sent += sent - self._sent_seen
        self._sent_seen = sent

    def note_skipped(self) -> None:
        """A message to many has passed over this connection, since it is slow."""
        self._traffic.skipped += 1


class _Sender:
    """A task that waits for room in the outbox."""

    __slots__ = ("within", "woken")

    def __init__(self, within: bool, woken: Event) -> None:
        self.within = within
        self.woken = woken
