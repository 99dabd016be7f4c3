"""The engine of the event loop that runs."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import cache
from typing import cast

from anyio.lowlevel import current_token

from creche.engine.engine import Engine
from creche.protocol import COMPILED

# Where asyncio's event loop holds its engine. A RunVar of AnyIO's would hold it for ever: its value
# leads to its key, which is the loop.
_ATTRIBUTE = "_creche_engine"


@cache
def _tell_build() -> None:
    """Say once that the faster build is not in use, where there is one."""
    if not COMPILED and sys.implementation.name == "cpython":
        logging.getLogger("creche").info(
            "this is the build in pure Python, as of an editable install or one without a C "
            "compiler: the compiled one takes a fraction of the time"
        )


def current_engine() -> Engine:
    """The engine of this event loop, made if there is none yet. To be called in a task.

    Raises:
        RuntimeError: no event loop runs, or it is about to end.
    """
    _tell_build()
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
