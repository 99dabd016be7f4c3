# cython: annotation_typing=False
"""Incoming: what is received, and who takes it.

The transport's bytes are parsed as they arrive; messages wait in the inbox until the task takes
them that waits for them, whole or bit by bit. Here is also when reading pauses, and when it is
resumed: a full inbox has to be emptied first, and after much at once the others have their turn.
"""

from __future__ import annotations

from typing import Any

import anyio

from creche.connection.handlers import current_branches
from creche.connection.outgoing import Outgoing
from creche.engine.engine import Account
from creche.exceptions import ConnectionAlreadyClosed, EndOfMessages
from creche.protocol.connection import Connection
from creche.protocol.states import ENDED_WELL, OPEN
from creche.transports.base import Transport


class Incoming(Outgoing):
    """A connection, as far as what it receives goes."""

    def __init__(
        self, transport: Transport, account: Account, connection: Connection, write_limit: int
    ) -> None:
        super().__init__(transport, account, connection, write_limit)
        self._turn = 0  # the last turn of the event loop that the budget has told
        self._continuing = False  # reading pauses until others have had their turn
        self._finished_seen = 0
        self._receiving = False
        self._taking_parts = False  # whether messages are taken bit by bit

    # Defined by what inherits from it

    def _wake_pingers(self) -> None:
        """Pings were answered: let those look again who wait for that."""
        raise NotImplementedError

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
