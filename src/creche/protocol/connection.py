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

from collections.abc import Callable, Sequence

from creche.protocol.closing import (
    INTERNAL_ERROR,
    MAX_REASON_BYTES,
    NORMAL_CODES,
    POLICY_VIOLATION,
    Close,
    parse_close,
)
from creche.protocol.exceptions import PayloadTooBig, PeerError, ProtocolError
from creche.protocol.extensions import Chain, Extension, combined_bits
from creche.protocol.frames import (
    CLOSE,
    CONTINUATION,
    MAX_CONTROL_PAYLOAD,
    PING,
    PONG,
    FrameHeader,
    append_frame,
    make_frame,
    make_header,
)
from creche.protocol.masking import apply_mask, new_key
from creche.protocol.messages import Inbox, plain_bytes
from creche.protocol.pings import Ping, Pings
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
from creche.protocol.timers import Timers, Verdict

# After a violation so much of what still arrives is read and dropped, and for so long: closing a
# socket with unread input would destroy our close frame on its way.
DRAIN_BYTES = 2**20
DRAIN_SECONDS = 1.0

# A payload that an extension has changed is decoded in pieces: so many bytes go in, and come out.
_ENCODED_PIECE = 2**14
_DECODED_PIECE = 2**16

# Called with each frame: whether it is sent, its opcode with reserved bits, the payload's length,
# whether it is the last of its message, and the payload's first bytes, SHOWN at most.
Observer = Callable[[bool, int, int, bool, bytes], object]
SHOWN = 64

# So many frames are parsed before others get a turn: a few bytes each fill a read with thousands. A
# piece that is decoded counts as several.
FRAMES_IN_A_ROW = 64
_FRAMES_A_PIECE = 8


