"""Patience: a deadline for a task that waits for a peer, judged when what has arrived was read."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import anyio

from creche.engine.deadlines import NEVER, Timer
from creche.engine.engine import Engine

# A process that was suspended, or an event loop that was blocked, may come to a deadline before it
# has read what has arrived long since. So it is looked at again after so many seconds.
LATE_SECONDS = 0.02


class PatientScope:
    """A cancel scope with a deadline.

    Args:
        engine: the event loop's.
        seconds: the time until the deadline; None for none.

    Attributes:
        expired: whether the deadline has ended its block.
    """

    def __init__(self, engine: Engine, seconds: float | None) -> None:
        self._engine = engine
        self._seconds = seconds
        self._scope = anyio.CancelScope()
        self._timer: Timer | None = None
        self._looked = False

    @property
    def expired(self) -> bool:
        return self._scope.cancelled_caught

    def __enter__(self) -> Self:
        if self._seconds is not None:
            self._timer = self._engine.schedule(self, self._engine.now() + self._seconds)
        self._scope.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        return self._scope.__exit__(exc_type, exc, traceback)

    def timeout_due(self, now: float) -> float:
        """Time is over."""
        if not self._looked:
            self._looked = True
            return now + LATE_SECONDS
        self._scope.cancel()
        return NEVER
