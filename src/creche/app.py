"""A server as a whole program."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal, Unpack

import anyio
from anyio.abc import TaskStatus

from creche.connection.websocket import Handler
from creche.options.declared import ServerOptions
from creche.server.deciding import DecidingHandler
from creche.server.serve import serving
from creche.server.server import Server

Backend = Literal["asyncio", "trio"]

# What a shell says of a program that Ctrl-C has ended: 128 and the number of the signal.
_INTERRUPTED = 130

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run(
    handler: Handler | DecidingHandler,
    host: str | None = None,
    port: int = 0,
    *,
    backend: Backend = "asyncio",
    use_uvloop: bool = False,
    **options: Unpack[ServerOptions],
) -> None:
    """Serve WebSockets over TCP as the whole program, until Ctrl-C or SIGTERM.

    It logs where it listens; to standard error, where the application has not set up logging. At
    the first signal it stops accepting, closes every connection with 1001 and waits for the
    handlers for 10 s; at the second one it cancels them.

    Args:
        handler: as for serve().
        host: as for serve().
        port: as for serve().
        backend: the event loop to run on.
        use_uvloop: whether that is uvloop's, on asyncio.
        options: see ServerOptions.

    Raises:
        SystemExit: with status 130, after Ctrl-C.
        TypeError, ValueError: an argument is not what it should be; its name is in the text.
        ImportError: the event loop is not installed.
        OSError: an address cannot be listened on.
    """
    server = serving(handler, host, port, **options)
    _check_installed(backend, use_uvloop)
    interrupted = False
    with _logging():
        try:
            backend_options = {"use_uvloop": True} if use_uvloop else {}
            interrupted = anyio.run(_run, server, backend=backend, backend_options=backend_options)
        except KeyboardInterrupt:
            interrupted = True  # where signals cannot be received
    if interrupted:
        sys.exit(_INTERRUPTED)


def _check_installed(backend: str, use_uvloop: bool) -> None:
    if backend not in ("asyncio", "trio"):
        raise ValueError(f'backend must be "asyncio" or "trio", not {backend!r}')
    if use_uvloop and backend != "asyncio":
        raise ValueError("use_uvloop: uvloop is an event loop of asyncio's")
    wanted = "uvloop" if use_uvloop else backend
    if find_spec(wanted) is None:
        raise ImportError(f"{wanted} is not installed: pip install {wanted}", name=wanted)


@contextmanager
def _logging() -> Iterator[None]:
    """Log to standard error, unless somebody has decided where to log."""
    logger = logging.getLogger("creche")
    if logger.hasHandlers():
        yield
        return
    log = logging.StreamHandler()
    log.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(log)
    before = logger.level
    logger.setLevel(before or logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(log)
        logger.setLevel(before)


async def _run(server_to_be: serving) -> bool:
    """Serve until a signal comes; whether the first was Ctrl-C."""
    received: list[int] = []
    servers: list[Server] = []
    error: BaseException | None = None

    async def obey(*, task_status: TaskStatus[None]) -> None:
        try:
            with anyio.open_signal_receiver(*_SIGNALS) as signals:
                task_status.started()
                async for number in signals:
                    received.append(number)
                    if servers and len(received) == 1:
                        servers[0].begin_shutdown()
                    else:
                        now.cancel()
        except (NotImplementedError, ValueError, RuntimeError):
            # Windows has no such thing on asyncio, nor a thread that is not the main one.
            task_status.started()

    with anyio.CancelScope() as now:
        async with anyio.create_task_group() as tg:
            await tg.start(obey)  # before anybody can see that it listens
            try:
                async with server_to_be as server:
                    servers.append(server)
                    await server.wait_stopped()
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as exc:
                error = exc  # the group would put it into another one
                while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                    error = error.exceptions[0]  # or sys.exit() would be a traceback on Trio
            tg.cancel_scope.cancel()
    try:
        if error is not None:
            raise error
    finally:
        del error  # a frame that keeps what it raises keeps itself
    return received[:1] == [signal.SIGINT]
