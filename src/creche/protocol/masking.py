# cython: annotation_typing=False
"""Masking of the client's frames (RFC 6455 5.3)."""

from __future__ import annotations

import os
from collections.abc import Iterator

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


def apply_mask(data: bytes | bytearray | memoryview, key: bytes, offset: int = 0) -> bytes:
    """Mask or unmask `data` with the 4 bytes of `key`.

    `offset` is the position of `data` in the frame's payload. One long integer is combined with
    another instead of byte with byte: the interpreter runs over it word by word.
    """
    size = len(data)
    offset &= 3
    if offset:
        key = key[offset:] + key[:offset]
    repeated = key * ((size + 3) >> 2)
    number = int.from_bytes(data, "little") ^ int.from_bytes(repeated[:size], "little")
    return number.to_bytes(size, "little")
