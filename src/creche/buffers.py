"""BufferLimit: what all connections of a server may keep in memory together."""

from __future__ import annotations

from typing import Protocol

# Less than this is not counted, so that most reads and writes cost nothing here.
COUNTED_FROM = 2**12


class Holder(Protocol):
    """A connection that keeps bytes."""

    def shed(self, limit: int) -> None:
        """End at once, and drop what is kept, since all together keep more than `limit` bytes."""


class BufferLimit:
    """Counts the bytes that connections keep; the one with the most has to go when the limit is
    passed, so that many small ones are safe from a few large ones.

    Args:
        limit: bytes; None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.total = 0
        self._limit = limit
        self._held: dict[Holder, int] = {}

    def count(self, holder: Holder, size: int) -> None:
        """`holder` keeps `size` bytes now."""
        if self._limit is None:
            return
        if size < COUNTED_FROM:
            self.total -= self._held.pop(holder, 0)
            return
        self.total += size - self._held.get(holder, 0)
        self._held[holder] = size
        while self.total > self._limit:
            largest = max(self._held, key=self._held.__getitem__)
            self.total -= self._held.pop(largest)
            largest.shed(self._limit)
