"""The engine on Trio: system tasks, one that waits for all sockets among them."""

from __future__ import annotations

import select
import signal
import threading
from contextvars import Context
from typing import Any

import trio
from anyio import TaskHandle
from anyio.abc import TaskGroup

from creche.engine.deadlines import NEVER
from creche.engine.engine import Engine, Event, Function
from creche.engine.polling import Callback, Poller, log_failure
from creche.engine.turns import Turns
from creche.engine.waiting import TrioWaiter, Waiter
from creche.protocol import COMPILED


@trio.lowlevel.enable_ki_protection
def _reschedule(task: trio.lowlevel.Task) -> None:
    trio.lowlevel.reschedule(task)


# Compiled, they are uninterruptible but where they call Python.
if not COMPILED:  # pragma: no branch - coverage is that of the pure build
    for method in (TrioWaiter._sleep, TrioWaiter.wake):
        trio.lowlevel.enable_ki_protection(method)


class TrioEvent:
    """An event of Trio's that Ctrl-C leaves whole, as it does a TrioWaiter."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> None:
        await self._event.wait()


class TrioEngine(Engine):
    """By system tasks, which Trio protects from KeyboardInterrupt, and which may not raise.

    Attributes:
        readiness: one epoll for all sockets; None where the system has none.
    """

    def __init__(self) -> None:
        super().__init__(
            trio.lowlevel.current_clock().current_time, Turns(None, None, TrioWaiter(_reschedule))
        )
        self._token = trio.lowlevel.current_trio_token()
        self._over = False
        self._timer = TrioWaiter(_reschedule)
        self.readiness = self._poller = None
        self.start_soon(self._run_timers)
        self.start_soon(self.turns.run)
        if hasattr(select, "epoll"):  # pragma: no branch - elsewhere tasks wait for sockets
            self.readiness = self._poller = Poller(self.turns.run_soon)
            self.start_soon(self._poller.run)

    def new_waiter(self) -> Waiter:
        return TrioWaiter(_reschedule)

    def new_event(self) -> Event:
        return TrioEvent()

    def is_current(self) -> bool:
        try:
            return trio.lowlevel.current_trio_token() is self._token
        except RuntimeError:
            return False

    def is_over(self) -> bool:
        return self._over

    def call_from_anywhere(self, callback: Callback) -> bool:
        def guarded() -> None:
            try:
                callback()
            except Exception:
                log_failure(callback)

        try:
            self._token.run_sync_soon(guarded)
        except trio.RunFinishedError:
            return False
        return True

    def lead_interrupt(self, exc: BaseException) -> bool:
        # The handler that Trio has set leads it to the main task, since this one is protected.
        if not (_is_interrupt(exc) and trio.lowlevel.currently_ki_protected() and _is_handled()):
            return False
        signal.raise_signal(signal.SIGINT)
        return True

    # Tasks

    def start_soon(self, function: Function, /, *args: Any) -> None:
        self.start_host(self._run_child, Context(), function, args)

    async def _run_child(self, function: Function, args: tuple[Any, ...]) -> None:
        try:
            await function(*args)
        except trio.Cancelled:
            raise
        except BaseException:  # whatever it is, it would end the whole program
            log_failure(function)

    @trio.lowlevel.enable_ki_protection
    def start_host(self, function: Function, context: Context, /, *args: Any) -> None:
        trio.lowlevel.spawn_system_task(
            function, *args, name=f"creche {function.__name__}", context=context
        )

    @trio.lowlevel.enable_ki_protection
    def start_in(
        self, tasks: TaskGroup, context: Context, function: Function, /, *args: Any
    ) -> TaskHandle[None]:
        return super().start_in(tasks, context, function, *args)

    # Deadlines

    def _wake_at(self, deadline: float) -> None:
        self._due = deadline
        self._timer.wake()

    async def _run_timers(self) -> None:
        try:
            while True:
                now = self.now()
                self._due = -NEVER  # what is scheduled meanwhile is seen below
                self._deadlines.fire(now)
                due = self._deadlines.next()
                if due <= now:  # there were too many for one turn
                    await trio.lowlevel.checkpoint()
                    continue
                self._due = due
                with trio.CancelScope(deadline=due):
                    await self._timer.wait()
        finally:
            # Trio cancels system tasks when the main task has ended.
            self._over = True
            self._end()
            if self._poller is not None:
                self._poller.close()


def _is_interrupt(exc: BaseException) -> bool:
    """Whether it is nothing but a KeyboardInterrupt."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(KeyboardInterrupt)[1] is None
    return isinstance(exc, KeyboardInterrupt)


def _is_handled() -> bool:
    """Whether Trio handles Ctrl-C: not in another thread than the main one, nor where somebody else
    does, or nobody, as in what a shell has started in the background."""
    handler = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and str(getattr(handler, "__module__", "")).startswith("trio.")


# Of each run of Trio's.
_engine: trio.lowlevel.RunVar[TrioEngine] = trio.lowlevel.RunVar("creche_engine")


def trio_engine() -> TrioEngine:
    """The engine of this run, made if there is none yet.

    Raises:
        RuntimeError: the run is about to end.
    """
    try:
        engine = _engine.get()
    except LookupError:
        engine = TrioEngine()
        _engine.set(engine)
    if engine.is_over():
        raise RuntimeError("the event loop is about to end: no connection can be opened any more")
    return engine
