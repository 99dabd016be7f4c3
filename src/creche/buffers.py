"""BufferLimit: what all connections of a server may keep in memory together."""

from __future__ import annotations

from collections.abc import Sequence
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

    A payload that several of them keep is counted once.

    Args:
        limit: bytes; None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.total = 0
        self._limit = limit
        # Of each connection: what it alone keeps, with the payloads, and these.
        self._held: dict[Holder, tuple[int, int, Sequence[bytes]]] = {}
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
        while self._limit is not None and self.total > self._limit:
            largest = max(self._held, key=self._size_held)
            self._forget(largest)
            largest.shed(self._limit)
        return size if holder in self._held else 0

    def _size_held(self, holder: Holder) -> int:
        return self._held[holder][1]

    def _forget(self, holder: Holder) -> None:
        held = self._held.pop(holder, None)
        if held is None:
            return
        own, _, payloads = held
        self.total -= own
        for payload in payloads:
            self._sharers[id(payload)] -= 1
            if not self._sharers[id(payload)]:
                del self._sharers[id(payload)]
                self.total -= len(payload)
