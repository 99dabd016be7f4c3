"""Buffers behind whose last byte AddressSanitizer lets nobody read.

It knows where an allocation ends. Python makes that of a bytearray larger than its content, and
ends each bytes with a zero: to read one byte too many would go unnoticed.
"""

from __future__ import annotations

import ctypes
from typing import Any

_BYTES_HEADER = bytes.__basicsize__ - 1
_process = ctypes.CDLL(None)
POISONED = hasattr(_process, "__asan_poison_memory_region")


def _call(name: str) -> Any:
    if not POISONED:
        return None
    function = getattr(_process, name)
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    function.restype = None
    return function


_poison = _call("__asan_poison_memory_region")
_unpoison = _call("__asan_unpoison_memory_region")


def exact_bytes(data: bytes | bytearray) -> bytes:
    """The same bytes; what reads the zero behind them ends the process."""
    made = bytes(memoryview(data))
    # Python shares those of one byte and of none.
    if POISONED and len(made) > 1:
        _poison(id(made) + _BYTES_HEADER + len(made), 1)
    return made


def limited(data: bytes | bytearray, behind: bytes | bytearray = b"") -> bytearray:
    """A bytearray with `data`, and with bytes behind it that nobody may read."""
    made = bytearray(len(data) + len(behind))
    made[:] = data + behind
    limit(made, len(data))
    return made


def limit(buffer: bytearray, size: int) -> None:
    """From now on nobody may read more of it than that; all of it is there to be written to."""
    if POISONED and buffer:
        address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        capacity = buffer.__alloc__()
        _unpoison(address, capacity)
        _poison(address + size, capacity - size)
