"""Engine: what belongs to one event loop, and every connection in it runs on.

It is made with the first connection or server of its loop and stays until the loop ends. So no
connection belongs to a task or a block: it may be opened in one task and closed in another.

Its rules:

- It never raises, whatever a connection does: a mistake with one reaches that one alone.
- What it does for one connection never holds up the others for long (Share).
- It holds the connections that are open, and not the objects that applications hold of them.
- When the loop ends, it ends what is still open, as well as that can be done without waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol

import anyio
from anyio import TaskHandle
from anyio.abc import TaskGroup

from creche.engine.budget import current_budget
from creche.engine.buffers import BufferLimit
from creche.engine.deadlines import NEVER, Deadlines, Scheduled, Timer
from creche.engine.polling import Callback, Readiness, log_failure
from creche.engine.read_buffer import read_buffer
from creche.engine.traffic import Traffic
from creche.engine.turns import Turns
from creche.engine.waiting import Waiter

_GOLDEN_RATIO = 0.6180339887

Function = Callable[..., Coroutine[Any, Any, None]]


class Resident(Protocol):
    """A connection that the engine holds until it is over."""

    def loop_ends(self) -> None:
        """Say and do what can be done without waiting, and close: nothing runs after this."""


class Event(Protocol):
    """What tasks wait for, as an anyio.Event."""

    def set(self) -> None:
        """Let those that wait go on, and those that will not wait."""

    def is_set(self) -> bool:
        """Whether it has been set."""

    async def wait(self) -> None:
        """Wait until it is set."""


class Engine:
    """What moves bytes and keeps deadlines for all connections of an event loop.

    To be made in a task of the loop, by `current_engine`. What raises NotImplementedError here is
    each backend's own.

    Args:
        now: the event loop's clock, in seconds.
        turns: what calls back at the end of a turn.

    Attributes:
        now: the event loop's clock.
        turns: what its connections have done at the end of a turn.
        budget: what its connections may do in a row.
        read_buffer: what it reads into.
        readiness: calls back when a socket is ready; None where a task has to wait for it.
        clients: what connections that are no server's are counted in.
        residents: the connections that are open.
    """

    readiness: Readiness | None

    def __init__(self, now: Callable[[], float], turns: Turns) -> None:
        self.now = now
        self.turns = turns
        self.budget = current_budget()
        self.read_buffer = read_buffer()
        self.clients = Account(self)
        self.residents: set[Resident] = set()
        self._deadlines = Deadlines()
        self._due = NEVER  # when the deadlines are looked at next
        self._phase = 0.0

    def new_waiter(self) -> Waiter:
        """Something for one task to wait for."""
        raise NotImplementedError

    def new_event(self) -> Event:
        """Something for any number of the application's tasks to wait for, once."""
        return anyio.Event()

    def is_current(self) -> bool:
        """Whether the caller runs in this event loop, in its thread."""
        raise NotImplementedError

    def is_over(self) -> bool:
        """Whether the event loop has ended: nothing runs any more."""
        raise NotImplementedError

    def check_current(self, what: str) -> None:
        """See that a call comes from this event loop.

        Raises:
            RuntimeError: it comes from another one, or from another thread.
        """
        if not self.is_current():
            raise RuntimeError(
                f"{what} belongs to another event loop: use it in the loop, and in the thread, in "
                "which it was opened"
            )

    def call_from_anywhere(self, callback: Callback) -> bool:
        """Call `callback` in the event loop, soon; may be called in any thread, at any time.

        Returns:
            False where the event loop has ended: it will not be called.
        """
        raise NotImplementedError

    def start_soon(self, function: Function, /, *args: Any) -> None:
        """Start a task that no scope of the application's is around. When the loop ends it is
        cancelled."""
        raise NotImplementedError

    def start_host(self, function: Function, context: Context, /, *args: Any) -> None:
        """As `start_soon`, in a context of the application's. `function` raises nothing."""
        raise NotImplementedError

    def start_in(
        self, tasks: TaskGroup, context: Context, function: Function, /, *args: Any
    ) -> TaskHandle[None]:
        """Start a child of a task group, outside of any task perhaps, in a copy of `context`."""
        return tasks.create_task(
            function(*args), name=f"creche {function.__name__}", context=context.copy()
        )

    def lead_interrupt(self, exc: BaseException) -> bool:
        """Let a KeyboardInterrupt that has struck in a task of the engine come out where the
        application waits for it.

        Returns:
            Whether it will; otherwise the caller has to raise it there.
        """
        raise NotImplementedError

    # Deadlines

    def next_phase(self) -> float:
        """A number from 0 to 1, at first 0; those that follow each other lie far apart."""
        phase = self._phase
        self._phase = (phase + _GOLDEN_RATIO) % 1
        return phase

    def schedule(self, target: Scheduled, deadline: float) -> Timer:
        """Call `target.timeout_due` at `deadline`."""
        timer = self._deadlines.schedule(target, deadline)
        if deadline < self._due:
            self._wake_at(deadline)
        return timer

    def _wake_at(self, deadline: float) -> None:
        """Look at the deadlines then, and not as late as `_due`."""
        raise NotImplementedError

    # The end

    def _end(self) -> None:
        """The loop ends, or has ended."""
        for resident in list(self.residents):
            try:
                resident.loop_ends()
            except Exception:
                log_failure(resident)
        self.residents.clear()
        self._deadlines.clear()
        self.turns.clear()


class Account:
    """What connections that belong together are counted in: a server's, or an event loop's clients.

    Args:
        engine: what moves their bytes.
        max_buffered_bytes: what they may keep in memory together; None for any amount.

    Attributes:
        engine: what moves their bytes.
        buffers: what they keep in memory.
        traffic: what they have sent and received.
    """

    def __init__(self, engine: Engine, max_buffered_bytes: int | None = None) -> None:
        self.engine = engine
        self.buffers = BufferLimit(max_buffered_bytes)
        self.traffic = Traffic()
