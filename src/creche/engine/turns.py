# cython: annotation_typing=False
"""Turns: what is done at the end of a turn of the event loop, for all connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context

from creche.engine.polling import Share, log_failure
from creche.engine.waiting import Waiter


class Turns:
    """Calls callbacks when the tasks that are ready have had their turn.

    Args:
        loop: asyncio's event loop; None stands for Trio's, where `run` has to run.
        context: what asyncio calls back in.
        waiter: what `run` waits for.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop | None, context: Context | None, waiter: Waiter
    ) -> None:
        self._loop = loop
        self._context = context
        self._waiter = waiter
        self._callbacks: deque[Callable[[], None]] = deque()
        self._due = False
        self._share = Share()

    def run_soon(self, callback: Callable[[], None]) -> None:
        """Call `callback` at the end of this turn of the event loop, or of a next one if busy."""
        self._callbacks.append(callback)
        self._wake()

    def clear(self) -> None:
        """Forget what has not been called yet."""
        self._callbacks.clear()

    async def run(self) -> None:
        """Call back until cancelled."""
        while True:
            if self._due:
                await self._waiter.turn()
            else:
                await self._waiter.wait()
            self._call_back()

    def _wake(self) -> None:
        if self._due:
            return
        # Noted when it is done: a signal may strike in between, and twice is no harm.
        if self._loop is None:
            self._waiter.wake()
        else:
            self._loop.call_soon(self._call_back, context=self._context)
        self._due = True

    def _call_back(self) -> None:
        """Call those that are there, for as long as their share of a turn is."""
        self._due = False
        callbacks = self._callbacks
        self._share.begin()
        left = len(callbacks)
        try:
            while left and callbacks:  # one of them may clear the others
                left -= 1
                callback = callbacks.popleft()
                try:
                    callback()
                except Exception:
                    log_failure(callback)
                if self._share.is_over():
                    break
        finally:  # also where KeyboardInterrupt has struck
            if callbacks:
                self._wake()
