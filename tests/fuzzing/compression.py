"""Targets that are compression (RFC 7692): what two ends agree on, and messages."""

from __future__ import annotations

import re
import zlib
from typing import Any

from creche.protocol.exceptions import PeerError
from fuzzing import builds
from fuzzing.buffers import exact_bytes
from fuzzing.builds import Build
from fuzzing.choices import Choices, Fuzzed, one_of, pieces
from fuzzing.framing import any_payload

INSTALLED = builds.installed()
PURE = builds.pure()

LIMIT = 2**20


def fuzz_inflate(data: bytes) -> None:
    """A compressed message."""
    _, [deflate] = INSTALLED.handshake.extensions.choose_from(
        [INSTALLED.handshake.deflate.PerMessageDeflate()], "permessage-deflate"
    )
    deflate.begin()
    left = LIMIT
    try:
        for piece in pieces(data):
            deflate.feed(piece)
            while left > 0 and (read := deflate.read(1000)) != b"":
                assert len(read or b"") <= 1000
                left -= len(read or b"")
        deflate.finish()
        while left > 0 and (read := deflate.read(1000)) != b"":
            left -= len(read or b"")
    except PeerError as exc:
        str(exc)


def some_factory(choices: Choices) -> dict[str, Any]:
    """Arguments of PerMessageDeflate."""
    return {
        "server_no_context_takeover": bool(choices.number(0, 1)),
        "client_no_context_takeover": bool(choices.number(0, 1)),
        "server_max_window_bits": one_of(choices, (None, *range(9, 16))),
        "client_max_window_bits": one_of(choices, (None, *range(9, 16))),
        "level": choices.number(1, 9),
        "memory_level": choices.number(1, 9),
        "threshold": one_of(choices, (0, 1, 100)),
    }


def agree(build: Build, client: dict[str, Any], server: dict[str, Any]) -> tuple[str, Any, Any]:
    """The header of the answer, and the extensions of both ends; None where there is none."""
    extensions, factory = build.handshake.extensions, build.handshake.deflate.PerMessageDeflate
    asking, answering = [factory(**client)], [factory(**server)]
    answer, chosen = extensions.choose_from(answering, extensions.format_offers(asking))
    try:
        agreed = extensions.agree_on(asking, answer)
    except build.handshake.exceptions.NegotiationError as exc:
        return str(exc), None, None
    return answer, *(agreed or [None]), *(chosen or [None])


def window_bits(answer: str, side: str) -> int:
    said = re.search(rf"{side}_max_window_bits=(\d+)", answer)
    return 15 if said is None else int(said[1])


def fuzz_agreement(data: bytes) -> None:
    """Two ends agree, and each inflates what the other says, as any other program would."""
    choices = Fuzzed(data)
    client, server = some_factory(choices), some_factory(choices)
    answer, *ends = agree(INSTALLED, client, server)
    assert answer == agree(PURE, client, server)[0]
    if None in ends:
        assert ends == [None, None]
        return
    sent = [any_payload(choices) for _ in range(choices.number(1, 5))]
    for side, ours, theirs in ("client", *ends), ("server", *reversed(ends)):
        bits, alone = window_bits(answer, side), f"{side}_no_context_takeover" in answer
        other = zlib.decompressobj(-bits)
        for payload in sent:
            compressed = ours.encode(exact_bytes(payload))
            if compressed is None:
                continue
            assert inflate(theirs, compressed) == payload
            assert other.decompress(compressed + b"\0\0\xff\xff") == payload
            if alone:
                other = zlib.decompressobj(-bits)
        blocks = b"".join(final_block(payload, bits) for payload in sent)
        assert inflate(theirs, blocks) == b"".join(sent)


def final_block(data: bytes, bits: int) -> bytes:
    """A stream of DEFLATE that is over (RFC 7692 7.2.3.4)."""
    compressor = zlib.compressobj(wbits=-max(bits, 9))
    return compressor.compress(data) + compressor.flush()


def inflate(extension: Any, data: bytes) -> bytes:
    extension.begin()
    extension.feed(exact_bytes(data))
    out = read_all(extension)
    extension.finish()
    return out + read_all(extension)


def read_all(extension: Any) -> bytes:
    """What there is, however often it lets others have their turn."""
    out = b""
    while (read := extension.read(1000)) != b"":
        assert len(read or b"") <= 1000
        out += read or b""
    return out


INFLATE_SEEDS = [b"\0\xf2\x48\xcd\xc9\xc9\x07\x00", b"\1\xf3\x48\xcd\xc9\xc9\x07\x00\0"]
