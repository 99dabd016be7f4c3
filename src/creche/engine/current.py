"""The engine of the event loop that runs."""

from __future__ import annotations

import asyncio
from typing import cast

from anyio.lowlevel import current_token

from creche.engine.engine import Engine

# Where asyncio's event loop holds its engine. A RunVar of AnyIO's would hold it for ever: its value
# leads to its key, which is the loop.
_ATTRIBUTE = "_creche_engine"


def current_engine() -> Engine:
    """The engine of this event loop, made if there is none yet. To be called in a task.

    Raises:
        RuntimeError: no event loop runs, or it is about to end.
    """
    loop = current_token().native_token
    if not isinstance(loop, asyncio.AbstractEventLoop):
        from creche.engine.on_trio import trio_engine

        return trio_engine()
    engine = getattr(loop, _ATTRIBUTE, None)
    if engine is None:
        from creche.engine.on_asyncio import AsyncioEngine

        engine = AsyncioEngine(loop)
        setattr(loop, _ATTRIBUTE, engine)
    return cast(Engine, engine)
