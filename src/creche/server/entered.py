"""A coroutine for which `async with` is a likely mistake, and one that is explained."""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, NoReturn


class NotEntered(Coroutine[Any, Any, None]):
    """A coroutine like any other, but for the error that `async with` meets.

    Args:
        coroutine: what it is.
        advice: what to write instead.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, None], advice: str) -> None:
        self._coroutine = coroutine
        self._advice = advice

    def __repr__(self) -> str:
        return repr(self._coroutine)

    def __await__(self) -> Generator[Any, Any, None]:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *args: Any) -> Any:
        return self._coroutine.throw(*args)

    def close(self) -> None:
        self._coroutine.close()

    # Tracebacks of tasks and debuggers look at a coroutine's attributes.

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    async def __aenter__(self) -> NoReturn:
        self._coroutine.close()
        raise TypeError(self._advice)

    async def __aexit__(  # pragma: no cover - without it there would be another error
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nobody comes here."""
