"""The hidden task group: what runs for a connection beside the application's own tasks.

There is one Background for a connect() and one for a serve(). Its children read and write, keep
the deadlines and flush at the end of a turn. Its rules:

- Its children are shielded from the surrounding scopes: when those are cancelled, a closing
  handshake still has to be carried out. Leaving the Background ends them.
- Its children never raise out of it.
- What it does for one connection never holds up the others for long (Share).
- An exception of the body leaves as the very object it was, whatever the group's exit does.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, current_token

from creche.engine.budget import current_budget
from creche.engine.buffers import BufferLimit
from creche.engine.deadlines import NEVER, Deadlines, Scheduled, Timer
from creche.engine.polling import Poller, Readiness, log_failure
from creche.engine.read_buffer import read_buffer
from creche.engine.traffic import Traffic
from creche.engine.turns import Turns
from creche.engine.waiting import Waiter, new_waiter

_GOLDEN_RATIO = 0.6180339887

Function = Callable[..., Coroutine[Any, Any, None]]


def is_cancelled() -> bool:
    """Whether a scope around the current task is cancelled."""
    return anyio.current_effective_deadline() == -NEVER


def _clock(loop: asyncio.AbstractEventLoop | None) -> Callable[[], float]:
    """The event loop's clock; its finer twin where it is the system's (uvloop counts in ms)."""
    if loop is None:
        import trio

        return trio.lowlevel.current_clock().current_time
    return time.monotonic if abs(loop.time() - time.monotonic()) < 1 else loop.time


class Background:
    """The hidden task group of a connect() or a serve(), as an async context manager.

    Args:
        max_buffered_bytes: what its connections may keep in memory together; None for any amount.
        polling: whether one task waits for the sockets of all connections, where the event loop
            does not call back and the system can (Trio on Linux).

    Attributes:
        traffic: counts what its connections send and receive.
        turns: what its connections have done at the end of a turn.
        budget: what the connections of the event loop may do in a row.
        read_buffer: what the event loop reads into.
        now: the event loop's clock.
        readiness: calls back when a socket is ready; None where a task has to wait for it.
    """

    def __init__(self, max_buffered_bytes: int | None = None, *, polling: bool = False) -> None:
        self.buffers = BufferLimit(max_buffered_bytes)
        self.traffic = Traffic()
        self.budget = current_budget()
        self.read_buffer = read_buffer()
        token = current_token().native_token
        loop = token if isinstance(token, asyncio.AbstractEventLoop) else None
        self.now = _clock(loop)
        self._loop = loop
        self.turns = Turns(loop, self.new_waiter())
        self._poller: Poller | None = None
        self.readiness: Readiness | None = loop
        if loop is None and polling and hasattr(select, "epoll"):
            self.readiness = self._poller = Poller(self.turns.run_soon)
        self._group = anyio.create_task_group()
        self._scopes: set[anyio.CancelScope] = set()
        self._ended = False
        self._deadlines = Deadlines()
        self._phase = 0.0
        self._timer_wake = anyio.Event()
        self._timer_wake_at = NEVER

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        self.start_soon(self._run_timers)
        if self._loop is None:
            self.start_soon(self.turns.run)
        if self._poller is not None:
            self.start_soon(self._poller.run)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._end()
        try:
            await self._group.__aexit__(None, None, None)
        except BaseException as exit_exc:
            # The body's own exception wins over a cancellation, and anything over a cancellation.
            cancelled = anyio.get_cancelled_exc_class()
            if exc is None or (isinstance(exc, cancelled) and not isinstance(exit_exc, cancelled)):
                raise
        finally:
            del exc, traceback
        return False

    def _end(self) -> None:
        self._ended = True
        self._deadlines.clear()
        self.turns.clear()
        for scope in list(self._scopes):
            scope.cancel()

    # Tasks

    def new_waiter(self) -> Waiter:
        """Something for one task to wait for."""
        return new_waiter(self._loop)

    def start_soon(self, function: Function, /, *args: Any) -> None:
        """Start a child that is shielded, and ended with the Background."""
        self._group.start_soon(self._shielded, function, args, name=function)

    @property
    def handlers(self) -> TaskGroup:
        """For children that are cancelled with the surrounding scopes. They must not raise."""
        return self._group

    async def _shielded(self, function: Function, args: tuple[Any, ...]) -> None:
        with anyio.CancelScope(shield=True) as scope:
            self._scopes.add(scope)
            if self._ended:
                scope.cancel()
            try:
                await function(*args)
            except anyio.get_cancelled_exc_class():
                raise
            except Exception:
                log_failure(function)
            except BaseException:
                self._end()  # KeyboardInterrupt may strike here: nobody must wait for the others
                raise
            finally:
                self._scopes.discard(scope)

    # Deadlines

    def next_phase(self) -> float:
        """A number from 0 to 1, at first 0; those that follow each other lie far apart."""
        phase = self._phase
        self._phase = (phase + _GOLDEN_RATIO) % 1
        return phase

    def schedule(self, target: Scheduled, deadline: float) -> Timer:
        """Call `target.timeout_due` at `deadline`."""
        timer = self._deadlines.schedule(target, deadline)
        if deadline < self._timer_wake_at:
            self._timer_wake.set()
        return timer

    async def _run_timers(self) -> None:
        deadlines = self._deadlines
        while True:
            now = self.now()
            deadlines.fire(now)
            due = deadlines.next()
            if due <= now:  # there were too many for one turn
                await checkpoint()
                continue
            self._timer_wake_at = due
            self._timer_wake = anyio.Event()
            with anyio.CancelScope(deadline=due):
                await self._timer_wake.wait()
