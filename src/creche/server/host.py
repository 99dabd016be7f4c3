"""Host: runs a server in a task of the engine, so that any task may start it and stop it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

import anyio

from creche.engine.current import current_engine
from creche.server.server import Server

# What runs a server: it calls the function that it is given when the server has started.
Run = Callable[[Callable[[Server], None]], Coroutine[Any, Any, None]]


class Host:
    """One server in a task of its own, which sees the context in which the Host was made."""

    def __init__(self) -> None:
        self._engine = current_engine()
        self._context = copy_context()
        self._scope = anyio.CancelScope()
        self._started = self._engine.new_event()
        self._ended = self._engine.new_event()
        self._server: Server | None = None
        self._error: BaseException | None = None

    async def start(self, run: Run) -> Server:
        """Start the server.

        Raises:
            Exception: what `run` raises before it has started.
        """
        self._engine.start_host(self._run, self._context, run)
        try:
            await self._started.wait()
        except BaseException:
            await self._stop()
            raise
        if self._server is None:
            self._raise_error()
        assert self._server is not None
        return self._server

    def _has_started(self, server: Server) -> None:
        self._server = server
        self._started.set()

    async def _run(self, run: Run) -> None:
        try:
            with self._scope:
                await run(self._has_started)
        except anyio.get_cancelled_exc_class():
            pass  # the event loop ends
        except BaseException as exc:
            if not self._engine.lead_interrupt(exc):
                self._error = exc
        finally:
            self._ended.set()
            self._started.set()

    async def leave(self, exc: BaseException | None) -> None:
        """Shut the server down; now, if the body has raised `exc`.

        Raises:
            BaseException: what has ended the server; what the body has raised goes first, unless
                the server was ended by KeyboardInterrupt or the like.
            RuntimeError: this is another event loop than the server's.
        """
        if self._engine.is_over():
            return
        self._engine.check_current("this server")
        try:
            if exc is None and self._server is not None and not self._ended.is_set():
                await self._server.shutdown()
        finally:
            await self._stop()
            if exc is None or not isinstance(self._error, Exception):  # pragma: no branch
                self._raise_error()

    async def _stop(self) -> None:
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._ended.wait()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
        finally:
            del error  # a frame that keeps what it raises keeps itself
