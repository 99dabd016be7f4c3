"""The engine on asyncio: callbacks of its event loop, and no task but for foreign streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context
from types import SimpleNamespace
from typing import Any

from anyio import TaskHandle
from anyio.abc import TaskGroup

from creche.engine.deadlines import NEVER
from creche.engine.engine import Engine, Function
from creche.engine.polling import Callback, log_failure
from creche.engine.turns import Turns
from creche.engine.waiting import AsyncioWaiter, Waiter

try:
    # AnyIO asks sniffio, where that is installed, which library runs: it can tell in a task only.
    from sniffio import thread_local
except ImportError:  # pragma: no cover - Trio, which the tests need, brings it
    thread_local = SimpleNamespace(name=None)  # type: ignore[assignment]

# A loop that counts milliseconds, as uvloop, calls as much too soon.
_COARSE_SLACK = 0.0005


def _clock(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The event loop's clock; its finer twin where it is the system's (uvloop counts in ms)."""
    return time.monotonic if abs(loop.time() - time.monotonic()) < 1 else loop.time


class AsyncioEngine(Engine):
    """By callbacks in an empty context: they belong to nobody's task.

    Attributes:
        readiness: the engine itself.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Entered by nobody else: a context cannot be entered twice.
        self._context = Context()
        super().__init__(_clock(loop), Turns(loop, self._context, AsyncioWaiter(loop)))
        self._loop = loop
        self._slack = 0.0 if isinstance(loop, asyncio.BaseEventLoop) else _COARSE_SLACK
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.readiness = self

    def new_waiter(self) -> Waiter:
        return AsyncioWaiter(self._loop)

    def is_current(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def is_over(self) -> bool:
        return self._loop.is_closed()

    def call_from_anywhere(self, callback: Callback) -> bool:
        try:
            self._loop.call_soon_threadsafe(callback, context=Context())
        except RuntimeError:
            return False
        return True

    def lead_interrupt(self, exc: BaseException) -> bool:  # noqa: ARG002
        return False  # the event loop lets it out by itself

    # Tasks

    def start_soon(self, function: Function, /, *args: Any) -> None:
        self.start_host(self._run_child, Context(), function, args)

    async def _run_child(self, function: Function, args: tuple[Any, ...]) -> None:
        try:
            await function(*args)
        except Exception:
            log_failure(function)

    def start_host(self, function: Function, context: Context, /, *args: Any) -> None:
        if self._loop.is_closed():
            return
        # Not by the loop's factory of tasks, which may begin them in this very call.
        task = asyncio.Task(
            function(*args), loop=self._loop, name=f"creche {function.__name__}", context=context
        )
        self._tasks.add(task)  # the loop does not hold it
        task.add_done_callback(self._tasks.discard)

    def start_in(
        self, tasks: TaskGroup, context: Context, function: Function, /, *args: Any
    ) -> TaskHandle[None]:
        before, thread_local.name = thread_local.name, "asyncio"
        try:
            return super().start_in(tasks, context, function, *args)
        finally:
            thread_local.name = before

    # Deadlines

    def _wake_at(self, deadline: float) -> None:
        if self._loop.is_closed():
            return
        timer = self._loop.call_at(deadline, self._fire, context=self._context)
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = timer, deadline

    def _fire(self) -> None:
        self._timer = None
        self._due = -NEVER  # what is scheduled meanwhile is seen below
        try:
            self._deadlines.fire(self.now() + self._slack)
        finally:  # whatever strikes, such as KeyboardInterrupt: the others have deadlines, too
            self._due = NEVER
            due = self._deadlines.next()
            if due < NEVER:  # it may have passed: there were too many for one turn
                self._wake_at(due)

    # Sockets. A loop notes the current context with each callback.

    def add_reader(self, descriptor: int, callback: Callback) -> None:
        if not self._loop.is_closed():
            self._add(self._loop.add_reader, descriptor, callback)

    def remove_reader(self, descriptor: int) -> None:
        if not self._loop.is_closed():
            self._loop.remove_reader(descriptor)

    def add_writer(self, descriptor: int, callback: Callback) -> None:
        if not self._loop.is_closed():
            self._add(self._loop.add_writer, descriptor, callback)

    def remove_writer(self, descriptor: int) -> None:
        if not self._loop.is_closed():
            self._loop.remove_writer(descriptor)

    def _add(self, add: Callable[..., object], descriptor: int, callback: Callback) -> None:
        try:
            Context().run(add, descriptor, callback)
        except FileNotFoundError:
            # Whoever was watched by this number has been closed by somebody else.
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
            Context().run(add, descriptor, callback)

    def call_soon(self, callback: Callback) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon(callback, context=self._context)
