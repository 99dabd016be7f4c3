# cython: annotation_typing=False
"""What a connection receives: from the transport's bytes to the messages in its inbox.

See connection.py for the whole. Of the invariants that stand there, 4 to 7 are kept here: what a
header says is the peer's word until it has been compared with what there is.
"""

from __future__ import annotations

from creche.protocol.closing import INTERNAL_ERROR
from creche.protocol.control_frames import DRAIN_BYTES, DRAIN_SECONDS, ControlFrames
from creche.protocol.exceptions import PeerError
from creche.protocol.extensions import Chain, Extension, combined_bits
from creche.protocol.frames import CLOSE, CONTINUATION, FrameHeader
from creche.protocol.masking import apply_mask
from creche.protocol.messages import Inbox, plain_bytes
from creche.protocol.sending import SHOWN
from creche.protocol.states import CLOSED, FAILING, LOST, Event, Side
from creche.protocol.timers import Timers

# A payload that an extension has changed is decoded in pieces: so many bytes go in, and come out.
_ENCODED_PIECE = 2**14
_DECODED_PIECE = 2**16

# So many frames are parsed before others get a turn: a few bytes each fill a read with thousands. A
# piece that is decoded counts as several.
FRAMES_IN_A_ROW = 64
_FRAMES_A_PIECE = 8


class Parsing(ControlFrames):
    """What arrives, and what ends it.

    Args:
        side, outbox, extensions: as for Sending.
        timers, write_limit: as for ControlFrames.
        inbox: where to put the messages.
    """

    def __init__(
        self,
        side: Side,
        outbox: bytearray,
        extensions: tuple[Extension, ...],
        timers: Timers,
        write_limit: int,
        inbox: Inbox,
    ) -> None:
        super().__init__(side, outbox, extensions, timers, write_limit)
        self.inbox = inbox
        self.loss = ""  # why the transport was lost, in words
        self.eof = False  # the peer's bytes have ended
        self.held = False  # parsing stopped before what would make a message too large
        self.payload_left = 0  # bytes missing of the data frame that is arriving
        self._discarding = False
        self._dropped = 0
        # Bytes that could not be parsed yet: the start of a frame, or what the inbox had no
        # room for.
        self._tail = bytearray()
        self._finished = 0  # the inbox's count when the unfinished message was looked at
        self._header = FrameHeader(not self.masking, combined_bits(extensions))
        self._decoder: Extension | None = None  # of the message that is arriving
        self._ahead: bytes | None = None  # what was decoded of a message that it makes too large
        self._parsing = False
        self._decoding = False  # whether the decoder may have more to read
        self._finishing = False  # and whether that is the end of the message
        self._fed = 0  # bytes that it was given and may not have read

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

    # The end of what arrives

    def receive_eof(self) -> None:
        """The peer's bytes have ended."""
        self.eof = True
        if not self.ended:
            self.lose("the peer ended the TCP connection without a closing handshake")

    def _drop(self, size: int) -> None:
        """Count what arrives after the end of the frames; too much of it ends the transport."""
        self._dropped += size
        if self._dropped > DRAIN_BYTES and self.state is CLOSED:
            self.lose("the peer went on sending after the end")

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
