# cython: annotation_typing=False
"""The control frames of a connection: its pings, its pongs, and how it closes (RFC 6455 5.5, 7).

Here is also its state, which nothing but the closing handshake, a violation and the loss of the
transport change. See connection.py for the whole.
"""

from __future__ import annotations

from creche.protocol.closing import MAX_REASON_BYTES, NORMAL_CODES, Close, parse_close
from creche.protocol.exceptions import PeerError
from creche.protocol.extensions import Extension
from creche.protocol.frames import CLOSE, PING, PONG
from creche.protocol.pings import Ping, Pings
from creche.protocol.sending import Sending
from creche.protocol.states import (
    CLOSED,
    CLOSING,
    ENDED_BADLY,
    ENDED_WELL,
    FAILING,
    LOST,
    OPEN,
    TRANSITIONS,
    Event,
    Outcome,
    Side,
)
from creche.protocol.timers import Timers

# After a violation so much of what still arrives is read and dropped, and for so long: closing a
# socket with unread input would destroy our close frame on its way.
DRAIN_BYTES = 2**20
DRAIN_SECONDS = 1.0


class ControlFrames(Sending):
    """Control frames, both ways, and the state that they lead to.

    Args:
        side, outbox, extensions: as for Sending.
        timers: its deadlines.
        write_limit: bytes in the outbox above which pings are not answered one by one.
    """

    def __init__(
        self,
        side: Side,
        outbox: bytearray,
        extensions: tuple[Extension, ...],
        timers: Timers,
        write_limit: int,
    ) -> None:
        super().__init__(side, outbox, extensions)
        self.state = OPEN
        self.ended = False  # whether nothing is to come after what is in the inbox
        self.can_send = True  # whether messages may still be sent
        self.must_continue = False  # parsing stopped for the sake of others: call `resume`
        self.timers = timers
        self.received: Close | None = None
        self.sent: Close | None = None
        self.failure: PeerError | None = None  # what the peer did wrong
        self.answered: tuple[Ping, ...] = ()  # pings with a pong, for the caller to take
        self.latency: float | None = None  # seconds, of the last ping with a pong
        self._write_limit = write_limit
        self._pings = Pings()
        self._keepalive: bytes | None = None
        self._pong_waiting: bytes | None = None

    @property
    def outcome(self) -> Outcome | None:
        """How the connection ended; None while it has not, or while it is still in the stream."""
        if self.state is not CLOSED and self.state is not LOST:
            return None
        if self.received is None or self.failure is not None:
            return ENDED_BADLY
        return ENDED_WELL if self.received.code in NORMAL_CODES else ENDED_BADLY

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]
        self.can_send = self.state is OPEN or self.state is FAILING
        self.ended = not (self.state is OPEN or self.state is CLOSING)
        if self.ended:
            self.must_continue = False

    # Control frames of the peer

    def _control(self, opcode: int, payload: bytes, now: float) -> None:
        if opcode == PING:
            self._answer(payload)
        elif opcode == PONG:
            self._pong_received(payload, now)
        else:
            self._close_received(parse_close(payload), now)

    def _answer(self, payload: bytes) -> None:
        if not self.can_send:
            return
        # A peer that sends pings and reads nothing must not grow the outbox.
        if len(self.outbox) < self._write_limit:
            self.send_pong(payload)
        else:
            self._pong_waiting = payload

    def flush_pong(self) -> None:
        """Answer the newest ping, if that had to wait for room in the outbox."""
        payload = self._pong_waiting
        if payload is not None:
            self._pong_waiting = None
            self.send_pong(payload)

    def output_left(self) -> bool:
        """The transport has taken bytes off the outbox; returns whether a pong was appended."""
        if self._pong_waiting is None or len(self.outbox) >= self._write_limit:
            return False
        self.flush_pong()
        return True

    def _pong_received(self, payload: bytes, now: float) -> None:
        answered = self._pings.answer(payload, now)
        if answered:
            self.answered += answered
            self.latency = answered[-1].latency
        if not self._pings:
            self.timers.all_answered()

    def take_answered(self) -> tuple[Ping, ...]:
        """The pings that have got a pong since the last call."""
        answered, self.answered = self.answered, ()
        return answered

    def _close_received(self, close: Close, now: float) -> None:
        if self.state is OPEN:
            self._append_close(close)
        self.received = close
        self._move(Event.CLOSE_RECEIVED)
        self.timers.expect_close(now)
        self.timers.end_within(self.timers.close_timeout, now)

    # Ours

    def send_ping(self, payload: bytes | None, now: float) -> Ping:
        """Append a ping; its payload is made up if there is none.

        Raises:
            ValueError: a ping with this payload is unanswered, or it is longer than 125 bytes.
        """
        if payload is None:
            payload = self._pings.make_payload()
        elif payload in self._pings:
            raise ValueError(f"data {payload!r} is that of a ping without an answer yet")
        self._send_control(PING, payload)
        self.timers.expect_pong(now)
        return self._pings.add(payload, now)

    def forget_ping(self, ping: Ping) -> None:
        """Nobody waits for this ping any more."""
        self._pings.forget(ping.payload)

    def set_keepalive(
        self, now: float, ping_interval: float | None, ping_timeout: float | None
    ) -> None:
        """Ping otherwise from now on, while the connection is open."""
        if self.state is OPEN:
            self.timers.set_keepalive(now, ping_interval, ping_timeout)

    def _send_keepalive(self, now: float) -> None:
        # Where nothing is expected of it (no ping_timeout), an unanswered one is forgotten.
        if self._keepalive is not None:
            self._pings.forget(self._keepalive)
        self._keepalive = self.send_ping(None, now).payload

    def send_pong(self, payload: bytes) -> None:
        """Append an unsolicited pong (RFC 6455 5.5.3).

        Raises:
            ValueError: `payload` is longer than 125 bytes.
        """
        self._send_control(PONG, payload)

    def send_close(self, close: Close, now: float) -> None:
        """Start the closing handshake, unless it is under way.

        A peer that broke the protocol is told of that instead.
        """
        if self.state is FAILING:
            self.fail(now)
        elif self.state is OPEN:
            self._append_close(close)
            self._move(Event.CLOSE_SENT)
            self.timers.expect_close(now)

    def _append_close(self, close: Close) -> None:
        self.flush_pong()
        self.sent = close
        self._send_control(CLOSE, close.payload())
        self.timers.stop_keepalive()

    def fail(self, now: float) -> None:
        """Tell the peer what it did wrong (RFC 6455 7.1.7)."""
        assert self.failure is not None
        reason = str(self.failure).encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        self._append_close(Close(self.failure.close_code, reason))
        self._move(Event.CLOSE_SENT)
        self.timers.close_within(min(self.timers.close_timeout, DRAIN_SECONDS), now)
