# cython: annotation_typing=False
"""Messages: reassembled from frames, kept in parts, joined when they are taken (RFC 6455 5.4, 5.6).

A part is (data, size, fin): text as str or binary as bytes, the bytes it took on the wire, and
whether it ends its message. A small message is one part. A large one is cut into parts as it
arrives, so that what is kept of it is bounded by the inbox and not by the message.
"""

from __future__ import annotations

import codecs
from collections import deque

from creche.protocol.exceptions import PayloadTooBig, ProtocolError
from creche.protocol.frames import BINARY, CONTINUATION, TEXT

Part = tuple[str | bytes, int, bool]

# What arrives of an unfinished message becomes a part at this size.
PART_SIZE = 0x10000

# Pieces of text are joined when there are so many, so that one-byte fragments cost no more
# memory than the text in them.
_MAX_PIECES = 256

_new_decoder = codecs.getincrementaldecoder("utf-8")


def encode_message(message: object) -> tuple[int, bytes | memoryview]:
    """The opcode and payload of a message.

    Raises:
        TypeError: `message` is neither str nor bytes-like.
        ValueError: a str with lone surrogates, which UTF-8 does not have.
    """
    if isinstance(message, str):
        return TEXT, message.encode()
    if isinstance(message, bytes):
        return BINARY, message
    if isinstance(message, bytearray | memoryview):
        view = memoryview(message)
        return BINARY, view.cast("B") if view.c_contiguous else view.tobytes()
    raise TypeError(f"message must be str or bytes-like, not {type(message).__name__}")


def decode_text(data: bytes | bytearray | memoryview) -> str:
    """The text of a whole message.

    Raises:
        ProtocolError: it is not UTF-8 (1007).
    """
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as exc:
        raise _not_utf8(exc) from None


def _not_utf8(exc: UnicodeDecodeError) -> ProtocolError:
    return ProtocolError(f"text that is not UTF-8: {exc.reason}", 1007)


class Inbox:
    """What has arrived and was not taken yet, in order.

    The writing side is begin_frame, add_payload and end_frame, or add_message for a message that
    is whole. The reading side is take_message. `full` says when to stop writing.
    """

    def __init__(
        self,
        max_size: int | None,
        max_fragments: int | None,
        max_queue: int | None,
        max_queue_bytes: int | None,
    ) -> None:
        self.max_size = max_size
        self.max_fragments = max_fragments
        self.max_queue = max_queue
        self.max_queue_bytes = max_queue_bytes
        self.parts: deque[Part] = deque()
        self.messages = 0
        self.bytes = 0
        self.finished = 0  # messages that have arrived whole since the beginning
        # The message that is arriving: None between messages.
        self._opcode: int | None = None
        self._fragments = 0
        self._decoder: codecs.IncrementalDecoder | None = None
        self._text: list[str] = []
        self._binary = bytearray()
        self._pending = 0
        # The message that is being taken.
        self._taken: list[str | bytes] = []
        self._taken_size = 0

    @property
    def full(self) -> bool:
        """Whether a bound is reached; what arrives further has to wait."""
        return (self.max_queue is not None and self.messages >= self.max_queue) or (
            self.max_queue_bytes is not None and self.bytes >= self.max_queue_bytes
        )

    @property
    def low(self) -> bool:
        """Whether so much room is left that going on is worth it."""
        return (self.max_queue is None or self.messages <= self.max_queue >> 1) and (
            self.max_queue_bytes is None or self.bytes <= self.max_queue_bytes >> 1
        )

    @property
    def between_messages(self) -> bool:
        """Whether no message has begun that is not finished."""
        return self._opcode is None

    @property
    def size(self) -> int:
        """All bytes that are kept, those of unfinished messages included."""
        return self.bytes + self._pending + self._taken_size

    def clear(self) -> None:
        """Drop everything, also what there is of an unfinished message."""
        self.parts.clear()
        self.messages = 0
        self.bytes = 0
        self._text.clear()
        self._binary.clear()
        self._pending = 0
        self._taken.clear()
        self._taken_size = 0

    # Writing

    def add_message(self, opcode: int, data: bytes | memoryview) -> None:
        """A message that is whole in one frame.

        Raises:
            ProtocolError: it is text and not UTF-8.
        """
        size = len(data)
        self.parts.append((decode_text(data) if opcode == TEXT else bytes(data), size, True))
        self.messages += 1
        self.finished += 1
        self.bytes += size

    def begin_frame(self, opcode: int) -> None:
        """A data frame's header has been read.

        Raises:
            ProtocolError: a continuation of nothing, or a new message inside another.
            PayloadTooBig: more fragments than `max_fragments`.
        """
        if opcode == CONTINUATION:
            if self._opcode is None:
                raise ProtocolError("a continuation frame without a message to continue")
            self._fragments += 1
            if self.max_fragments is not None and self._fragments > self.max_fragments:
                raise PayloadTooBig(f"a message of more than {self.max_fragments} fragments")
            return
        if self._opcode is not None:
            raise ProtocolError("a new message before the last one was finished")
        self._opcode = opcode
        self._fragments = 1
        if opcode == TEXT:
            self._decoder = _new_decoder("strict")

    def add_payload(self, data: bytes | memoryview) -> None:
        """Some of the current data frame's payload, unmasked.

        Raises:
            ProtocolError: text that cannot become UTF-8 any more.
        """
        size = len(data)
        self._pending += size
        if self._opcode != TEXT:
            self._binary += data
        else:
            self._decode(data, False)
        if self._pending >= PART_SIZE:
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
        self._opcode = None
        self._decoder = None
        self.messages += 1
        self.finished += 1

    def _decode(self, data: bytes | memoryview, final: bool) -> None:
        assert self._decoder is not None
        try:
            text = self._decoder.decode(data, final)
        except UnicodeDecodeError as exc:
            raise _not_utf8(exc) from None
        if text:
            self._text.append(text)
            if len(self._text) > _MAX_PIECES:
                self._text = ["".join(self._text)]

    def _add_part(self, fin: bool) -> None:
        data: str | bytes
        if self._opcode == TEXT:
            data = "".join(self._text)
            self._text.clear()
        else:
            data = bytes(self._binary)
            self._binary.clear()
        self.parts.append((data, self._pending, fin))
        self.bytes += self._pending
        self._pending = 0

    # Reading

    def take_message(self) -> str | bytes | None:
        """The next whole message; None while there is none.

        Parts of an unfinished message are taken, too, so that the rest of it finds room.

        Raises:
            PayloadTooBig: the message is larger than `max_size`.
        """
        parts = self.parts
        while parts:
            data, size, fin = parts.popleft()
            self.bytes -= size
            if fin:
                self.messages -= 1
            taken = self._taken
            total = self._taken_size + size
            if self.max_size is not None and total > self.max_size:
                raise PayloadTooBig(f"a message of more than {self.max_size} bytes")
            if not fin:
                taken.append(data)
                self._taken_size = total
                continue
            if not taken:
                return data
            taken.append(data)
            whole: str | bytes = type(data)().join(taken)  # type: ignore[arg-type]
            taken.clear()
            self._taken_size = 0
            return whole
        return None
