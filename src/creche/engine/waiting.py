# cython: annotation_typing=False
"""Waiting: how one task waits for one thing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Self


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


# The event loops that call back outside of any task.
_RESUMING = ("asyncio.", "uvloop")


class AsyncioWaiter(Waiter):
    """What asyncio's tasks take for a future.

    A task awaits it, gives it a callback, and is called back with it. A future would leave that to
    the next turn of the event loop, which costs as much as all else that a small message needs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Elsewhere a task may be at work where the loop calls back (trio_asyncio), and a loop that
        # is debugged tells which task was slow.
        self._resumes = type(loop).__module__.startswith(_RESUMING) and not loop.get_debug()
        self._begun = False
        self._woken = False
        self._cancelled = False
        self._message: object = None
        self._callback: Callable[[object], object] | None = None
        self._context: Context | None = None
        self._asyncio_future_blocking = False  # by this a task knows a future

    def wait(self) -> Awaitable[object]:
        self._begun = self._woken = self._cancelled = False
        return self

    def turn(self) -> Awaitable[object]:
        return asyncio.sleep(0)

    def wake(self) -> bool:
        if self._callback is None or self._woken:
            return False
        # Noted when it is done: where a signal strikes before, a cancellation still gets through.
        self._loop.call_soon(self._go_on, context=self._context)
        self._woken = True
        return True

    def _go_on(self) -> None:
        callback = self._callback
        if callback is not None:  # it may have been scheduled twice
            self._callback = self._context = None  # which would keep what the task has set there
            callback(self)

    def resume(self) -> bool:
        callback, context = self._callback, self._context
        if callback is None or context is None or self._woken or not self._resumes:
            return self.wake()
        self._callback = self._context = None
        context.run(callback, self)
        return True

    def __await__(self) -> Any:  # an iterator will do
        return self

    def __next__(self) -> Self:
        if self._begun:
            raise StopIteration
        self._begun = self._asyncio_future_blocking = True
        return self

    # What the task asks of it, and whoever looks at the task

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """AnyIO looks for a pending cancellation at futures only."""
        return asyncio.Future

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def done(self) -> bool:
        return self._woken or self._callback is None

    def cancelled(self) -> bool:
        return self._cancelled

    def exception(self) -> BaseException | None:
        self.result()
        return None

    def remove_done_callback(self, _callback: object, /) -> int:
        return 0

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
    """One task of Trio's that sleeps.

    Whoever sleeps or wakes it may be any task of the application's, where Ctrl-C strikes between
    two instructions of Python, those of Trio as well. A task that it has ended must not be woken
    later, and none half: either would be the end of the whole program.

    Args:
        reschedule: trio.lowlevel.reschedule, protected from KeyboardInterrupt.
    """

    def __init__(self, reschedule: Callable[[Any], None]) -> None:
        import trio

        self._trio = trio.lowlevel
        self._aborted = trio.lowlevel.Abort.SUCCEEDED
        self._reschedule = reschedule
        self._task: Any = None

    def wait(self) -> Awaitable[object]:
        return self._sleep()

    async def _sleep(self) -> None:
        task = self._task = self._trio.current_task()
        try:
            await self._trio.wait_task_rescheduled(self._abort)
        finally:
            if self._task is task:  # otherwise it was woken, and another may wait already
                self._task = None

    def turn(self) -> Awaitable[object]:
        return self._trio.checkpoint()

    def _abort(self, _raise_cancel: object) -> Any:
        self._task = None
        return self._aborted

    def wake(self) -> bool:
        task = self._task
        if task is None:
            return False
        self._task = None
        self._reschedule(task)
        return True
