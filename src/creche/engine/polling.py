# cython: annotation_typing=False
"""One task that waits for many sockets, since Trio's event loop has no callbacks for them.

There a task waits for one socket at a time. A server with a task for each connection pays for
its memory, and for a trip through the scheduler with every read. Linux's epoll is readable itself
when a socket in it is: so one task waits for it and calls back whoever is concerned.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

logger = logging.getLogger("creche")

# Callbacks for many connections go on for so many seconds before others get their turn: for as long
# as these have just had, within these bounds.
SHORTEST_SHARE = 0.001
LONGEST_SHARE = 0.02

Callback = Callable[[], None]


def log_failure(callback: object) -> None:
    """Log the exception at hand: a mistake of ours, with one connection, that must not end what
    serves all of them."""
    logger.exception("%s failed; please report it", callback)


class Share:
    """The time that callbacks may take in a turn of the event loop.

    They take as long as the others have had since the last time, so that neither starves: where
    each turn of the others takes a tenth of a second, a thousandth would leave a socket that is
    ready waiting for many turns.
    """

    def __init__(self) -> None:
        self._ended = 0.0
        self._end = 0.0

    def begin(self) -> None:
        """The callbacks' turn begins."""
        now = perf_counter()
        self._end = now + min(max(now - self._ended, SHORTEST_SHARE), LONGEST_SHARE)

    def is_over(self) -> bool:
        """Whether the others are to have theirs. To be asked after each callback."""
        self._ended = perf_counter()
        return self._ended >= self._end


class Readiness(Protocol):
    """Calls back when a socket is ready: the part of asyncio's event loop that sockets need.

    An application may get hold of a socket, and close or detach it: its number may be another's
    then. So whoever removes a callback does so by the number that it was added for, and only if the
    socket still has that, or if it was this callback that was called.
    """

    def add_reader(self, descriptor: int, callback: Callback, /) -> object: ...

    def remove_reader(self, descriptor: int, /) -> object: ...

    def add_writer(self, descriptor: int, callback: Callback, /) -> object: ...

    def remove_writer(self, descriptor: int, /) -> object: ...

    def call_soon(self, callback: Callback, /) -> object: ...


class HasDescriptor(Protocol):
    """A socket, perhaps with TLS over it."""

    def fileno(self) -> int: ...


def is_still(sock: HasDescriptor, descriptor: int) -> bool:
    """Whether this number is a socket's still, or nobody's: its callbacks may be removed."""
    if sock.fileno() == descriptor:
        return True
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


class Poller:
    """Readiness by epoll. Nothing is called back unless `run` runs.

    Args:
        call_soon: calls a callback at the end of a turn.
    """

    def __init__(self, call_soon: Callable[[Callback], object]) -> None:
        self.call_soon = call_soon
        self._epoll: Any = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._ready: list[tuple[int, int]] = []
        self._share = Share()

    async def run(self) -> None:
        """Call back until cancelled."""
        import trio

        descriptor = self._epoll.fileno()
        while True:
            if self._ready:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(descriptor)
                self._ready = self._epoll.poll(0)
            self._call_back()

    def close(self) -> None:
        """Nobody is called back any more, and `run` must not run."""
        self._epoll.close()

    def _call_back(self) -> None:
        """Those that are not reached within a turn are the first in the next one.

        One of them may belong to another socket by then: a callback is a hint, and reading and
        writing bear that nothing is there.
        """
        self._share.begin()
        while self._ready:
            descriptor, events = self._ready.pop()
            if events & ~select.EPOLLOUT:
                self._call(self._readers.get(descriptor))
            if events & ~select.EPOLLIN:
                self._call(self._writers.get(descriptor))
            if self._share.is_over():
                break

    def _call(self, callback: Callback | None) -> None:
        if callback is not None:  # otherwise it was removed meanwhile
            try:
                callback()
            except Exception:
                log_failure(callback)

    def add_reader(self, descriptor: int, callback: Callback) -> None:
        self._watch(self._readers, descriptor, callback)

    def remove_reader(self, descriptor: int) -> None:
        self._watch(self._readers, descriptor, None)

    def add_writer(self, descriptor: int, callback: Callback) -> None:
        self._watch(self._writers, descriptor, callback)

    def remove_writer(self, descriptor: int) -> None:
        self._watch(self._writers, descriptor, None)

    def _watch(
        self, callbacks: dict[int, Callback], descriptor: int, callback: Callback | None
    ) -> None:
        before = self._events(descriptor)
        known = callbacks.get(descriptor)
        if callback is None:
            callbacks.pop(descriptor, None)
        else:
            callbacks[descriptor] = callback
        try:
            self._tell(descriptor, before, self._events(descriptor))
        except OSError:
            if callback is None:
                return  # it was closed by somebody else
            # As where a user has as many sockets in epolls as may be. Nothing has changed.
            if known is None:
                del callbacks[descriptor]
            raise

    def _events(self, descriptor: int) -> int:
        """What is waited for."""
        reading = select.EPOLLIN if descriptor in self._readers else 0
        return reading | (select.EPOLLOUT if descriptor in self._writers else 0)

    def _tell(self, descriptor: int, before: int, events: int) -> None:
        if self._epoll.closed:
            return
        if not events:
            self._epoll.unregister(descriptor)
        elif before:
            try:
                self._epoll.modify(descriptor, events)
            except FileNotFoundError:
                # Whoever was watched by this number has been closed by somebody else.
                self._epoll.register(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
