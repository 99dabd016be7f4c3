# cython: annotation_typing=False
"""One end of an open connection: bytes and times in, messages and bytes out (RFC 6455 5 to 7).

Theory of operation
-------------------

The opening handshake is over when a Connection comes to be. Four things happen to it:

- the transport read bytes: `receive_data`, or `receive_eof` at their end;
- the application sends: `send_message`, `send_ping`, `send_pong`, `send_close`;
- the application takes what arrived: `next_message`;
- time passes: `handle_timeout`, due at `next_timeout`.

Everything it wants written is appended to `outbox`, whole frames only; the transport takes bytes
off its front. Nothing here waits, reads a clock or touches a socket, so that every call is one
indivisible step. The caller looks at `state`, `ended`, `outcome` and `outbox` after each.

The class stands on three others, each on the one before: Sending (sending.py) has the messages that
are sent, ControlFrames (control_frames.py) the pings, the pongs, the closing handshake and the
state, Parsing (parsing.py) what arrives and how that ends. Connection itself is the whole: it makes
the parts, and has what the application takes and what time asks for. Below is what they all keep.

Invariants:

1. The state changes only by TRANSITIONS (in states.py), only in `_move`.
2. After our close frame nothing else is appended to the outbox, apart from what waited before it.
3. What the peer did wrong takes its place in the stream: messages that were whole before it are
   still taken, and answered. The close frame that tells the peer is sent when `next_message` gets
   to that place, or `close_timeout` later.
4. Parsing stops when the inbox is full, or after FRAMES_IN_A_ROW frames, so that no peer can hold
   up the others. What is left is kept, and the caller stops reading.
5. No view of the caller's buffer outlives `receive_data`.
6. A length is the peer's word, and anything up to 2**63 - 1: it is compared with what is there and
   with what is allowed, by subtraction. Nothing is added to it before: the sum would be beyond what
   the compiled build can hold.
7. Nothing is kept of a message that is larger than `max_size`. How large it may be depends on who
   takes it: `next_message` has that bound, `next_part` has none. Where neither has begun with it,
   parsing stops before the frame that makes it too large (`held`), until one of them asks: then
   `next_message` fails the connection, and `next_part` has it go on.
"""

from __future__ import annotations

from collections.abc import Sequence

from creche.protocol.closing import POLICY_VIOLATION
from creche.protocol.exceptions import PayloadTooBig, ProtocolError
from creche.protocol.extensions import Extension
from creche.protocol.messages import Inbox
from creche.protocol.parsing import Parsing
from creche.protocol.states import FAILING, Side
from creche.protocol.timers import Timers, Verdict


class Connection(Parsing):
    """The protocol of one connection, without I/O.

    Args:
        side: which end this is.
        outbox: where to append what is to be written; the transport's.
        now: the time, in seconds.
        max_size: the largest message that next_message returns, in bytes; None for no limit.
        max_fragments: the most frames a message may come in; None for no limit.
        max_queue: messages in the inbox at which parsing stops; None for no limit.
        max_queue_bytes: bytes in the inbox at which parsing stops; None for no limit.
        write_limit: bytes in the outbox above which pings are not answered one by one.
        ping_interval: seconds of silence after which a ping is sent; None for no pings.
        ping_timeout: seconds in which a ping must be followed by a sign of life; None for ever.
        stall_timeout: seconds in which the peer must take some of what waits; None for ever.
        close_timeout: seconds that closing may take without the peer taking bytes.
        linger_timeout: seconds that it may take in all.
        message_timeout: seconds that a message may take from its first byte to its last, not
            counting those in which we do not read; None for ever.
        extensions: those that were agreed on, in the order of the header.
    """

    def __init__(
        self,
        side: Side,
        outbox: bytearray,
        now: float,
        *,
        max_size: int | None = 2**20,
        max_fragments: int | None = 2**17,
        max_queue: int | None = 64,
        max_queue_bytes: int | None = 2**20,
        write_limit: int = 2**16,
        ping_interval: float | None = 20,
        ping_timeout: float | None = 20,
        stall_timeout: float | None = 40,
        close_timeout: float = 10,
        linger_timeout: float = 120,
        message_timeout: float | None = 60,
        extensions: Sequence[Extension] = (),
    ) -> None:
        timers = Timers(
            *(now, ping_interval, ping_timeout, stall_timeout),
            *(close_timeout, linger_timeout, message_timeout),
        )
        inbox = Inbox(max_size, max_fragments, max_queue, max_queue_bytes)
        super().__init__(side, outbox, tuple(extensions), timers, write_limit, inbox)

    # What the caller looks at

    def must_pause(self) -> bool:
        """Whether bytes wait for the application to take something."""
        return (self.inbox.full or self.held) and (bool(self._tail) or self._decoding)

    def payload_wanted(self) -> int:
        """Bytes that may be read at once without being kept unparsed."""
        return self.payload_left if self._decoder is None else 0

    def kept(self) -> int:
        """Bytes of memory that are taken by what arrived."""
        size = self.inbox.kept()
        if self._tail:
            size += self._tail.__alloc__()
        return size + self._fed

    @property
    def next_timeout(self) -> float:
        """When `handle_timeout` is due; infinity for never."""
        return self.timers.next_timeout

    # Messages out

    def next_message(self, now: float) -> str | bytes | None:
        """The next message of the inbox; None while there is none.

        When it is None and `ended` is true, the application has got to the end of the stream; the
        peer is told of what it did wrong then.
        """
        inbox = self.inbox
        message = inbox.take_message()
        if message is None and (self.held or inbox.oversized):
            inbox.clear()
            self._violation(
                PayloadTooBig(f"a message of more than max_size={inbox.max_size} bytes"), now
            )
        if message is None and self.state is FAILING:
            self.fail(now)
        return message

    def next_part(self, now: float) -> tuple[str | bytes, bool] | None:
        """What there is of the next message, and whether that is its end.

        None while there is nothing. Where it is None and `ended` is true, as for next_message;
        where it is None and `must_pause` was true, `resume` may bring something. A message that is
        taken bit by bit has `message_timeout` for each bit, and no `max_size`.
        """
        part = self.inbox.take_part()
        if part is None and self.held:
            self.inbox.lift_limit()
        self._look_again()
        if part is None and self.state is FAILING:
            self.fail(now)
        if part is not None and self.timers.is_watching_message():
            self.timers.message_began(now)
        return part

    def skip_message(self) -> None:
        """Drop the rest of a message that was taken in part, also what has not arrived yet."""
        self.inbox.skip_message()
        self._look_again()

    def _look_again(self) -> None:
        """The message that arrives may have become one without a limit."""
        if self.held and self.inbox.is_unlimited():
            self.held = False

    # Time

    def handle_timeout(self, now: float, delivered: int = 0, in_flight: int = 0) -> bool:
        """Do what the deadlines that have passed ask for.

        Args:
            now: the time, in seconds.
            delivered: bytes that the peer's side has taken since the beginning.
            in_flight: bytes that wait for it, in the outbox and in the kernel.

        Returns:
            Whether the application has been given its time to take the end of the stream.
        """
        out_of_time = False
        while True:
            verdict = self.timers.expired(now, delivered, in_flight)
            if verdict is Verdict.NOTHING:
                return out_of_time
            if verdict is Verdict.PING:
                self._send_keepalive(now)
            elif verdict is Verdict.END:
                out_of_time = True
                if self.state is FAILING:
                    self.fail(now)
            elif verdict is Verdict.UNFINISHED:
                self._violation(ProtocolError(self.timers.describe(verdict), POLICY_VIOLATION), now)
            else:
                self.lose(self.timers.describe(verdict))
