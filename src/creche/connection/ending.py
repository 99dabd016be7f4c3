# cython: annotation_typing=False
"""Ending: how a connection ends.

It is closed by a handshake, for which a scope that is left waits, or aborted, or lost by its
transport, or judged when a deadline is due. Here is also what the end does, whom it cancels, and
how the application is told of it; and who waits until the transport is closed.
"""

from __future__ import annotations

from typing import TypeVar

import anyio

from creche.connection.handlers import Branch, ConnectionTaskGroup, current_branches
from creche.engine.deadlines import NEVER
from creche.engine.engine import Account, Event
from creche.engine.polling import log_failure
from creche.exceptions import (
    ConnectionAlreadyClosed,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    EndOfMessages,
)
from creche.protocol.closing import Close
from creche.protocol.connection import Connection
from creche.protocol.states import CLOSED, ENDED_BADLY, ENDED_WELL, LOST
from creche.transports.base import Receiver, Transport

T = TypeVar("T")

# Where a transport cannot be read at once, its task is given so many turns to do so before a
# deadline is judged.
_LOOKS = 5

# Leaving a cancelled scope takes at most so many seconds.
_CANCELLED_CLOSE_TIMEOUT = 1.0


class Ending(Receiver):
    """A connection, as far as its end goes.

    What raises NotImplementedError here is defined by the classes that inherit from this one.
    """

    def __init__(self, transport: Transport, account: Account, connection: Connection) -> None:
        self.transport = transport
        engine = account.engine
        self.account = account
        self.engine = engine
        self.connection = connection
        self.closed_by_us = False
        self._ended_before = False  # whether it had ended badly when we closed it
        self.gone = False
        self._gone_event: Event | None = None  # made when somebody waits for it
        self._parted: Event | None = None  # set when who leaves quickly need not wait any more
        self._lingers = False  # whether the engine goes on with the connection of a block
        self._now = engine.now
        self._turns = engine.turns
        self._key = object()  # marks our own exceptions, without keeping us alive
        self._timer = engine.schedule(self, connection.next_timeout)
        self._drops = False  # whether the end drops what the kernel has not sent yet
        self._hurried = False  # whether the closing handshake has a second at most
        self._looks = 0  # turns that are left to read what has arrived before a deadline is judged
        self._paused = False
        self._counted = 0  # bytes of ours that the account knows
        self._error: Exception | None = None  # what broke the transport
        self._outcome_seen = False
        self._groups: tuple[ConnectionTaskGroup, ...] = ()

    # Defined by what inherits from it

    def _flush(self) -> None:
        """Write what there is to write."""
        raise NotImplementedError

    def _resume(self) -> None:
        """Read again, if nothing is against it."""
        raise NotImplementedError

    def _wake_receiver(self) -> None:
        """Let the task go on that waits for a message, if it needs not."""
        raise NotImplementedError

    def _wake_all(self) -> None:
        """Let everyone look again for whom waiting has no point any more."""
        raise NotImplementedError

    def _count(self) -> None:
        """What we keep has changed."""
        raise NotImplementedError

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
        at most where somebody cancels. What a client has committed by then and the server has not
        taken, the engine goes on with: within the same bounds, and until the event loop ends.

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
            if not self._lingers:
                self.abort("the scope of the connection has ended")  # whatever has happened

    async def _leave_quickly(self) -> None:
        """Give the closing handshake one second, whoever cancels."""
        timers = self.connection.timers
        now = self._now()
        since = min(timers.closing_since, now)  # it may have had its second already
        seconds = max(since + min(timers.close_timeout, _CANCELLED_CLOSE_TIMEOUT) - now, 0)
        timers.close_within(seconds, now)
        self._hurried = True
        self._parted = self.engine.new_event()
        if self.gone:
            self._parted.set()
        self._reschedule()
        with anyio.CancelScope(shield=True):
            await self._parted.wait()

    async def _linger(self) -> None:
        """Be there when the event loop ends: on asyncio only tasks are told."""
        try:
            await self.wait_gone()
        except BaseException:
            self.loop_ends()
            raise

    async def wait_gone(self) -> None:
        """Return when the transport is closed; any number of tasks may wait."""
        if self._gone_event is None:
            self._gone_event = self.engine.new_event()
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

    # Losing the transport

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

    def _mistaken(self, exc: Exception) -> None:
        """A mistake of ours, in a callback: what follows it on this connection cannot be trusted.
        It ends this one, and no other."""
        log_failure(self)
        self._keep_error(exc)
        self.abort("connection lost")

    def shed(self, limit: int) -> None:
        self.connection.discard_input()
        self.abort(f"max_buffered_bytes: all connections together keep more than {limit} bytes")

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
        if in_flight and self._hurried and self._may_linger(now):
            self._lingers, self._hurried = True, False
            self.connection.timers.close_as_ever()
            self.engine.start_soon(self._linger)
            self._part()
        self._drops = in_flight > 0 and not self._hurried
        out_of_time = self.connection.handle_timeout(now, transport.bytes_sent - unsent, in_flight)
        if transport.waiting():
            self._flush()
        if out_of_time:
            self._cancel_rest(set())
        self._update()
        return self.connection.next_timeout

    def _may_linger(self, now: float) -> bool:
        """Whether a client that was cancelled leaves now: a server's handlers are cancelled where
        nothing is to be left of them."""
        connection = self.connection
        is_client = connection.masking and connection.failure is None
        return is_client and now >= connection.timers.close_due

    def _part(self) -> None:
        if self._parted is not None:
            self._parted.set()

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
            self._part()
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
        self._groups = without(group, self._groups)

    def _cancel_rest(self, spared: set[Branch]) -> None:
        for group in self._groups:
            group.cancel_rest(spared)


def without(one: T, several: tuple[T, ...]) -> tuple[T, ...]:
    """Of those who wait there are mostly none: an empty tuple is one for all connections."""
    return tuple([other for other in several if other is not one])
