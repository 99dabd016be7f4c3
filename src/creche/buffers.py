"""BufferLimit: what all connections of a server may keep in memory together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

# Less than this is not counted, so that most reads and writes cost nothing here.
COUNTED_FROM = 2**12


class Holder(Protocol):
    """A connection that keeps bytes."""

    def shed(self, limit: int) -> None:
        """End at once, and drop what is kept, since all together keep more than `limit` bytes."""


# Sizes are told apart by so many bits: those within an eighth of each other count as equal.
_SIZE_BITS = 4


class BufferLimit:
    """Counts the bytes that connections keep; one with about the most has to go when the limit is
    passed, so that many small ones are safe from a few large ones.

    About the most: within an eighth. To look for the very largest would take longer the more
    connections there are, at every read while the limit is reached. Of those that keep as much, it
    is the one whose size has changed least recently. A payload that several of them keep is counted
    once.

    Args:
        limit: bytes; None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.total = 0
        self._limit = limit
        # Of each connection: what it alone keeps, with the payloads, and these.
        self._held: dict[Holder, tuple[int, int, Sequence[bytes]]] = {}
        # The same by size, so that one of the largest is found whatever their number: who is of
        # each size, in the order in which they were counted, and the sizes that there are, as bits.
        self._of_size: dict[int, OrderedDict[Holder, None]] = {}
        self._sizes = 0
        self._sharers: dict[int, int] = {}  # by the payload's id(): it lives while it is kept

    def count(self, holder: Holder, own: int, payloads: Sequence[bytes] = ()) -> int:
        """`holder` keeps `own` bytes now, and some of these payloads; returns what of it counts."""
        self._forget(holder)
        size = own + sum(map(len, payloads))
        if size < COUNTED_FROM:
            return 0
        self.total += own
        for payload in payloads:
            sharers = self._sharers.get(id(payload), 0)
            self._sharers[id(payload)] = sharers + 1
            if sharers == 0:
                self.total += len(payload)
        self._held[holder] = own, size, payloads
        self._of_size.setdefault(_size_class(size), OrderedDict())[holder] = None
        self._sizes |= 1 << _size_class(size)
        while self._limit is not None and self.total > self._limit:
            largest = next(iter(self._of_size[self._sizes.bit_length() - 1]))
            self._forget(largest)
            largest.shed(self._limit)
        return size if holder in self._held else 0

    def _forget(self, holder: Holder) -> None:
        held = self._held.pop(holder, None)
        if held is None:
            return
        own, size, payloads = held
        self._forget_size(holder, _size_class(size))
        self.total -= own
        for payload in payloads:
            self._sharers[id(payload)] -= 1
            if not self._sharers[id(payload)]:
                del self._sharers[id(payload)]
                self.total -= len(payload)

    def _forget_size(self, holder: Holder, size: int) -> None:
        holders = self._of_size[size]
        del holders[holder]
        if not holders:
            del self._of_size[size]
            self._sizes ^= 1 << size


def _size_class(size: int) -> int:
    """A small number that is the larger, the larger a size is."""
    shift = size.bit_length() - _SIZE_BITS
    return (shift << (_SIZE_BITS - 1)) + (size >> shift)
