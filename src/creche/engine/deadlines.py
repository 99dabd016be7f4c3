"""The deadlines of an event loop's connections: one heap of them, and who is to be called."""

from __future__ import annotations

import heapq
from typing import Protocol

from creche.engine.polling import Share, log_failure

NEVER = float("inf")

# So many cancelled timers may lie in the heap beside as many that count.
_FEW = 64


class Scheduled(Protocol):
    """What has deadlines."""

    def timeout_due(self, now: float) -> float:
        """A deadline has passed; returns the next one, infinity for none."""


class Timer:
    """One deadline; without a target it has been cancelled."""

    __slots__ = ("_deadlines", "deadline", "target")

    def __init__(self, deadline: float, target: Scheduled, deadlines: Deadlines) -> None:
        self.deadline = deadline
        self.target: Scheduled | None = target
        self._deadlines = deadlines

    def __lt__(self, other: Timer) -> bool:
        return self.deadline < other.deadline

    def cancel(self) -> None:
        """It is not called any more. May be called twice."""
        if self.target is not None:
            self.target = None
            if self.deadline < NEVER:  # otherwise it is not in the heap
                self._deadlines.timer_cancelled()


class Deadlines:
    """A heap of timers.

    A cancelled one cannot be found in the heap without looking at all of them: so it stays there
    for the time being. When those are the most, all are looked at, and the heap is made anew: each
    cancellation pays for one look, and a connection that came and went leaves nothing until the end
    of a day that it might have had.
    """

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._cancelled = 0  # of those in the heap
        self._share = Share()

    def __len__(self) -> int:
        return len(self._heap)

    def schedule(self, target: Scheduled, deadline: float) -> Timer:
        """Call `target.timeout_due` at `deadline`; infinity for never."""
        timer = Timer(deadline, target, self)
        if deadline < NEVER:
            heapq.heappush(self._heap, timer)
        return timer

    def clear(self) -> None:
        """Call nobody any more."""
        self._heap.clear()
        self._cancelled = 0

    def timer_cancelled(self) -> None:
        """A timer in the heap has been cancelled."""
        self._cancelled += 1
        if self._cancelled > _FEW and self._cancelled > len(self._heap) >> 1:
            self._heap = [timer for timer in self._heap if timer.target is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next(self) -> float:
        """The earliest deadline."""
        return self._heap[0].deadline if self._heap else NEVER

    def fire(self, now: float) -> None:
        """Call those whose deadlines have passed, for as long as their share of a turn is; the
        others are still due then."""
        self._share.begin()
        while self._heap and (self._heap[0].deadline <= now or self._heap[0].target is None):
            self._fire_first(now)
            if self._share.is_over():
                break

    def _fire_first(self, now: float) -> None:
        timer = heapq.heappop(self._heap)
        target = timer.target
        if target is None:
            self._cancelled -= 1
            return
        timer.deadline = NEVER  # it may be cancelled by whom it calls, and is in no heap then
        due = NEVER
        try:
            due = target.timeout_due(now)
        except Exception:
            log_failure(target.timeout_due)
        if due < NEVER and timer.target is not None:
            timer.deadline = due
            heapq.heappush(self._heap, timer)
