# cython: annotation_typing=False
"""Masking of the client's frames (RFC 6455 5.3)."""

from __future__ import annotations

import os
from collections.abc import Iterator

_COMPILED = not __file__.endswith(".py")

_BATCH = 256

# The iterator is the only shared state: next() on it is atomic, so that threads with an event
# loop each never wait for one another and never share a key.
_keys: Iterator[bytes] = iter(())


def new_key() -> bytes:
    """An unpredictable masking key of 4 bytes (RFC 6455 10.3).

    Keys come from the system's generator in batches: one call of it per key would cost more
    than masking a small frame.
    """
    global _keys
    try:
        return next(_keys)
    except StopIteration:
        pool = os.urandom(4 * _BATCH)
        batch = iter([pool[i : i + 4] for i in range(0, 4 * _BATCH, 4)])
        key = next(batch)
        _keys = batch
        return key


def drop_keys() -> None:
    """Forget the keys in store: after a fork, parent and child would use the same ones."""
    global _keys
    _keys = iter(())


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
    os.register_at_fork(after_in_child=drop_keys)


def apply_mask(data: bytearray, start: int, stop: int, key: bytes, offset: int = 0) -> None:
    """Mask or unmask data[start:stop] in place with the 4 bytes of `key`.

    `offset` is the position of data[start] in the frame's payload.

    Raises:
        ValueError: there is less of `data`, or more or less of `key`.
    """
    # What is compiled would go on beyond the end.
    if len(key) != 4 or not 0 <= start <= stop <= len(data):
        raise ValueError("a key has 4 bytes, and start and stop lie within data")
    if _COMPILED:  # pragma: no cover - the build decides; a test compares both ways
        mask_bytes(data, start, stop, key, offset)
    else:
        mask_words(data, start, stop, key, offset)


def mask_bytes(data: bytearray, start: int, stop: int, key: bytes, offset: int) -> None:
    """The way of the compiler, which makes wide instructions of four steps in a row."""
    first = key[offset & 3]
    second = key[(offset + 1) & 3]
    third = key[(offset + 2) & 3]
    fourth = key[(offset + 3) & 3]
    while start + 4 <= stop:
        data[start] ^= first
        data[start + 1] ^= second
        data[start + 2] ^= third
        data[start + 3] ^= fourth
        start += 4
    if start < stop:
        data[start] ^= first
    if start + 1 < stop:
        data[start + 1] ^= second
    if start + 2 < stop:
        data[start + 2] ^= third


def mask_words(data: bytearray, start: int, stop: int, key: bytes, offset: int) -> None:
    """The way of the interpreter, which combines one long integer with another word by word."""
    size = stop - start
    offset &= 3
    repeated = (key[offset:] + key[:offset]) * ((size + 3) >> 2)
    number = int.from_bytes(data[start:stop], "little") ^ int.from_bytes(repeated[:size], "little")
    data[start:stop] = number.to_bytes(size, "little")
