"""What a client's TLS trusts where it is not told: the authorities of the system.

To load them takes tens of milliseconds, and they take most of a MiB. So that is done once for a
process, in a worker thread, by the first who needs them.
"""

from __future__ import annotations

import os
import ssl
import threading
from typing import Any, NoReturn

import anyio.to_thread

_SHARED = (
    "the TLS context of all connections of this process that were given none cannot be changed; "
    "give one of your own as ssl"
)


class SharedContext(ssl.SSLContext):
    """A context that nobody can change. A connection shows it to the application, which would
    otherwise turn verification off for every other connection, or show its certificate to every
    server."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(_SHARED)


def _refuse(*_: object, **__: object) -> NoReturn:
    raise AttributeError(_SHARED)


for _name in dir(ssl.SSLContext):
    if _name.startswith(("load_", "set_")):
        setattr(SharedContext, _name, _refuse)


def client_context() -> ssl.SSLContext:
    """A TLS context that verifies the server, for HTTP/1.1."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


# What the shared context was made from, and the context.
_made: tuple[object, ssl.SSLContext] | None = None
_making = threading.Lock()


def _renew_lock() -> None:
    global _making
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    # Another thread of the parent may hold it, which there is not in a child.
    os.register_at_fork(after_in_child=_renew_lock)


async def shared_context() -> ssl.SSLContext:
    """The context of connections that are given none; a new one where what it is made from has
    changed, such as the environment or the files of the authorities."""
    source = _source()
    made = _made
    if made is not None and made[0] == source:
        return made[1]
    return await anyio.to_thread.run_sync(_make, source, abandon_on_cancel=True)


def _source() -> object:
    paths = ssl.get_default_verify_paths()
    return (
        _identity(paths.cafile),
        _identity(paths.capath),
        os.environ.get("SSLKEYLOGFILE"),
        # Libraries put others in their place, which trust something else.
        ssl.create_default_context,
        ssl.SSLContext,
    )


def _identity(path: str | None) -> object:
    """What tells a file from what has stood there before."""
    if path is None:
        return None
    try:
        status = os.stat(path)
    except OSError:
        return path
    return path, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _make(source: object) -> ssl.SSLContext:
    global _made
    with _making:
        if _made is None or _made[0] != source:
            context: Any = client_context()
            try:
                context.__class__ = SharedContext
            except (AttributeError, TypeError):
                pass  # it is of a library that has put another class in its place
            _made = source, context
        return _made[1]
