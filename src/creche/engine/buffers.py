"""BufferLimit: what all connections of a server may keep in memory together."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Protocol

# Less than this is not counted, so that most reads and writes cost nothing here.
COUNTED_FROM = 2**12

# Entries of the heap that hold no more, beside as many as there are that do.
_MOST_STALE = 64


class Holder(Protocol):
    """A connection that keeps bytes."""

    def shed(self, limit: int) -> None:
        """End at once, and drop what is kept, since all together keep more than `limit` bytes."""


class BufferLimit:
    """Counts the bytes that connections keep; the one with the most has to go when the limit is
    passed, so that many small ones are safe from a few large ones.

    To look for that one among all would take longer the more there are, with every read while the
    limit is reached: a heap has it first. What has changed since leaves an empty entry there, and
    the heap is made anew before these outnumber the others. A payload that several of them keep is
    counted once.

    Args:
        limit: bytes; None for no limit.
    """

    def __init__(self, limit: int | None) -> None:
        self.total = 0
        self._limit = limit
        # Of each connection: what it alone keeps, its entry in the heap, and its payloads.
        self._held: dict[Holder, tuple[int, list[Any], Sequence[bytes]]] = {}
        # Its size with the payloads, below zero, when it was counted, and who it is. Of those with
        # the same size the first is the one whose size has changed least recently.
        self._heap: list[list[Any]] = []
        self._counted = 0
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
        entry = [-size, self._counted, holder]
        self._counted += 1
        self._held[holder] = own, entry, payloads
        if self._limit is None:
            return size
        heappush(self._heap, entry)
        while self.total > self._limit:
            largest = heappop(self._heap)[2]
            if largest is not None:
                self._forget(largest)
                largest.shed(self._limit)
        return size if holder in self._held else 0

    def _forget(self, holder: Holder) -> None:
        held = self._held.pop(holder, None)
        if held is None:
            return
        own, entry, payloads = held
        entry[2] = None
        if len(self._heap) > 2 * len(self._held) + _MOST_STALE:
            self._heap = [entry for entry in self._heap if entry[2] is not None]
            heapify(self._heap)
        self.total -= own
        for payload in payloads:
            self._sharers[id(payload)] -= 1
            if not self._sharers[id(payload)]:
                del self._sharers[id(payload)]
                self.total -= len(payload)
