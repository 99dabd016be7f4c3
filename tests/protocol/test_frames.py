from __future__ import annotations

import pytest

from creche.protocol import frames
from creche.protocol.exceptions import ProtocolError

KEY = b"\x37\xfa\x21\x3d"


def parse(data: bytes, masked: bool = False) -> tuple[int, bool, int, int, bytes | None] | None:
    """The header's size, FIN, opcode, payload length and masking key; None while incomplete."""
    header = frames.FrameHeader(masked)
    size = header.read(data, 0, len(data))
    return None if size < 0 else (size, header.fin, header.opcode, header.length, header.key)


@pytest.mark.parametrize(
    ("length", "size"), [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10), (2**20, 10)]
)
@pytest.mark.parametrize("key", [None, KEY])
def test_each_length_has_its_shortest_form(length: int, size: int, key: bytes | None) -> None:
    out = bytearray()
    frames.append_frame(out, frames.BINARY, b"x" * length, key)
    header = parse(bytes(out), masked=key is not None)
    expected = size + (4 if key else 0)
    assert header == (expected, True, frames.BINARY, length, key)
    assert len(out) == expected + length


def test_the_examples_of_rfc_6455_5_7() -> None:
    out = bytearray()
    frames.append_frame(out, frames.TEXT, b"Hello")
    assert bytes(out) == bytes.fromhex("810548656c6c6f")
    out.clear()
    frames.append_frame(out, frames.TEXT, b"Hello", KEY)
    assert bytes(out) == bytes.fromhex("818537fa213d7f9f4d5158")
    out.clear()
    frames.append_frame(out, frames.TEXT, b"Hel", fin=False)
    frames.append_frame(out, frames.CONTINUATION, b"lo")
    assert bytes(out) == bytes.fromhex("010348656c80026c6f")


@pytest.mark.parametrize("length", [5, 300, 70000])
@pytest.mark.parametrize("key", [None, KEY])
def test_a_header_is_none_until_its_last_byte(length: int, key: bytes | None) -> None:
    out = bytearray()
    frames.append_frame(out, frames.TEXT, b"x" * length, key)
    header = parse(bytes(out), masked=key is not None)
    assert header is not None
    for cut in range(header[0]):
        assert parse(bytes(out[:cut]), masked=key is not None) is None


@pytest.mark.parametrize(
    ("data", "masked", "message"),
    [
        ("c1", False, "reserved bit"),
        ("a1", False, "reserved bit"),
        ("91", False, "reserved bit"),
        ("83", False, "unknown opcode 0x3"),
        ("87", False, "unknown opcode 0x7"),
        ("8b", False, "unknown opcode 0xb"),
        ("8f", False, "unknown opcode 0xf"),
        ("09", False, "ping frame is fragmented"),
        ("08", False, "close frame is fragmented"),
        ("8100", True, "client is not masked"),
        ("8180", False, "server is masked"),
        ("897e", False, "ping frame of more than 125 bytes"),
        ("8aff", True, "pong frame of more than 125 bytes"),
        ("817e007d", False, "not minimally encoded"),
        ("817f000000000000ffff", False, "not minimally encoded"),
        ("817f8000000000000000", False, "most significant bit"),
    ],
)
def test_a_bad_header_is_noticed_with_the_byte_that_makes_it_bad(
    data: str, masked: bool, message: str
) -> None:
    raw = bytes.fromhex(data)
    with pytest.raises(ProtocolError, match=message) as caught:
        parse(raw, masked)
    assert caught.value.close_code == 1002
    if len(raw) > 1:
        assert parse(raw[:-1], masked) is None


def test_a_header_is_read_in_the_middle_of_a_buffer() -> None:
    header = frames.FrameHeader(False)
    assert header.read(b"??\x82\x01x??", 2, 5) == 4
    assert (header.fin, header.opcode, header.length) == (True, frames.BINARY, 1)


@pytest.mark.parametrize("key", [None, b"abcd"])
def test_a_frame_that_cannot_be_made_leaves_nothing(key: bytes | None) -> None:
    out = bytearray(b"before")
    with pytest.raises(TypeError):
        frames.append_frame(out, frames.BINARY, "no bytes", key)  # type: ignore[arg-type]
    assert out == b"before"
