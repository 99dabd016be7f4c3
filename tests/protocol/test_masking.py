from __future__ import annotations

import os

import pytest

from creche.protocol import masking


def naive(data: bytes, key: bytes, offset: int) -> bytes:
    return bytes(byte ^ key[(i + offset) & 3] for i, byte in enumerate(data))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 6, 127, 4099])
@pytest.mark.parametrize("offset", [0, 1, 2, 3, 4, 7])
def test_masking_combines_each_byte_with_the_key_in_turn(size: int, offset: int) -> None:
    data, key = os.urandom(size), os.urandom(4)
    for mask in (masking.apply_mask, masking.mask_bytes, masking.mask_words):
        masked = bytearray(b"before" + data + b"after")
        mask(masked, 6, 6 + size, key, offset)
        assert masked == b"before" + naive(data, key, offset) + b"after"


def test_keys_differ_and_are_not_repeated_after_a_batch() -> None:
    keys = [masking.new_key() for _ in range(1000)]
    assert {len(key) for key in keys} == {4}
    assert len(set(keys)) > 990


def test_keys_come_from_the_systems_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    masking.drop_keys()
    monkeypatch.setattr(os, "urandom", lambda size: bytes(range(256)) * (size // 256))
    assert masking.new_key() == b"\x00\x01\x02\x03"
    assert masking.new_key() == b"\x04\x05\x06\x07"
    masking.drop_keys()


@pytest.mark.parametrize(
    ("start", "stop", "key"),
    [
        *[(start, stop, b"abcd") for start, stop in ((-1, 2), (0, 5), (3, 2), (5, 5), (0, 2**62))],
        *[(0, 4, key) for key in (b"", b"abc", b"abcde")],
    ],
)
def test_nothing_is_masked_beyond_the_end(start: int, stop: int, key: bytes) -> None:
    data = bytearray(b"data")
    with pytest.raises(ValueError, match="lie within data"):
        masking.apply_mask(data, start, stop, key)
    assert data == b"data"
