# cython: annotation_typing=False
"""Frames: their headers, read and written (RFC 6455 5.2)."""

from __future__ import annotations

from creche.protocol.exceptions import ProtocolError
from creche.protocol.masking import apply_mask
from creche.protocol.octets import append_bytes, cut, join, pair, quad

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

OPCODES: dict[int, str] = {
    CONTINUATION: "continuation",
    TEXT: "text",
    BINARY: "binary",
    CLOSE: "close",
    PING: "ping",
    PONG: "pong",
}

# The largest payload of a control frame (RFC 6455 5.5).
MAX_CONTROL_PAYLOAD = 125

# A bit for each opcode there is.
_KNOWN = sum(1 << opcode for opcode in OPCODES)


class FrameHeader:
    """Reads the headers of a peer's frames; the attributes are those of the last one.

    Args:
        masked: whether this peer must mask: a client must, a server must not (RFC 6455 5.1).
        reserved_bits: those that extensions have given a meaning (RFC 6455 5.2).

    Attributes:
        fin: whether the frame ends its message.
        opcode: the opcode.
        reserved: the reserved bits that are set.
        length: of the payload, in bytes.
        key: the masking key, None where nothing is masked.
    """

    def __init__(self, masked: bool, reserved_bits: int = 0) -> None:
        self.fin = False
        self.opcode = 0
        self.reserved = 0
        self.length = 0
        self.key: bytes | None = None
        self._masked = masked
        self._reserved_bits = reserved_bits
        self._known = _KNOWN

    def read(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Read the header at data[start:end].

        What is wrong is noticed with the byte that makes it so.

        Returns:
            Where its payload begins; -1 while it is incomplete.

        Raises:
            ProtocolError: the header breaks RFC 6455 5.2 or 5.5.
        """
        if start >= end:
            return -1
        first = data[start]
        opcode = first & 0x0F
        reserved = first & 0x70
        if reserved or not self._known >> opcode & 1 or first & 0x88 == 0x08:
            self._check_first(first, opcode)
        if start + 1 == end:
            return -1
        second = data[start + 1]
        length = second & 0x7F
        if second >> 7 != self._masked:
            raise ProtocolError(
                "a frame of the client is not masked"
                if self._masked
                else "a frame of the server is masked"
            )
        if opcode & 0x8 and length > MAX_CONTROL_PAYLOAD:
            raise ProtocolError(f"a {OPCODES[opcode]} frame of more than 125 bytes")

        start += 2
        if length == 126:
            if start + 2 > end:
                return -1
            length = data[start] << 8 | data[start + 1]
            if length < 126:
                raise ProtocolError("a payload length that is not minimally encoded")
            start += 2
        elif length == 127:
            if start + 8 > end:
                return -1
            if data[start] & 0x80:
                raise ProtocolError("a payload length with its most significant bit set")
            length = 0
            for i in range(start, start + 8):
                length = length << 8 | data[i]
            if length < 0x10000:
                raise ProtocolError("a payload length that is not minimally encoded")
            start += 8
        if self._masked:
            if start + 4 > end:
                return -1
            self.key = cut(data, start, start + 4)
            start += 4
        self.fin = first & 0x80 != 0
        self.opcode = opcode
        self.reserved = reserved
        self.length = length
        return start

    def _check_first(self, first: int, opcode: int) -> None:
        if first & 0x70 & ~self._reserved_bits:
            raise ProtocolError("a reserved bit is set that no extension gave a meaning to")
        if opcode not in OPCODES:
            raise ProtocolError(f"unknown opcode {opcode:#x}")
        if first & 0x70 and opcode != TEXT and opcode != BINARY:
            raise ProtocolError(f"a {OPCODES[opcode]} frame has a reserved bit of messages set")
        if first & 0x88 == 0x08:
            raise ProtocolError(f"a {OPCODES[opcode]} frame is fragmented")


def make_header(opcode: int, length: int, fin: bool, masked: bool) -> bytes:
    """A frame's header, apart from its masking key."""
    if fin:
        opcode |= 0x80
    mask_bit = 0x80 if masked else 0
    if length < 126:
        return pair(opcode, length | mask_bit)
    if length < 0x10000:
        return quad(opcode, 126 | mask_bit, length >> 8, length & 0xFF)
    return pair(opcode, 127 | mask_bit) + length.to_bytes(8, "big")


def make_frame(opcode: int, payload: bytes | bytearray | memoryview) -> bytes:
    """A whole message in one frame that is not masked."""
    return join(make_header(opcode, len(payload), True, False), payload)


def append_frame(
    out: bytearray,
    opcode: int,
    payload: bytes | bytearray | memoryview,
    key: bytes | None = None,
    fin: bool = True,
) -> None:
    """Append one whole frame to `out`, masked with `key` where there is one.

    `payload` is read once and not kept: the caller may change it afterwards.
    """
    begin = len(out)
    try:
        append_bytes(out, make_header(opcode, len(payload), fin, key is not None))
        if key is None:
            append_bytes(out, payload)
        else:
            append_bytes(out, key)
            start = len(out)
            append_bytes(out, payload)
            apply_mask(out, start, len(out), key)
    except BaseException:
        # There is no memory for the payload: what is sent next would be taken for it.
        del out[begin:]
        raise
