"""The target that is bytes: frames as a fuzzer makes them of those it begins with."""

from __future__ import annotations

import zlib

from creche.handshake.deflate import PerMessageDeflate
from creche.handshake.extensions import choose_from
from creche.protocol.closing import make_close
from creche.protocol.connection import Connection
from creche.protocol.extensions import Extension
from creche.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, append_frame
from creche.protocol.states import Side
from fuzzing.choices import pieces

MAX_SIZE = 2**16


class Inverted(Extension):
    """An extension that inverts the bits of messages, to be combined with another."""

    reserved_bits = Extension.RSV2

    def begin(self) -> None:
        self.waiting = b""

    def feed(self, data: bytes) -> None:
        self.waiting += bytes(byte ^ 0xFF for byte in data)

    def finish(self) -> None:
        pass

    def read(self, limit: int) -> bytes:
        read, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return read


# What the first byte of frames says.
CLIENT, PLAIN, IN_PARTS, OBSERVED, DISCARDED, FEW, CHAINED, CLOSING = (1 << bit for bit in range(8))


def fuzz_frames(data: bytes) -> None:
    """Frames of a peer; the first byte says to whom, and what was agreed on."""
    flags = data[0] if data else 0
    _, agreed = choose_from([PerMessageDeflate(threshold=0)], "permessage-deflate")
    if flags & CHAINED:
        agreed.append(Inverted())
    connection = Connection(
        Side.CLIENT if flags & CLIENT else Side.SERVER,
        bytearray(),
        0,
        extensions=() if flags & PLAIN else agreed,
        max_size=MAX_SIZE,
        max_fragments=3 if flags & FEW else None,
        max_queue=4,
        write_limit=0 if flags & FEW else 2**16,
    )
    if flags & OBSERVED:
        connection.observer = lambda *_: None
    if flags & CLOSING:
        connection.send_close(make_close(1000, ""), 0)
    size = 0
    for piece in pieces(data[1:]):
        connection.receive_data(piece, 0)
        for _ in range(100):
            if flags & IN_PARTS:
                part = connection.next_part(0)
                message = part and part[0]
            else:
                message = connection.next_message(0)
                assert message is None or len(message) <= MAX_SIZE
            connection.resume(0)
            if message is None and not connection.must_continue:
                break
        connection.output_left()
        if flags & DISCARDED:
            connection.discard_input()
        size += len(piece)
        # What waits, the inbox, and what one piece of compressed data becomes.
        assert connection.kept() <= size + 2 * MAX_SIZE + 2**20
        assert len(connection.outbox) <= 2 * size + 200
    connection.receive_eof()
    assert connection.ended
    str(connection.received)
    str(connection.failure)


# What it begins with


def frame(opcode: int, payload: bytes = b"", fin: bool = True, masked: bool = True) -> bytes:
    out = bytearray()
    append_frame(out, opcode, payload, b"\1\2\3\4" if masked else None, fin)
    return bytes(out)


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-12)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def some_frames(masked: bool) -> bytes:
    deflated = b"\xf2\x48\xcd\xc9\xc9\x07\x00"  # "Hello" (RFC 7692 7.2.3.1)
    return b"".join(
        [
            frame(TEXT, "é☃🐍".encode(), masked=masked),
            frame(BINARY, b"x" * 130, masked=masked),
            frame(TEXT | 0x40, deflated, masked=masked),
            frame(TEXT | 0x60, bytes(byte ^ 0xFF for byte in deflated), masked=masked),
            frame(TEXT | 0x40, deflated[:3], fin=False, masked=masked),
            frame(PING, b"?", masked=masked),
            frame(CONTINUATION, deflated[3:], masked=masked),
            frame(PONG, masked=masked),
            frame(CLOSE, make_close(1000, "bye").payload(), masked=masked),
        ]
    )


def header(first: int, length: bytes) -> bytes:
    return bytes([first, 0x80 | length[0]]) + length[1:] + b"\1\2\3\4"


BROKEN_FRAMES = [
    frame(TEXT, b"", masked=False),
    frame(3),
    frame(TEXT | 0x20, b"x"),
    frame(PING | 0x40),
    frame(PING, fin=False),
    frame(CONTINUATION, b"x"),
    frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"),
    frame(TEXT, b"\xe2\x28"),
    frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"\x28"),
    frame(TEXT, b"x" * 40, fin=False) + frame(CONTINUATION, b"\xe2"),
    frame(TEXT | 0x40, b"\xff\xff"),
    *(frame(CLOSE, payload) for payload in (b"", b"x", b"\3\xed", b"\3\xe8\xff", b"\x0b\xb8")),
    frame(CLOSE, b"\x0f\xa0") + frame(TEXT, b"late"),
    header(0x89, b"\x7e\0\x7e"),
    header(0x81, b"\x7e\0\x7d"),
    header(0x82, b"\x7f\0\0\0\0\0\0\xff\xff"),
    header(0x82, b"\x7f\xff\0\0\0\0\1\0\0"),
    header(0x82, b"\x7f\0\0\0\0\0\1\0\0") + b"x" * 99,
    header(0x82, b"\x7f\0\0"),
    frame(BINARY, bytes(MAX_SIZE // 2), fin=False) + frame(CONTINUATION, bytes(MAX_SIZE)),
    frame(TEXT | 0x40, deflate(bytes(2**21))),
    frame(TEXT | 0x40, deflate(bytes(2**21))[:500], fin=False),
    frame(PING, b"?") * 99 + frame(TEXT, b"x") * 9,
    frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 99,
]

SEEDS = [
    # With all that the first byte may say but CLOSING, which is for the fuzzer to find.
    *(bytes([flags, 0]) + some_frames(True) for flags in range(0, 128, 2)),
    *(bytes([flags, 7]) + some_frames(False) for flags in range(1, 128, 2)),
    *(
        bytes([flags, 0]) + broken
        for broken in BROKEN_FRAMES
        for flags in (0, IN_PARTS, FEW, DISCARDED)
    ),
]
