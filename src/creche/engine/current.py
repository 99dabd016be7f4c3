"""The engine of the event loop that runs."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from anyio.lowlevel import current_token

from creche.engine.engine import Engine

# Where asyncio's event loop holds its engine. A RunVar of AnyIO's would hold it for ever: its value
# leads to its key, which is the loop.
_ATTRIBUTE = "_creche_engine"

# The same for Trio, made when it is first needed.
_trio_engine: Any = None


def current_engine() -> Engine:
    """The engine of this event loop, made if there is none yet. To be called in a task.

    Raises:
        RuntimeError: no event loop runs, or it is about to end.
    """
    loop = current_token().native_token
    if not isinstance(loop, asyncio.AbstractEventLoop):
        return _on_trio()
    engine = getattr(loop, _ATTRIBUTE, None)
    if engine is None:
        from creche.engine.on_asyncio import AsyncioEngine

        engine = AsyncioEngine(loop)
        setattr(loop, _ATTRIBUTE, engine)
    return cast(Engine, engine)


def _on_trio() -> Engine:
    global _trio_engine
    import trio

    if _trio_engine is None:
        _trio_engine = trio.lowlevel.RunVar[Engine]("creche_engine")
    try:
        engine = _trio_engine.get()
    except LookupError:
        from creche.engine.on_trio import TrioEngine

        engine = TrioEngine()
        _trio_engine.set(engine)
    if engine.is_over():
        raise RuntimeError("the event loop is about to end: no connection can be opened any more")
    return cast(Engine, engine)
