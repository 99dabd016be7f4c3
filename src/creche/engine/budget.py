# cython: annotation_typing=False
"""Budget: how long the tasks of an event loop do without waiting."""

from __future__ import annotations

from collections import deque
from time import perf_counter

from anyio.lowlevel import RunVar

from creche.engine.waiting import Waiter

# Tasks go on in a turn of the loop until it has taken so long; those that are left go on in the
# next. Each of these pays for a trip through the scheduler meanwhile: where they are many, a turn
# takes longer, so that it is not mostly these.
_LONGEST_TURN = 0.02
_SECONDS_A_PLACE = 0.0001

# After so long a row others have two turns: on asyncio a timer that was due needs both.
_LONG_ROW = 0.005

# So many turns in which the first in the line could have gone, and did not, are proof that its task
# is no more: an interrupt may strike anywhere.
_TURNS_IN_VAIN = 16


class Place:
    """A place in the line of those who wait for their turn; it is given up when they go."""

    __slots__ = ("gone",)

    def __init__(self) -> None:
        self.gone = False


class Budget:
    """How many operations may go on in a row without a trip through the scheduler.

    An operation that need not wait does not wait; this sees to it that others get their turn and
    that a cancellation arrives all the same. There is one for all connections and tasks of an event
    loop: what counts is how long others have waited, whoever kept them waiting.

    So it is not renewed when a task is woken, for the loop may have woken a hundred of them, and
    each would have all of it before anybody else's turn. It is renewed when the loop has turned,
    once for each turn. No loop tells; but a socket is reported as readable at most once in a turn,
    and a task that lets others have theirs goes on in the next one. So whoever finds that the turn
    which it noted the last time is still the current one begins the next: `seen`.

    The loop may turn, unknown, when a row of operations has begun, and then not before the end of
    the next row: so a row has half the time.

    An operation after a wait, or after a checkpoint, is counted as every other, but it need not
    wait again: its task has just been through the scheduler. Where there are many such tasks, and
    each works for a while before its next operation, one turn of the loop would take all of that
    together. So those that find the turn to be long already stand in a line, and go on in the next.
    """

    OPERATIONS = 32
    SECONDS = 0.001

    def __init__(self) -> None:
        self._operations = self._left = self.OPERATIONS
        self._seconds = self.SECONDS / 2
        self._turn = 1
        self._begun = 0  # in which turn this row did
        self._end = 0.0  # of this row, by the clock
        self.now = 0.0  # when an operation was counted last
        self._line: deque[Place] = deque()
        self._turns_in_vain = 0  # since the first of these was there, or somebody has gone

    def spend(self) -> bool:
        """Count an operation; returns whether a checkpoint is due before it."""
        now = self.now = perf_counter()
        if self._left == 0:
            return True
        if now >= self._end:
            if self._begun == self._turn:
                return True
            self._begun = self._turn
            self._end = now + self._seconds
        self._left -= 1
        return False

    def seen(self, turn: int) -> int:
        """The number of the current turn of the loop, for who is called at most once in a turn.

        Args:
            turn: what this has returned the last time; 0 at first.
        """
        if turn == self._turn:
            self._turn += 1
            self._left = self._operations
            if self._line:
                self._turns_in_vain += 1
                if self._turns_in_vain > _TURNS_IN_VAIN:
                    self._next()
        return self._turn

    def exhaust(self) -> None:
        """Have a checkpoint come before the next operation."""
        self._left = 0

    def is_late(self) -> bool:
        """Whether a task that has been woken should rather stand in the line.

        One that had nothing to do until now has more time for it than those that stand there.
        """
        return self._takes(2)

    def _takes(self, times: int) -> bool:
        """Whether this turn of the loop takes so many times as long as it should."""
        longest = max(_LONGEST_TURN, len(self._line) * _SECONDS_A_PLACE)
        return self._begun == self._turn and self.now - self._end > longest * times

    async def wait_in_line(self, waiter: Waiter) -> None:
        """Let others have their turn, and wait until it is ours: the first in the line goes.

        Args:
            waiter: the task's.
        """
        place = Place()
        self._line.append(place)
        long = self.now - self._end > _LONG_ROW
        try:
            while not place.gone:
                turn = self._turn
                await waiter.turn()
                self.seen(turn)
                if long:
                    long = False
                    continue
                self.spend()
                if not place.gone and place is self._line[0] and not self._takes(1):
                    self._next()
        finally:
            if not place.gone:
                self._line.remove(place)

    def _next(self) -> None:
        """The first in the line may go."""
        self._line.popleft().gone = True
        self._turns_in_vain = 0


_budget: RunVar[Budget] = RunVar("creche_budget")


def current_budget() -> Budget:
    """The budget of this event loop, shared by all its connections."""
    try:
        return _budget.get()
    except LookupError:
        budget = Budget()
        _budget.set(budget)
        return budget
