# cython: annotation_typing=False
"""Waiting, and doing without: how one task waits for one thing, and how long none of them does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from time import perf_counter
from typing import Any

from anyio.lowlevel import RunVar


class Budget:
    """How many operations may go on in a row without a trip through the scheduler.

    An operation that need not wait does not wait; this sees to it that others get their turn and
    that a cancellation arrives all the same.

    Attributes:
        exhausted: whether a checkpoint is due; `reset` tells that there was one.
    """

    OPERATIONS = 32
    SECONDS = 0.001

    def __init__(self) -> None:
        self.exhausted = False
        self._operations = self._left = self.OPERATIONS
        self._seconds = self.SECONDS
        self._since = 0.0

    def spend(self) -> bool:
        """Count an operation; returns whether a checkpoint is due before it."""
        if self.exhausted:
            return True
        if self._left & 3 == 0:  # the time is looked at with every fourth operation
            now = perf_counter()
            if self._left == self._operations:
                self._since = now
            elif self._left == 0 or now - self._since >= self._seconds:
                self.exhausted = True
                return True
        self._left -= 1
        return False

    def reset(self) -> None:
        """Somebody has really waited."""
        self.exhausted = False
        self._left = self._operations


_budget: RunVar[Budget] = RunVar("creche_budget")


def current_budget() -> Budget:
    """The budget of this event loop, shared by all its connections."""
    try:
        return _budget.get()
    except LookupError:
        budget = Budget()
        _budget.set(budget)
        return budget


class Waiter:
    """What one task at a time waits for. It costs less than an event, and is used again."""

    def wait(self) -> Awaitable[object]:
        """To be awaited at once, by the current task; it returns when it is woken."""
        raise NotImplementedError

    def wake(self) -> bool:
        """Wake the task that waits; returns whether there is one."""
        raise NotImplementedError


class AsyncioWaiter(Waiter):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None

    def wait(self) -> Awaitable[object]:
        self._future = self._loop.create_future()
        return self._future

    def wake(self) -> bool:
        future = self._future
        if future is None:
            return False
        self._future = None
        if future.done():
            return False  # cancelled
        future.set_result(None)
        return True


class TrioWaiter(Waiter):
    def __init__(self) -> None:
        import trio

        self._trio = trio.lowlevel
        self._cancelled = trio.lowlevel.Abort.SUCCEEDED
        self._task: Any = None

    def wait(self) -> Awaitable[object]:
        self._task = self._trio.current_task()
        return self._trio.wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> Any:
        self._task = None
        return self._cancelled

    def wake(self) -> bool:
        task = self._task
        if task is None:
            return False
        self._task = None
        self._trio.reschedule(task)
        return True


def new_waiter(loop: asyncio.AbstractEventLoop | None) -> Waiter:
    """A Waiter of this event loop; None stands for Trio's."""
    return TrioWaiter() if loop is None else AsyncioWaiter(loop)
