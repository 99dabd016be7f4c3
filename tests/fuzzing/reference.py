"""What RFC 6455 and RFC 7692 make of bytes: slow, simple, and written apart from creche.

It looks at all of them at once. Where creche may stop earlier, because a message is too large, both
answers are given.
"""

from __future__ import annotations

import codecs
import zlib
from dataclasses import dataclass, field

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
RSV1 = 0x40

TOO_BIG = 1009
# A message that is taken whole is of no more bytes, also where no limit is set.
LONGEST = 2**63 - 1
# What may stand in a close frame (RFC 6455 7.4).
SENDABLE = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})


@dataclass
class Frame:
    first: int  # its first byte
    length: int
    payload: bytes  # what there is of it


@dataclass
class Decoded:
    frames: list[Frame] = field(default_factory=list)
    messages: list[str | bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    close: tuple[int, str] | None = None
    # The close code for what is wrong.
    failure: int | None = None
    may_be_too_big: bool = False  # or it may be broken before that is seen
    rest: int = 0  # bytes of what is not a whole header


class Broken(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


def read_close(payload: bytes) -> tuple[int, str]:
    if not payload:
        return 1005, ""
    code = int.from_bytes(payload[:2], "big")
    if len(payload) == 1 or code not in SENDABLE:
        raise Broken(1002)
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise Broken(1007) from None


class Message:
    """One that arrives: as a peer's decompressor and decoder see it."""

    def __init__(self, reader: Reader, first: int) -> None:
        self.reader = reader
        self.text = first & 0x0F == TEXT
        self.compressed = first & RSV1 != 0
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.fragments = 0
        self.size = 0
        self.content: list[str] = []
        self.octets = bytearray()
        self.ended = False  # by a final block

    def feed(self, data: bytes, final: bool = False) -> None:
        if self.compressed:
            data = self.inflate(data)
            if final and not self.ended:
                data += self.inflate(b"\0\0\xff\xff")
        self.size += len(data)
        if not self.text:
            self.octets += data
            return
        try:
            self.content.append(self.decoder.decode(data, final))
        except UnicodeDecodeError:
            raise Broken(1007) from None

    def inflate(self, data: bytes) -> bytes:
        out = b""
        while data:
            self.ended = False
            if self.reader.inflater is None:
                self.reader.inflater = zlib.decompressobj(-self.reader.window_bits)
            try:
                out += self.reader.inflater.decompress(data)
            except zlib.error:
                raise Broken(1007) from None
            data = self.reader.inflater.unused_data
            if self.reader.inflater.eof:
                self.reader.inflater = None
                self.ended = not data
        return out


class Reader:
    """Reads the frames of one side.

    Args:
        masked: whether it has to mask.
        takeover: whether compressed messages refer to earlier ones; None for no compression.
        window_bits: how far back they refer.
        max_size: the largest message that is allowed, in bytes.
        max_fragments: the most frames that it may come in.
    """

    def __init__(
        self,
        masked: bool,
        takeover: bool | None,
        window_bits: int = 15,
        max_size: int | None = None,
        max_fragments: int | None = None,
    ) -> None:
        self.masked = masked
        self.takeover = takeover
        self.window_bits = window_bits
        self.max_size = 2**64 if max_size is None else max_size
        self.max_fragments = 2**64 if max_fragments is None else max_fragments
        self.inflater: zlib._Decompress | None = None
        self.message: Message | None = None

    def read(self, data: bytes) -> Decoded:
        decoded = Decoded()
        try:
            while data and decoded.close is None:
                frame, data = self.read_frame(data)
                if frame is None:
                    decoded.rest = len(data)
                    break
                self.take(frame, decoded)
        except Broken as exc:
            decoded.failure = exc.code
        return decoded

    def read_header(self, data: bytes) -> tuple[int, int, bytes, int] | None:
        """The first byte, the length, the masking key and where the payload begins."""
        if not data:
            return None
        first = data[0]
        opcode = first & 0x0F
        allowed = RSV1 if self.takeover is not None and opcode in (TEXT, BINARY) else 0
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise Broken(1002)
        if first & 0x70 & ~allowed or (opcode >= CLOSE and not first & 0x80):
            raise Broken(1002)
        if len(data) == 1:
            return None
        length, place = data[1] & 0x7F, 2
        if bool(data[1] & 0x80) != self.masked or (opcode >= CLOSE and length > 125):
            raise Broken(1002)
        if length > 125:
            size, least = (2, 126) if length == 126 else (8, 2**16)
            octets = data[place : place + size]
            if len(octets) < size:
                return None
            length, place = int.from_bytes(octets, "big"), place + size
            if not least <= length < 2**63:
                raise Broken(1002)
        if not self.masked:
            return first, length, b"\0\0\0\0", place
        key = data[place : place + 4]
        return (first, length, key, place + 4) if len(key) == 4 else None

    def read_frame(self, data: bytes) -> tuple[Frame | None, bytes]:
        """The first frame, with what there is of its payload; a control frame if it is whole."""
        header = self.read_header(data)
        if header is None:
            return None, data
        first, length, key, place = header
        payload = data[place : place + length]
        if first & 0x0F >= CLOSE and len(payload) < length:
            return None, data
        repeated = (key * (len(payload) // 4 + 1))[: len(payload)]
        number = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
        unmasked = number.to_bytes(len(payload), "big")
        return Frame(first, length, unmasked), data[place + len(payload) :]

    def take(self, frame: Frame, decoded: Decoded) -> None:
        decoded.frames.append(frame)
        match frame.first & 0x0F:
            case 9:
                decoded.pings.append(frame.payload)
            case 10:
                pass
            case 8:
                decoded.close = read_close(frame.payload)
            case _:
                self.take_data(frame, decoded)

    def take_data(self, frame: Frame, decoded: Decoded) -> None:
        if (frame.first & 0x0F == CONTINUATION) != (self.message is not None):
            raise Broken(1002)
        if self.message is None:
            self.message = Message(self, frame.first)
        message = self.message
        message.fragments += 1
        if message.fragments > self.max_fragments:
            raise Broken(TOO_BIG)
        if not message.compressed and message.size + frame.length > self.max_size:
            raise Broken(TOO_BIG)
        complete = len(frame.payload) == frame.length
        final = complete and bool(frame.first & 0x80)
        try:
            message.feed(frame.payload, final)
        finally:
            # Of what is broken behind max_size nobody knows.
            if message.compressed:
                decoded.may_be_too_big = self.max_size < LONGEST
        if not final:
            return
        if message.size > self.max_size:
            raise Broken(TOO_BIG)
        decoded.messages.append("".join(message.content) if message.text else bytes(message.octets))
        self.message = None
        if not self.takeover:
            self.inflater = None
