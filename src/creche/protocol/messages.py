# cython: annotation_typing=False
"""Messages: reassembled from frames, kept in parts, joined when they are taken (RFC 6455 5.4, 5.6).

A part is (data, size, fin): text as str or binary as bytes, the bytes of memory it takes, and
whether it ends its message. A small message is one part. A large one is cut into parts as it
arrives, so that what is kept of it is bounded by the inbox and not by the message.

Two sizes are counted, and never compared with each other. One is a message's, in bytes of its
payload, which `max_size` bounds. The other is what is kept in memory: a str takes one byte a
character, or two or four of them where a single character needs that many, so that one emoji makes
a text of 1 MiB one of 4 MiB.
"""

from __future__ import annotations

import codecs
import io
import sys

from creche.protocol.exceptions import PayloadTooBig, ProtocolError
from creche.protocol.frames import BINARY, CONTINUATION, TEXT
from creche.protocol.octets import cut, memory_of

Part = tuple[str | bytes, int, bool]

# What has arrived of an unfinished message becomes a part above this size.
PART_SIZE = 2**20

# Stands for "no limit". The compiled build counts in words of this size.
UNLIMITED = sys.maxsize
_UNLIMITED = UNLIMITED  # which the compiler knows to be a number

# What a part takes beside its data: a tuple, its place in a list, and a number.
PART_OVERHEAD = 120
_PART_OVERHEAD = PART_OVERHEAD

# So many pieces of text are joined to a longer one, so that one-byte fragments cost little more
# memory than the text in them. Those that were joined are not joined again before the end: that
# would copy the beginning of a message again and again.
_MAX_PIECES = 256

# Places of taken parts are given up when there are so many, and half of all.
_MAX_TAKEN = 64

_new_decoder = codecs.getincrementaldecoder("utf-8")


def message_opcode(message: object, text: bool | None = None) -> int:
    """The opcode of a message: str is text, bytes-like is binary, unless `text` says otherwise."""
    return TEXT if (isinstance(message, str) if text is None else text) else BINARY


def encode_message(message: object, text: bool | None = None) -> bytes | memoryview:
    """The payload of a message.

    Raises:
        TypeError: `message` is neither str nor bytes-like.
        ValueError: a str with lone surrogates, or bytes as text, that are not UTF-8.
    """
    if isinstance(message, str):
        return str.encode(message)  # also where a subclass has another way
    if not isinstance(message, bytes | bytearray | memoryview):
        raise TypeError(f"message must be str or bytes-like, not {type(message).__name__}")
    payload = plain_bytes(message)
    if text:
        codecs.utf_8_decode(payload, "strict", True)
    return payload


def plain_bytes(data: bytes | bytearray | memoryview) -> bytes | memoryview:
    """Bytes whose length is what it says: a subclass of bytes may say any of itself, and a view one
    of items with several bytes each.

    Raises:
        TypeError: it is no bytes-like object.
    """
    if type(data) is bytes:
        return data
    view = memoryview(data)
    return view.cast("B") if view.c_contiguous and view.nbytes else view.tobytes()


def _not_utf8(exc: UnicodeDecodeError) -> ProtocolError:
    return ProtocolError(f"text that is not UTF-8: {exc.reason}", 1007)