class Connection:
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
        close_timeout: seconds that closing may take.
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
        message_timeout: float | None = 60,
        extensions: Sequence[Extension] = (),
    ) -> None:
        self.side = side
        self.outbox = outbox
        self.state = OPEN
        self.ended = False  # whether nothing is to come after what is in the inbox
        self.can_send = True  # whether messages may still be sent
        self.inbox = Inbox(max_size, max_fragments, max_queue, max_queue_bytes)
        self.timers = Timers(
            now, ping_interval, ping_timeout, stall_timeout, close_timeout, message_timeout
        )
        self.received: Close | None = None
        self.sent: Close | None = None
        self.failure: PeerError | None = None  # what the peer did wrong
        self.loss = ""  # why the transport was lost, in words
        self.eof = False  # the peer's bytes have ended
        self.answered: tuple[Ping, ...] = ()  # pings with a pong, for the caller to take
        self.latency: float | None = None  # seconds, of the last ping with a pong
        self.must_continue = False  # parsing stopped for the sake of others: call `resume`
        self.held = False  # parsing stopped before what would make a message too large
        self.masking = side is Side.CLIENT  # whether we mask what we send (RFC 6455 5.1)
        self._write_limit = write_limit
        self._pings = Pings()
        self._keepalive: bytes | None = None
        self._pong_waiting: bytes | None = None
        self._discarding = False
        self._dropped = 0
        # Bytes that could not be parsed yet: the start of a frame, or what the inbox had no
        # room for.
        self._tail = bytearray()
        self._finished = 0  # the inbox's count when the unfinished message was looked at
        self.extensions = tuple(extensions)
        self._header = FrameHeader(not self.masking, combined_bits(self.extensions))
        self._decoder: Extension | None = None  # of the message that is arriving
        self._ahead: bytes | None = None  # what was decoded of a message that it makes too large
        self._parsing = False
        self._encoding = False
        self._decoding = False  # whether the decoder may have more to read
        self._finishing = False  # and whether that is the end of the message
        self._fed = 0  # bytes that it was given and may not have read
        self.payload_left = 0  # bytes missing of the data frame that is arriving
        self.observer: Observer | None = None

    # What the caller looks at

    @property
    def outcome(self) -> Outcome | None:
        """How the connection ended; None while it has not, or while it is still in the stream."""
        if self.state is not CLOSED and self.state is not LOST:
            return None
        if self.received is None or self.failure is not None:
            return ENDED_BADLY
        return ENDED_WELL if self.received.code in NORMAL_CODES else ENDED_BADLY

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

    # Bytes in

    def receive_data(self, data: bytes | bytearray, now: float, size: int | None = None) -> None:
        """Take bytes that the transport read.

        Args:
            data: where they are. A bytearray is unmasked in place.
            now: the time, in seconds.
            size: how many they are, from the beginning; None for all.

        Raises:
            ValueError: `data` has fewer.
            RuntimeError: this very call is what calls it, by way of an observer or an extension.
        """
        buffer = data if isinstance(data, bytearray) else bytearray(data)
        end = len(buffer) if size is None else size
        if not 0 <= end <= len(buffer):
            raise ValueError(f"size is {end}, but data has {len(buffer)} bytes")
        if self._parsing:
            raise RuntimeError("receive_data() calls itself")
        self.timers.last_received = now
        if self.ended:
            self._drop(end)
        elif self._tail:
            self._tail += buffer if end == len(buffer) else buffer[:end]
            self.resume(now)
        else:
            position = self._parse(buffer, end, now)
            if position < end:
                self._tail += buffer[position:end]
            self._watch_message(now)

    def resume(self, now: float) -> None:
        """Go on parsing what was kept."""
        # An observer or an extension may lead back here: the buffer must not change under its feet.
        if self.ended or self._parsing:
            return
        tail = self._tail
        position = self._parse(tail, len(tail), now)
        del tail[:position]
        self._watch_message(now)

    def _watch_message(self, now: float) -> None:
        """See to it that a message that has begun is finished in time."""
        inbox = self.inbox
        if inbox.between_messages and not self._tail and not self.payload_left:
            if self.timers.is_watching_message():
                self.timers.message_done()
        elif self.ended:
            return
        elif self._finished != inbox.finished or not self.timers.is_watching_message():
            self._finished = inbox.finished
            self.timers.message_began(now)

    def _parse(self, data: bytearray, end: int, now: float) -> int:
        """Parse as far as possible; returns where it stopped."""
        self.must_continue = False
        self._parsing = True
        try:
            position = self._parse_frames(data, end, now)
        except PeerError as exc:
            self._violation(exc, now)
            self._drop(end)
        except Exception as exc:
            # An extension's mistake. What it has not decoded is lost: nothing may follow it.
            failure = PeerError("an extension failed", INTERNAL_ERROR)
            failure.__cause__ = exc
            self._violation(failure, now)
            self._drop(end)
        finally:
            self._parsing = False
        return end if self.ended else position

    def _parse_frames(self, data: bytearray, end: int, now: float) -> int:
        """Parse whole frames and what there is of a data frame; returns where it stopped."""
        inbox = self.inbox
        header = self._header
        position = 0
        turns = FRAMES_IN_A_ROW
        while (position < end or self._decoding) and not self.ended:
            if (inbox.full or self.held) and not self._discarding:
                break
            if self._decoding:
                if turns <= 0:
                    self.must_continue = True
                    break
                turns -= _FRAMES_A_PIECE
                self._decode()
                continue
            if self.payload_left:
                if self._decoder is None and self._is_too_much(self.payload_left):
                    self.held = True
                    break
                position = self._parse_payload(data, position, end)
                continue
            if turns <= 0:
                self.must_continue = True
                break
            turns -= 1
            start = header.read(data, position, end)
            if start < 0:
                break
            whole = header.length <= end - start
            opcode = header.opcode
            if opcode >= CLOSE:
                if not whole:
                    break
                position = start + header.length
                self._control_frame(data, start, position, now)
            elif self._makes_too_large():
                self.held = True
                break
            elif (
                whole
                and header.fin
                and not header.reserved
                and inbox.between_messages
                and opcode != CONTINUATION
            ):
                position = start + header.length
                if self.observer is not None:
                    self._observe_received(data, start, position)
                if not self._discarding:
                    if header.key is not None:
                        apply_mask(data, start, position, header.key)
                    inbox.add_message(opcode, data, start, position)
            else:
                position = start
                self._begin_frame(data, start, end)
        return position

    def _makes_too_large(self) -> bool:
        """Whether the data frame whose header was read is too much for its message.

        What an extension has changed says nothing by its length: it is judged as it is decoded.
        """
        header = self._header
        if not self._is_too_much(header.length):
            return False
        self.inbox.check_order(header.opcode)
        if header.opcode == CONTINUATION:
            return self._decoder is None
        return header.reserved == 0

    def _is_too_much(self, size: int) -> bool:
        """Whether so many bytes more make the arriving message too large."""
        return not (self.inbox.has_room(size) or self._discarding)

    def _control_frame(self, data: bytearray, start: int, stop: int, now: float) -> None:
        """A control frame is whole, its payload is data[start:stop]."""
        header = self._header
        if self.observer is not None:
            self._observe_received(data, start, stop)
        if header.key is not None:
            apply_mask(data, start, stop, header.key)
        self._control(header.opcode, bytes(data[start:stop]), now)

    def _begin_frame(self, data: bytearray, start: int, end: int) -> None:
        """A data frame that is parsed piece by piece begins; what is there is data[start:end]."""
        header = self._header
        if self.observer is not None:
            self._observe_received(data, start, start + min(header.length, end - start))
        self.inbox.begin_frame(header.opcode)
        if header.opcode != CONTINUATION:
            self._choose_decoder(header.reserved)
        self.payload_left = header.length
        if header.length == 0:
            self._end_frame()

    def _observe_received(self, data: bytearray, start: int, stop: int) -> None:
        """Tell of the frame whose header was read, and of what is there of its payload."""
        assert self.observer is not None
        header = self._header
        shown = data[start : start + min(stop - start, SHOWN)]
        if header.key is not None:
            apply_mask(shown, 0, len(shown), header.key)
        opcode = header.opcode | header.reserved
        self.observer(False, opcode, header.length, header.fin, bytes(shown))

    def _parse_payload(self, data: bytearray, position: int, end: int) -> int:
        header = self._header
        size = min(self.payload_left, end - position)
        if self._decoder is not None:
            size = min(size, _ENCODED_PIECE)
        stop = position + size
        if header.key is not None:
            apply_mask(data, position, stop, header.key, header.length - self.payload_left)
        self.payload_left -= size
        if self._decoder is None:
            self.inbox.add_payload(data, position, stop)
        elif not self._discarding:
            self._decoder.feed(bytes(data[position:stop]))
            self._fed = size
            self._decoding = True
        if self.payload_left == 0:
            self._end_frame()
        if self._discarding:
            self.inbox.clear()
        return stop

    def _end_frame(self) -> None:
        """All of a data frame's payload has been parsed."""
        if self._decoding:
            return  # what it became is not all there yet
        if self._decoder is None or not self._header.fin:
            self.inbox.end_frame(self._header.fin)
        elif self._discarding:
            self._decoder = None
            self.inbox.abandon()
        else:
            self._decoder.finish()
            self._decoding = self._finishing = True

    def _choose_decoder(self, reserved: int) -> None:
        """A message begins, whose first frame has these reserved bits."""
        self._decoder = None
        if reserved:
            active = [e for e in reversed(self.extensions) if e.reserved_bits & reserved]
            self._decoder = active[0] if len(active) == 1 else Chain(active)
            self._decoder.begin()

    def _decode(self) -> None:
        """Take the next piece of what the decoder has."""
        assert self._decoder is not None
        data, self._ahead = self._ahead, None
        if data is None:
            room = self.inbox.room()
            # Where there is no more room, one byte tells whether that is the end.
            data = self._decoder.read(max(min(room, _DECODED_PIECE), 1))
            if data is None:
                return  # it has stopped for the sake of others
            if type(data) is not bytes:
                data = bytes(plain_bytes(data))
            if len(data) > room:
                self._ahead = data
                self.held = True
                return
        if data:
            self.inbox.add_payload(data, 0, len(data))
            return
        self._decoding = False
        self._fed = 0
        if self._finishing:
            self._finishing = False
            self._decoder = None
            self.inbox.end_frame(True)
        elif self.payload_left == 0:
            self._end_frame()

    def _control(self, opcode: int, payload: bytes, now: float) -> None:
        if opcode == PING:
            self._answer(payload)
        elif opcode == PONG:
            self._pong_received(payload, now)
        else:
            self._close_received(parse_close(payload), now)

    def _drop(self, size: int) -> None:
        """Count what arrives after the end of the frames; too much of it ends the transport."""
        self._dropped += size
        if self._dropped > DRAIN_BYTES and self.state is CLOSED:
            self.lose("the peer went on sending after the end")

    def receive_eof(self) -> None:
        """The peer's bytes have ended."""
        self.eof = True
        if not self.ended:
            self.lose("the peer ended the TCP connection without a closing handshake")

    def set_keepalive(
        self, now: float, ping_interval: float | None, ping_timeout: float | None
    ) -> None:
        """Ping otherwise from now on, while the connection is open."""
        if self.state is OPEN:
            self.timers.set_keepalive(now, ping_interval, ping_timeout)

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
            self._violation(PayloadTooBig(f"a message of more than {inbox.max_size} bytes"), now)
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

    def discard_input(self) -> None:
        """From now on messages are dropped; only control frames are looked at."""
        self._discarding = True
        self.held = False
        self._ahead = None
        self.inbox.clear()
        if self._decoding:
            self._decoding = self._finishing = False
            self._fed = 0
            if self.payload_left == 0:
                self._end_frame()

    # Sending

    def send_message(self, opcode: int, payload: bytes | memoryview, encode: bool = True) -> None:
        """Append a message in one frame to the outbox.

        Args:
            opcode: TEXT or BINARY.
            payload: the message.
            encode: whether the extensions may change it.
        """
        if encode and self.extensions:
            opcode, payload = self._encode(opcode, payload)
        self.send_frame(opcode, payload)

    def _encode(self, opcode: int, payload: bytes | memoryview) -> tuple[int, bytes | memoryview]:
        """The message as the extensions change it.

        Raises:
            RuntimeError: an extension sends a message meanwhile, which would overtake this one.
            TypeError: one gives something else than bytes.
        """
        if self._encoding:
            raise RuntimeError("an extension sends a message while it encodes another")
        self._encoding = True
        try:
            for extension in self.extensions:
                encoded = extension.encode(payload)
                if encoded is not None:
                    payload = plain_bytes(encoded)
                    opcode |= extension.reserved_bits
        finally:
            self._encoding = False
        return opcode, payload

    def send_frame(self, opcode: int, payload: bytes | memoryview, fin: bool = True) -> None:
        """Append a frame to the outbox; extensions leave it as it is.

        Args:
            opcode: what it is, with its reserved bits.
            payload: its payload.
            fin: whether it is the last of its message.
        """
        append_frame(self.outbox, opcode, payload, new_key() if self.masking else None, fin)
        self.observe_sent(opcode, payload, fin)

    def observe_sent(self, opcode: int, payload: bytes | memoryview, fin: bool = True) -> None:
        """Tell of a frame that is sent. It is in its place by now: the observer may send, too."""
        if self.observer is not None:
            self.observer(True, opcode, len(payload), fin, bytes(payload[:SHOWN]))

    def send_header(self, opcode: int, payload: bytes | memoryview) -> None:
        """Append the header of a message in one frame, whose payload the caller writes next, and
        then calls `observe_sent`.

        Where nothing is masked, a large payload need not be copied to the outbox.
        """
        self.outbox += make_header(opcode, len(payload), True, False)

    def make_message(self, opcode: int, payload: bytes, frame: bytes | None = None) -> bytes:
        """A message in one frame, which the caller writes next, and then calls `observe_sent`; not
        for a client, which masks.

        Args:
            opcode: as for `send_frame`.
            payload: its payload.
            frame: the frame, where it has been made for others.
        """
        return make_frame(opcode, payload) if frame is None else frame

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

    def send_pong(self, payload: bytes) -> None:
        """Append an unsolicited pong (RFC 6455 5.5.3).

        Raises:
            ValueError: `payload` is longer than 125 bytes.
        """
        self._send_control(PONG, payload)

    def _send_control(self, opcode: int, payload: bytes) -> None:
        if len(payload) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"data is {len(payload)} bytes long; a control frame has room for 125")
        self.send_frame(opcode, payload)

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

    # Control frames of the peer

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

    def take_answered(self) -> tuple[Ping, ...]:
        """The pings that have got a pong since the last call."""
        answered, self.answered = self.answered, ()
        return answered

    def _pong_received(self, payload: bytes, now: float) -> None:
        answered = self._pings.answer(payload, now)
        if answered:
            self.answered += answered
            self.latency = answered[-1].latency
        if not self._pings:
            self.timers.all_answered()

    def _close_received(self, close: Close, now: float) -> None:
        if self.state is OPEN:
            self._append_close(close)
        self.received = close
        self._move(Event.CLOSE_RECEIVED)
        self.timers.expect_close(now)
        self.timers.end_within(self.timers.close_timeout, now)

    # Failing

    def _violation(self, exc: PeerError, now: float) -> None:
        # Without its traceback and context, which would keep views of the caller's buffer.
        exc.__context__ = exc.__traceback__ = None
        if self.failure is None:  # what was noticed first is what the peer is told
            self.failure = exc
        self._tail = bytearray()  # the old one may be in use
        self._decoding = self.held = False
        self._fed = 0
        self._ahead = None
        if self.ended:  # a message that is taken late: the frames had ended already
            return
        self._move(Event.VIOLATION)
        self.timers.stop_keepalive()
        if self.state is FAILING:
            self.timers.end_within(self.timers.close_timeout, now)
        else:
            self.timers.close_within(DRAIN_SECONDS, now)

    def fail(self, now: float) -> None:
        """Tell the peer what it did wrong (RFC 6455 7.1.7)."""
        assert self.failure is not None
        reason = str(self.failure).encode()[:MAX_REASON_BYTES].decode(errors="ignore")
        self._append_close(Close(self.failure.close_code, reason))
        self._move(Event.CLOSE_SENT)
        self.timers.close_within(min(self.timers.close_timeout, DRAIN_SECONDS), now)

    def lose(self, reason: str) -> None:
        """The transport is of no more use, or is given up."""
        if self.state is not LOST:
            self._move(Event.TRANSPORT_LOST)
            self.loss = reason
            self.outbox.clear()
            self._tail = bytearray()
            self.held = False  # it is not the size any more that ends the connection
            self._pong_waiting = None
        self.timers.stop()

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]
        self.can_send = self.state is OPEN or self.state is FAILING
        self.ended = not (self.state is OPEN or self.state is CLOSING)
        if self.ended:
            self.must_continue = False

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

    def _send_keepalive(self, now: float) -> None:
        # Where nothing is expected of it (no ping_timeout), an unanswered one is forgotten.
        if self._keepalive is not None:
            self._pings.forget(self._keepalive)
        self._keepalive = self.send_ping(None, now).payload
