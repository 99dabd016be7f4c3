"""Targets that are one function: headers and masks, written and read at every boundary."""

from __future__ import annotations

from fuzzing import builds
from fuzzing.buffers import exact_bytes, limited
from fuzzing.builds import Build
from fuzzing.choices import Choices, Fuzzed, one_of, rarely
from fuzzing.reference import Broken, Reader
from fuzzing.scenarios import BOUNDARIES, KEYS, OCTETS, SIZES

INSTALLED = builds.installed()
PURE = builds.pure()

LENGTHS = tuple(length for length in BOUNDARIES if length < 2**63)


def any_key(choices: Choices) -> bytes:
    return choices.octets(4) if rarely(choices, 2) else one_of(choices, KEYS)


def any_payload(choices: Choices, sizes: tuple[int, ...] = (*SIZES, 65535, 65536)) -> bytes:
    size = one_of(choices, sizes) if choices.number(0, 1) else choices.number(0, 300)
    start = choices.number(0, 255)
    return (OCTETS[start:] + OCTETS * (size // 256 + 1))[:size]


def xored(payload: bytes, key: bytes, offset: int = 0) -> bytes:
    """Byte by byte, as the standard has it (RFC 6455 5.3)."""
    return bytes([octet ^ key[(place + offset) % 4] for place, octet in enumerate(payload)])


# Headers


def fuzz_headers(data: bytes) -> None:
    """A header in a buffer, read; one with any length, written; a frame, appended."""
    choices = Fuzzed(data)
    for _ in range(8):
        read_header(choices)
        write_header(choices)
        append(choices)


def some_header(choices: Choices) -> bytes:
    length = one_of(choices, BOUNDARIES)
    first = one_of(choices, (0x81, 0x82, 0x01, 0x80, 0xC1, 0x89, 0x8A, 0x88))
    if rarely(choices, 8):
        first = choices.number(0, 255)
    mask_bit = 0x80 * choices.number(0, 1)
    size = 0 if length < 126 else 2 if length < 2**16 else 8
    if rarely(choices, 8):
        size = one_of(choices, (0, 2, 8))
    second = min(length, 125) if size == 0 else 126 if size == 2 else 127
    declared: bytes = (length % 2 ** (8 * size)).to_bytes(size, "big")
    return bytes([first, second | mask_bit]) + declared + choices.octets(4)


def read_header(choices: Choices) -> None:
    masked, deflated = bool(choices.number(0, 1)), bool(choices.number(0, 1))
    header = some_header(choices)[: one_of(choices, (99, 99, choices.number(0, 14)))]
    before, behind = choices.octets(choices.number(0, 3)), choices.octets(choices.number(0, 12))
    found = [
        parse_header(build, masked, deflated, before, header, behind) for build in (INSTALLED, PURE)
    ]
    assert found[0] == found[1], found
    try:
        read = Reader(masked, True if deflated else None).read_header(header)
    except Broken:
        assert isinstance(found[0], str), found
        return
    if read is None:
        assert found[0] == -1, found
        return
    first, length, key, place = read
    bits = (first & 0x80 != 0, first & 0x0F, first & 0x70)
    assert found[0] == (len(before) + place, *bits, length, key if masked else None)


def parse_header(
    build: Build, masked: bool, deflated: bool, before: bytes, header: bytes, behind: bytes
) -> object:
    reader = build.frames.FrameHeader(masked, 0x40 if deflated else 0)
    buffer = limited(before + header, behind if build is INSTALLED else b"")
    try:
        start = reader.read(buffer, len(before), len(before) + len(header))
    except build.exceptions.ProtocolError as exc:
        return str(exc)
    if start < 0:
        return start
    key = None if reader.key is None else bytes(reader.key)
    return start, reader.fin, reader.opcode, reader.reserved, reader.length, key if masked else None


def write_header(choices: Choices) -> None:
    opcode = one_of(choices, (0, 1, 2, 0x41, 0x42))
    length, fin, masked = one_of(choices, LENGTHS), *(choices.number(0, 1) for _ in range(2))
    header = INSTALLED.frames.make_header(opcode, length, bool(fin), bool(masked))
    assert header == PURE.frames.make_header(opcode, length, bool(fin), bool(masked))
    read = Reader(bool(masked), True).read_header(header + b"key!")
    assert read is not None
    assert read[:2] == (opcode | 0x80 * fin, length)


def append(choices: Choices) -> None:
    opcode, fin = one_of(choices, (0, 1, 2, 8, 9, 0x41)), bool(choices.number(0, 1))
    payload = any_payload(choices, SIZES)
    key = any_key(choices) if choices.number(0, 1) else None
    before = choices.octets(choices.number(0, 40))
    for build in INSTALLED, PURE:
        frames = build.frames
        expected = frames.make_header(opcode, len(payload), fin, key is not None)
        expected += payload if key is None else key + xored(payload, key)
        for given in exact_bytes(payload), limited(payload), memoryview(payload):
            out = bytearray(before)
            frames.append_frame(out, opcode, given, key and exact_bytes(key), fin)
            assert out == before + expected
            if key is None and fin:
                assert frames.make_frame(opcode, given) == expected


# Masks


def fuzz_masking(data: bytes) -> None:
    """Masks, from anywhere to anywhere, however they lie in memory."""
    choices = Fuzzed(data)
    for _ in range(8):
        key, payload = any_key(choices), any_payload(choices, SIZES)
        start = min(choices.number(0, 9), len(payload))
        stop = len(payload) - min(choices.number(0, 9), len(payload) - start)
        offset = one_of(choices, (0, 0, 1, 2, 3, 4, 5, 2**31, 2**32 + 1, 2**62 + 3))
        masked = payload[:start] + xored(payload[start:stop], key, offset) + payload[stop:]
        for build in INSTALLED, PURE:
            masking = build.masking
            for mask in masking.apply_mask, masking.mask_bytes, masking.mask_words:
                # Where nothing is behind it, and where something is that stays as it is.
                out = limited(payload)
                mask(out, start, stop, exact_bytes(key), offset)
                assert out == masked
            if build is INSTALLED:
                out = limited(payload[:stop], payload[stop:])
                masking.apply_mask(out, start, stop, exact_bytes(key), offset)
                assert out[start:stop] == masked[start:stop]
