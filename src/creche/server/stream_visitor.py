"""A client that a listener of AnyIO has accepted."""

from __future__ import annotations

import anyio
from anyio.abc import ByteStream

from creche.connection.websocket import WebSocket
from creche.handshake.http import Request
from creche.server.register import Register
from creche.server.visitor import Visitor


class StreamVisitor(Visitor):
    """A visitor that a listener of AnyIO has accepted, in a task that there is already."""

    __slots__ = ("_event", "_what")

    def __init__(self, register: Register) -> None:
        super().__init__(register)
        self._what: WebSocket | Request | None = None
        self._event = register.account.engine.new_event()

    async def stay(self, stream: ByteStream) -> None:
        """Be its task."""
        self.arrive(stream)
        try:
            await self._event.wait()
        except BaseException:
            self.cancel()
            await self._work()
            raise
        await self._work()

    async def _work(self) -> None:
        if self._what is not None:
            assert isinstance(self._task, anyio.CancelScope)
            with self._task:
                await self.serve(self._what)

    def _start(self, what: WebSocket | Request) -> None:
        self._what = what
        self._task = anyio.CancelScope()
        self._event.set()

    def leave(self) -> None:
        super().leave()
        self._event.set()
