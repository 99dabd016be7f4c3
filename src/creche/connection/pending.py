"""PendingConnection: a connection that is to be opened, by being awaited or entered."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from types import TracebackType
from typing import Any

from creche.connection.websocket import WebSocket


class PendingConnection:
    """A connection that is to be opened.

    `ws = await pending` opens it; whoever does so closes it, in whatever task. `async with pending
    as ws` opens it and closes it when it is left.
    """

    _ws: WebSocket | None = None

    @abstractmethod
    async def _open(self) -> WebSocket:
        """Open it."""

    def __await__(self) -> Generator[Any, Any, WebSocket]:
        return self._open().__await__()

    async def __aenter__(self) -> WebSocket:
        if self._ws is not None:
            raise RuntimeError("this connection is open already")
        self._ws = await self._open()
        return self._ws

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ws, self._ws = self._ws, None
        if ws is not None:
            await ws.__aexit__(exc_type, exc, traceback)
