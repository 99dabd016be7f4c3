# cython: annotation_typing=False
"""The deadlines of a connection: times come in, verdicts go out.

Every time is a number of seconds on a clock that only the caller knows; infinity is "never".
"""

from __future__ import annotations

from enum import Enum

NEVER = float("inf")
_NEVER = NEVER  # which the compiler knows to be a number

# A stall is looked at so many times per `stall_timeout`: it is noticed at most so much late.
STALL_CHECKS = 4


class Verdict(Enum):
    """What a deadline that has passed asks for."""

    NOTHING = 0
    PING = 1  # a ping is due
    END = 2  # the application did not take the end of the stream in time
    DEAD = 3  # no pong
    STALLED = 4  # the peer takes nothing
    UNCLOSED = 5  # the closing handshake takes too long
    UNFINISHED = 6  # a message takes too long to arrive


class Timers:
    """When to ping, and when to give the peer up.

    `delivered` is the number of bytes that the peer's side has taken since the beginning, and
    `in_flight` of those that wait for it, as far as can be known: a peer that takes bytes is
    alive, however slow (the kernel hides megabytes of what waits).
    """

    def __init__(
        self,
        now: float,
        ping_interval: float | None,
        ping_timeout: float | None,
        stall_timeout: float | None,
        close_timeout: float,
        linger_timeout: float,
        message_timeout: float | None,
    ) -> None:
        self.ping_interval = _NEVER if ping_interval is None else ping_interval
        self.ping_timeout = _NEVER if ping_timeout is None else ping_timeout
        self.stall_timeout = _NEVER if stall_timeout is None else stall_timeout
        self.close_timeout = close_timeout
        self.linger_timeout = linger_timeout
        self.message_timeout = _NEVER if message_timeout is None else message_timeout
        self.last_received = now
        self.ping_due = now + self.ping_interval
        self.pong_due = _NEVER
        self.stall_due = _NEVER
        self.end_due = _NEVER
        self.close_due = _NEVER
        self.message_due = _NEVER
        self.closing_since = _NEVER  # when the closing handshake began
        # When it is given up: `close_due` is when it is looked at next. And what had been delivered
        # when it was looked at last, -1 before; while that grows, the end is put off, not for ever.
        self._close_end = _NEVER
        self._linger_end = _NEVER
        self._close_mark = -1
        self._closing_hard = False  # whether the end is not put off
        self._lingered = False  # whether it was put off for too long
        self._paused = False
        self._message_left = _NEVER  # seconds for the unfinished message, while we are paused
        # When the ping was sent: when we had heard of the peer last, what had been delivered, and
        # whether more was waiting.
        self._heard_before = self.last_received
        self._pong_mark = 0
        self._pong_behind = False
        # What had been delivered when that last changed, and when it did.
        self._stall_mark = 0
        self._stall_since = now

    @property
    def next_timeout(self) -> float:
        """The earliest deadline."""
        return min(
            self.ping_due,
            self.pong_due,
            self.stall_due,
            self.end_due,
            self.close_due,
            self.message_due,
        )

    def set_keepalive(
        self, now: float, ping_interval: float | None, ping_timeout: float | None
    ) -> None:
        """Ping otherwise from now on."""
        self.ping_interval = _NEVER if ping_interval is None else ping_interval
        self.ping_timeout = _NEVER if ping_timeout is None else ping_timeout
        self.ping_due = max(self.last_received + self.ping_interval, now)
        if self.pong_due != _NEVER:
            self.pong_due = now + self.ping_timeout

    def ping_sooner(self, part: float) -> None:
        """Let the first ping come sooner, by a part (0 to 1) of half the interval.

        Those that connect all at once need not be pinged all at once.
        """
        if self.ping_due != _NEVER:
            # As if the peer had been silent for a while already.
            self.last_received -= part * self.ping_interval / 2
            self.ping_due = self.last_received + self.ping_interval

    def stop(self) -> None:
        """No deadline of the peer's any more; the application's own, to take the end, stays."""
        self.stop_keepalive()
        self.stall_due = self.close_due = _NEVER

    def stop_keepalive(self) -> None:
        """The connection is ending: nothing more is asked of the peer than to close."""
        self.ping_due = self.pong_due = _NEVER
        self.message_done()

    def expect_pong(self, now: float) -> None:
        """A ping was sent; unless an earlier one is unanswered, its answer is due."""
        if self.pong_due == _NEVER:
            self._heard_before = self.last_received
            self.pong_due = now + self.ping_timeout

    def all_answered(self) -> None:
        """No ping is without an answer."""
        self.pong_due = _NEVER

    def set_paused(self, paused: bool, now: float) -> None:
        """Whether we leave the peer's bytes unread: no answer is expected of it meanwhile."""
        self._paused = paused
        if paused:
            self._message_left = self.message_due - now
            self.message_due = _NEVER
            return
        if self.pong_due != _NEVER:
            self.pong_due = max(self.pong_due, now + self.ping_timeout)
        self.message_due = now + self._message_left
        self._message_left = _NEVER

    def is_watching_message(self) -> bool:
        """Whether a message is known to be unfinished."""
        return self.message_due != _NEVER or self._message_left != _NEVER

    def message_began(self, now: float) -> None:
        """Some of a message has arrived, and not all of it."""
        if self._paused:
            self._message_left = self.message_timeout
        else:
            self.message_due = now + self.message_timeout

    def message_done(self) -> None:
        """No message is unfinished."""
        self.message_due = self._message_left = _NEVER

    def is_watching_output(self) -> bool:
        """Whether bytes of ours are known to wait."""
        return self.stall_due != _NEVER

    def output_waits(self, now: float, delivered: int) -> None:
        """The kernel refused some of our bytes."""
        self._stall_mark = delivered
        self._stall_since = now
        self.stall_due = now + self.stall_timeout / STALL_CHECKS

    def output_taken(self) -> None:
        """The peer's side has all of our bytes."""
        self.stall_due = _NEVER

    def is_over(self, now: float) -> bool:
        """Whether a deadline of the peer's has passed."""
        return (
            now >= self.pong_due
            or now >= self.stall_due
            or now >= self.close_due
            or now >= self.message_due
        )

    def expect_close(self, now: float) -> None:
        """The closing handshake must be over in `close_timeout`, or as long after the peer has
        taken the last byte, and in `linger_timeout` in any case; an end that is fixed already
        stays."""
        if self._close_end == _NEVER:
            self.closing_since = now
            self._close_end = now + self.close_timeout
            self._linger_end = now + self.linger_timeout
            self.close_due = min(now + self.close_timeout / STALL_CHECKS, self._linger_end)

    def close_within(self, seconds: float, now: float) -> None:
        """The connection must be over in so many seconds, whatever the peer takes; a sooner
        deadline stays."""
        self.closing_since = min(self.closing_since, now)
        self._close_end = self.close_due = min(self._close_end, now + seconds)
        self._closing_hard = True

    def close_as_ever(self) -> None:
        """`close_within` is over: the closing handshake has the time that it has otherwise."""
        self._closing_hard = False
        self._close_end = self.closing_since + self.close_timeout

    def end_within(self, seconds: float, now: float) -> None:
        """The application has so many seconds to take what arrived before the end."""
        self.end_due = min(self.end_due, now + seconds)

    def end_taken(self) -> None:
        """The application has taken the end."""
        self.end_due = _NEVER

    def expired(self, now: float, delivered: int, in_flight: int) -> Verdict:
        """What a deadline that has passed asks for; to be asked again until it is NOTHING."""
        if now >= self.close_due and self._unclosed(now, delivered):
            return Verdict.UNCLOSED
        if now >= self.end_due:
            self.end_due = _NEVER
            return Verdict.END
        if now >= self.message_due:
            self.message_due = _NEVER
            return Verdict.UNFINISHED
        if now >= self.stall_due and self._stalled(now, delivered, in_flight):
            return Verdict.STALLED
        if now >= self.pong_due and self._dead(now, delivered, in_flight):
            return Verdict.DEAD
        if now >= self.ping_due and self._ping(now, delivered, in_flight):
            return Verdict.PING
        return Verdict.NOTHING

    def describe(self, verdict: Verdict) -> str:
        """Why the connection is given up, in words for the application."""
        if verdict is Verdict.DEAD:
            return f"keepalive ping timeout: no sign of life for {self.ping_timeout:g} s"
        if verdict is Verdict.UNFINISHED:
            return f"message timeout: a message was not finished in {self.message_timeout:g} s"
        if verdict is Verdict.STALLED:
            return f"stall timeout: the peer took no byte for {self.stall_timeout:g} s"
        if self._lingered:
            return f"linger timeout: the peer took over {self.linger_timeout:g} s to take our bytes"
        return f"close timeout: no end to the closing handshake for {self.close_timeout:g} s"

    def _unclosed(self, now: float, delivered: int) -> bool:
        if not self._closing_hard and delivered > self._close_mark:
            if self._close_mark >= 0:
                self._close_end = now + self.close_timeout
            elif now >= self._close_end:
                # We have been held up. What has been delivered is noted, and looked at again.
                self._close_end = now + self.close_timeout / STALL_CHECKS
            self._close_mark = delivered
        self._lingered = now >= self._linger_end
        if self._lingered or now >= self._close_end:
            return True
        soon = now + self.close_timeout / STALL_CHECKS
        self.close_due = min(soon, self._close_end, self._linger_end)
        return False

    def _stalled(self, now: float, delivered: int, in_flight: int) -> bool:
        if delivered > self._stall_mark:
            self._stall_mark = delivered
            self._stall_since = now
        elif now >= self._stall_since + self.stall_timeout:
            return True
        self.stall_due = _NEVER if in_flight == 0 else now + self.stall_timeout / STALL_CHECKS
        return False

    def _dead(self, now: float, delivered: int, in_flight: int) -> bool:
        if self.last_received > self._heard_before:
            self.pong_due = _NEVER
            return False
        taking = delivered > self._pong_mark and (self._pong_behind or in_flight > 0)
        # Where our bytes are refused, the ping cannot be written: that is for `stall_timeout`.
        if self._paused or taking or self.is_watching_output():
            self._pong_mark = delivered
            self._pong_behind = in_flight > 0
            self.pong_due = now + self.ping_timeout
            return False
        return True

    def _ping(self, now: float, delivered: int, in_flight: int) -> bool:
        if self.last_received + self.ping_interval > now:
            # Bytes have come since: that is life enough, ask when it has been quiet.
            self.ping_due = self.last_received + self.ping_interval
            return False
        self.ping_due = now + self.ping_interval
        if self.pong_due != _NEVER and not self._paused:
            return False
        # While we do not read, pings go on: they tell the peer, whose own we leave unread, that we
        # are alive.
        self._pong_mark = delivered
        self._pong_behind = in_flight > 0
        return True