class Inbox:
    """What has arrived and was not taken yet, in order.

    The writing side is begin_frame, add_payload and end_frame, or add_message for a message that
    is whole. The reading side is take_message, or take_part and skip_message. Bytes are given
    as data[start:stop] of the caller's, who has unmasked them.

    Attributes:
        full: whether a bound is reached; what arrives further has to wait.
        between_messages: whether no message has begun that is not finished.
        messages: whole messages that wait.
        bytes: what the parts take in memory.
        finished: messages that have arrived whole since the beginning.
        oversized: whether the first message cannot be taken whole, since it is too large.
    """

    def __init__(
        self,
        max_size: int | None,
        max_fragments: int | None,
        max_queue: int | None,
        max_queue_bytes: int | None,
    ) -> None:
        self.max_size = UNLIMITED if max_size is None else max_size
        self.max_fragments = UNLIMITED if max_fragments is None else max_fragments
        self.max_queue = UNLIMITED if max_queue is None else max_queue
        self.max_queue_bytes = UNLIMITED if max_queue_bytes is None else max_queue_bytes
        self.full = False
        self.between_messages = True
        self.messages = 0
        self.finished = 0
        # A list costs an idle connection less than a deque: those before the first are taken.
        self.parts: list[Part | None] = []
        self._first = 0
        self.bytes = 0
        # The message that is arriving.
        self._opcode = 0
        self._fragments = 0
        self._arrived = 0  # bytes of its payload
        self._unlimited = False  # whether it is taken bit by bit, or dropped
        self._lifted = False  # whether that was only announced: nothing of it was taken
        # Whether the first message is too large to be taken whole: who was to take it bit by bit
        # has gone before the first bit.
        self.oversized = False
        self._decoder: codecs.IncrementalDecoder | None = None
        self._text: list[str] | None = None  # the pieces of it, if it is text
        self._loose = 0  # the last so many of these were not joined yet
        # Gives the bytes that were written to it without copying them again.
        self._binary: io.BytesIO | None = None
        self._pending = 0  # bytes of memory that these take
        # The message that is being taken.
        self._taken: list[str | bytes] | None = None
        self._taken_size = 0
        self._skipping = False  # what is still to arrive of this message is dropped

    def is_low(self) -> bool:
        """Whether so much room is left that going on is worth it."""
        return self.messages <= self.max_queue >> 2 and self.bytes <= self.max_queue_bytes >> 2

    def kept(self) -> int:
        """What all of it takes in memory, unfinished messages included."""
        return self.bytes + self._pending + self._taken_size

    def clear(self) -> None:
        """Drop everything, also what there is of an unfinished message."""
        self.parts.clear()
        self._first = 0
        self.full = False
        self.oversized = False
        self.messages = 0
        self.bytes = 0
        self._text = None
        self._binary = None
        self._pending = 0
        self._taken = None
        self._taken_size = 0
        self._skipping = False

    def abandon(self) -> None:
        """Drop everything; the unfinished message ends without being looked at."""
        self.clear()
        self._end_message()

    def _end_message(self) -> None:
        self._judge_lifted(self._arrived)
        self.between_messages = True
        self._arrived = 0
        self._unlimited = False
        self._decoder = None

    def _judge_lifted(self, size: int) -> None:
        """A message of this size is whole."""
        if self._lifted:
            self._lifted = False
            self.oversized = size > self.max_size

    # Writing

    def is_unlimited(self) -> bool:
        """Whether the arriving message may have any size."""
        return self._unlimited

    def has_room(self, size: int) -> bool:
        """Whether the arriving message may have so many bytes more."""
        # It may have too many already, where its limit was restored.
        return self._unlimited or size <= self.max_size - self._arrived

    def room(self) -> int:
        """How many bytes more the arriving message may have."""
        return _UNLIMITED if self._unlimited else max(self.max_size - self._arrived, 0)

    def lift_limit(self) -> None:
        """The arriving message, or the next one if none is, may have any size."""
        self._unlimited = self._lifted = True

    def restore_limit(self) -> None:
        """It may not, after all: nobody has taken anything of it."""
        self._unlimited = self._skipping
        self._lifted = False

    def check_order(self, opcode: int) -> None:
        """Whether a data frame may follow the last one (RFC 6455 5.4).

        Raises:
            ProtocolError: a continuation of nothing, or a new message inside another.
        """
        if opcode == CONTINUATION:
            if self.between_messages:
                raise ProtocolError("a continuation frame without a message to continue")
        elif not self.between_messages:
            raise ProtocolError("a new message before the last one was finished")

    def add_message(self, opcode: int, data: bytes | bytearray, start: int, stop: int) -> None:
        """A message that is whole in one frame.

        Raises:
            ProtocolError: it is text and not UTF-8.
        """
        message: str | bytes
        self._unlimited = False
        self._judge_lifted(stop - start)
        if opcode == TEXT:
            try:
                message = data[start:stop].decode("utf-8")
            except UnicodeDecodeError as exc:
                raise _not_utf8(exc) from None
        else:
            message = cut(data, start, stop)
        self._add(message, True)

    def _add(self, data: str | bytes, fin: bool) -> None:
        if self._skipping:
            self._skipping = not fin
            return
        size = _PART_OVERHEAD + memory_of(data)
        self.parts.append((data, size, fin))
        self.bytes += size
        if fin:
            self.messages += 1
            self.finished += 1
        self._measure()

    def _measure(self) -> None:
        self.full = self.messages >= self.max_queue or self.bytes >= self.max_queue_bytes

    def begin_frame(self, opcode: int) -> None:
        """A data frame's header has been read.

        Raises:
            ProtocolError: as check_order.
            PayloadTooBig: more fragments than `max_fragments`.
        """
        self.check_order(opcode)
        if opcode == CONTINUATION:
            if self._fragments >= self.max_fragments:
                raise PayloadTooBig(
                    f"a message of more than max_fragments={self.max_fragments} frames"
                )
            self._fragments += 1
            return
        self.between_messages = False
        self._opcode = opcode
        self._fragments = 1
        if opcode == TEXT:
            self._decoder = _new_decoder("strict")

    def add_payload(self, data: bytes | bytearray, start: int, stop: int) -> None:
        """Some of the current data frame's payload.

        Raises:
            ProtocolError: text that cannot become UTF-8 any more.
        """
        self._arrived += stop - start
        if self._skipping and self._opcode != TEXT:
            return
        with memoryview(data)[start:stop] as piece:
            if self._opcode == TEXT:
                self._decode(piece, False)
            else:
                if self._binary is None:
                    self._binary = io.BytesIO()
                self._binary.write(piece)
                self._pending += stop - start
        if self._pending > PART_SIZE or self._pending > self.max_queue_bytes:
            self._add_part(False)

    def end_frame(self, fin: bool) -> None:
        """The current data frame's payload is complete.

        Raises:
            ProtocolError: the message ends in the middle of a character.
        """
        if not fin:
            return
        if self._opcode == TEXT:
            self._decode(b"", True)
        self._add_part(True)
        self._end_message()

    def _decode(self, data: bytes | memoryview, final: bool) -> None:
        assert self._decoder is not None
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as exc:
            raise _not_utf8(exc) from None
        if text:
            if self._text is None:
                self._text = []
                self._loose = 0
            self._text.append(text)
            self._pending += memory_of(text)
            self._loose += 1
            if self._loose == _MAX_PIECES:
                self._join_loose(self._text)

    def _join_loose(self, pieces: list[str]) -> None:
        loose = pieces[-_MAX_PIECES:]
        joined = "".join(loose)
        pieces[-_MAX_PIECES:] = [joined]
        self._loose = 0
        for piece in loose:
            self._pending -= memory_of(piece)
        self._pending += memory_of(joined)

    def _add_part(self, fin: bool) -> None:
        data: str | bytes
        if self._opcode == TEXT:
            data = "" if self._text is None else "".join(self._text)
            self._text = None
        else:
            data = b"" if self._binary is None else self._binary.getvalue()
            self._binary = None
        self._pending = 0
        self._add(data, fin)

    # Reading

    def take_message(self) -> str | bytes | None:
        """The next whole message; None while there is none, or where it is `oversized`.

        Parts of an unfinished message are taken, too, so that the rest of it finds room.
        """
        while self._first < len(self.parts) and not self.oversized:
            part = self.parts[self._first]
            assert part is not None
            data, size, fin = part
            self._drop_first(size, fin)
            if self._taken is None:
                if fin:
                    return data
                self._taken = []
            self._taken.append(data)
            self._taken_size += size
            if fin:
                return self._join_taken()
        return None

    def _join_taken(self) -> str | bytes:
        taken, self._taken = self._taken, None
        assert taken is not None
        joined: str | bytes = type(taken[0])().join(taken)  # type: ignore[arg-type]
        self._taken_size = 0
        return joined

    def has_part(self) -> bool:
        """Whether take_part would give something, if only the end of a message."""
        return bool(self._taken or self._first < len(self.parts)) or self._has_arriving()

    def _has_arriving(self) -> bool:
        """Whether some of the unfinished message is not a part yet."""
        return not self._skipping and (bool(self._text) or self._binary is not None)

    def take_part(self) -> tuple[str | bytes, bool] | None:
        """What there is of the next message, and whether that is its end; None for nothing yet.

        So the whole message is given bit by bit, however large it is.
        """
        if self._taken:
            data, fin = self._join_taken(), False
        else:
            if self._first == len(self.parts):
                if not self._has_arriving():
                    return None
                self._add_part(False)
            part = self.parts[self._first]
            assert part is not None
            data, size, fin = part
            self._drop_first(size, fin)
        if not fin and self.messages == 0:  # it is of the one that is arriving
            self._unlimited = True
        self._lifted = self.oversized = False
        return data, fin

    def skip_message(self) -> None:
        """Drop the rest of a message that was taken in part, also what has not arrived yet."""
        while (part := self.take_part()) is not None:
            if part[1]:
                return
        self._skipping = self._unlimited = True

    def _drop_first(self, size: int, fin: bool) -> None:
        self.bytes -= size
        if fin:
            self.messages -= 1
        self._measure()
        self.parts[self._first] = None
        self._first += 1
        if self._first == len(self.parts):
            self.parts.clear()
            self._first = 0
        elif self._first >= _MAX_TAKEN and self._first >= len(self.parts) >> 1:
            del self.parts[: self._first]
            self._first = 0
