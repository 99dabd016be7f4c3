# cython: annotation_typing=False
"""Waiting, and doing without: how one task waits for one thing, and how long none of them does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from time import perf_counter
from typing import Any, Self

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
        if self.exhausted or self._left == 0:
            self.exhausted = True
            return True
        self._left -= 1
        if self._left & 3 == 0:  # the time is looked at with every fourth operation
            now = perf_counter()
            if self._since == 0:
                self._since = now
            elif now - self._since >= self._seconds:
                self.exhausted = True
        return self.exhausted

    def reset(self) -> None:
        """Somebody has really waited."""
        self.exhausted = False
        self._left = self._operations
        self._since = 0.0


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

    def turn(self) -> Awaitable[object]:
        """To be awaited: others have their turn, and a cancellation arrives."""
        raise NotImplementedError

    def wake(self) -> bool:
        """Let the task that waits go on soon; returns whether there is one."""
        raise NotImplementedError

    def resume(self) -> bool:
        """As `wake`, but the task goes on in this very call, if the event loop can do that.

        To be called outside of any task, as the last thing that a callback does.
        """
        return self.wake()


class AsyncioWaiter(Waiter):
    """What asyncio's tasks take for a future.

    A task awaits it, gives it a callback, and is called back with it. A future would leave that to
    the next turn of the event loop, which costs as much as all else that a small message needs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._begun = False
        self._cancelled = False
        self._message: object = None
        self._callback: Callable[[object], object] | None = None
        self._context: Context | None = None
        self._asyncio_future_blocking = False  # by this a task knows a future

    def wait(self) -> Awaitable[object]:
        self._begun = self._cancelled = False
        return self

    def turn(self) -> Awaitable[object]:
        return asyncio.sleep(0)

    def wake(self) -> bool:
        callback = self._callback
        if callback is None:
            return False
        self._callback = None
        self._loop.call_soon(callback, self, context=self._context)
        return True

    def resume(self) -> bool:
        callback = self._callback
        if callback is None:
            return False
        self._callback = None
        assert self._context is not None
        self._context.run(callback, self)
        return True

    def __await__(self) -> Any:  # an iterator will do
        return self

    def __next__(self) -> Self:
        if self._begun:
            raise StopIteration
        self._begun = self._asyncio_future_blocking = True
        return self

    # What the task asks of it

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, callback: Callable[[object], object], *, context: Context) -> None:
        self._callback = callback
        self._context = context

    def cancel(self, msg: object = None) -> bool:
        if self.wake():
            self._cancelled = True
            self._message = msg
        return self._cancelled

    def result(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError(*([] if self._message is None else [self._message]))


class TrioWaiter(Waiter):
    def __init__(self) -> None:
        import trio

        self._trio = trio.lowlevel
        self._cancelled = trio.lowlevel.Abort.SUCCEEDED
        self._task: Any = None

    def wait(self) -> Awaitable[object]:
        self._task = self._trio.current_task()
        return self._trio.wait_task_rescheduled(self._abort)

    def turn(self) -> Awaitable[object]:
        return self._trio.checkpoint()

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
