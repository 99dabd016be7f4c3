"""What is opened and closed, in whatever task: by being entered and left, or by being awaited."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from creche.connection.websocket import WebSocket

T = TypeVar("T")


async def leave(ws: WebSocket, exc: BaseException | None) -> None:
    """Leave a WebSocket as its block does that `exc` has ended."""
    await ws.__aexit__(None if exc is None else type(exc), exc, None)


class Pending(Generic[T]):
    """What is opened when it is entered, and closed when it is left; one at a time."""

    _opened: T | None = None
    _taken = "this connection is open already"

    @abstractmethod
    async def _open(self) -> T:
        """Open it."""

    @abstractmethod
    async def _close(self, opened: T, exc: BaseException | None) -> None:
        """Close it; `exc` is what the body has raised."""

    if not TYPE_CHECKING:  # who finds these mistakes alone

        def __enter__(self) -> NoReturn:
            raise TypeError(f"{type(self).__name__}() is entered by 'async with'")

        def __exit__(self, *_: object) -> None:
            """Nobody comes here."""

        def __aiter__(self) -> NoReturn:
            raise TypeError(
                f"{type(self).__name__}() opens one connection: say 'async with "
                "creche.reconnecting(uri) as connections: async for ws in connections'"
            )

    async def __aenter__(self) -> T:
        if self._opened is not None:
            raise RuntimeError(self._taken)
        self._opened = await self._open()
        return self._opened

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await self._close(opened, exc)


class AwaitablePending(Pending[T]):
    """What may be awaited, too: whoever does so closes what it gives, in whatever task."""

    def __await__(self) -> Generator[Any, Any, T]:
        return self._open().__await__()


class PendingConnection(AwaitablePending[WebSocket]):
    """A connection that is to be opened."""

    async def _close(self, opened: WebSocket, exc: BaseException | None) -> None:
        await leave(opened, exc)
