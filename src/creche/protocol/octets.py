"""Bytes, cut and joined: where compiled, by the functions of the same names in octets.pxd.

Those become part of the modules that use them, so that this one is never compiled itself.
"""

from __future__ import annotations

import sys


def cut(data: bytes | bytearray, start: int, stop: int) -> bytes:
    """data[start:stop] as bytes."""
    return bytes(data[start:stop])


def pair(first: int, second: int) -> bytes:
    """Two bytes."""
    return (first << 8 | second).to_bytes(2, "big")


def quad(first: int, second: int, third: int, fourth: int) -> bytes:
    """Four bytes."""
    return bytes((first, second, third, fourth))


def join(first: bytes, second: bytes | bytearray | memoryview) -> bytes:
    """One after the other."""
    return first + second


def append_bytes(out: bytearray, data: bytes | bytearray | memoryview) -> None:
    """Append `data` to `out`."""
    out += data


def memory_of(data: str | bytes) -> int:
    """The bytes of memory that `data` takes."""
    return sys.getsizeof(data)
