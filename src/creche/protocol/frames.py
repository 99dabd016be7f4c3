# cython: annotation_typing=False
"""Frames: their headers, read and written (RFC 6455 5.2)."""

from __future__ import annotations

from creche.protocol.exceptions import ProtocolError
from creche.protocol.masking import apply_mask

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

# (size of the header, FIN, opcode, payload length, masking key or None)
Header = tuple[int, bool, int, int, bytes | None]


def parse_header(data: memoryview | bytearray, start: int, end: int, masked: bool) -> Header | None:
    """Read the frame header at data[start:end]; None while it is incomplete.

    What is wrong is noticed with the byte that makes it so. `masked` says whether this peer must
    mask: a client must, a server must not (RFC 6455 5.1).

    Raises:
        ProtocolError: the header breaks RFC 6455 5.2 or 5.5.
    """
    available = end - start
    if available == 0:
        return None
    first = data[start]
    opcode = first & 0x0F
    if first & 0x70:
        raise ProtocolError("a reserved bit is set that no extension gave a meaning to")
    if opcode not in OPCODES:
        raise ProtocolError(f"unknown opcode {opcode:#x}")
    fin = first & 0x80 != 0
    if opcode & 0x8 and not fin:
        raise ProtocolError(f"a {OPCODES[opcode]} frame is fragmented")
    if available == 1:
        return None
    second = data[start + 1]
    length = second & 0x7F
    if (second & 0x80 != 0) is not masked:
        raise ProtocolError(
            "a frame of the client is not masked" if masked else "a frame of the server is masked"
        )
    if opcode & 0x8 and length > MAX_CONTROL_PAYLOAD:
        raise ProtocolError(f"a {OPCODES[opcode]} frame of more than 125 bytes")

    size = 2
    if length == 126:
        size = 4
        if available < size:
            return None
        length = data[start + 2] << 8 | data[start + 3]
        if length < 126:
            raise ProtocolError("a payload length that is not minimally encoded")
    elif length == 127:
        size = 10
        if available < size:
            return None
        length = int.from_bytes(data[start + 2 : start + 10], "big")
        if length >> 63:
            raise ProtocolError("a payload length with its most significant bit set")
        if length < 0x10000:
            raise ProtocolError("a payload length that is not minimally encoded")
    if not masked:
        return size, fin, opcode, length, None
    if available < size + 4:
        return None
    return size + 4, fin, opcode, length, bytes(data[start + size : start + size + 4])


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
    length = len(payload)
    out.append(opcode | 0x80 if fin else opcode)
    mask_bit = 0 if key is None else 0x80
    if length < 126:
        out.append(length | mask_bit)
    elif length < 0x10000:
        out.append(126 | mask_bit)
        out += length.to_bytes(2, "big")
    else:
        out.append(127 | mask_bit)
        out += length.to_bytes(8, "big")
    if key is None:
        out += payload
    else:
        out += key
        out += apply_mask(payload, key)
