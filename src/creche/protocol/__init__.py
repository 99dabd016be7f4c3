"""The WebSocket protocol without I/O: no sockets, no tasks, no clock.

`COMPILED` tells whether the modules of this package run as extensions or as Python source. It is
all of them or none.
"""

from __future__ import annotations

from importlib import import_module

MODULES = (
    "closing",
    "connection",
    "control_frames",
    "deflate",
    "escaping",
    "exceptions",
    "extensions",
    "frames",
    "masking",
    "messages",
    "parsing",
    "pings",
    "prepared",
    "sending",
    "states",
    "timers",
)


def _is_compiled(name: str) -> bool:
    module = import_module(f"{__name__}.{name}")
    return not str(module.__file__).endswith(".py")


COMPILED: bool = all(map(_is_compiled, MODULES))
