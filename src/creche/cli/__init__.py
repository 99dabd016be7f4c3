"""The command line: `creche` and `python -m creche`. Each command is a module of its own."""

from __future__ import annotations

import argparse
import platform
import signal
import ssl
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import anyio
from anyio.abc import TaskStatus

import creche
from creche.cli import bench, connect, demo, serve
from creche.cli.arguments import Command, UsageError
from creche.cli.console import open_missing_streams
from creche.protocol import COMPILED
from creche.protocol.escaping import escape

# Each has add_to(), which says what arguments it takes, and sets `prepare`: called with them, it
# returns a Command, or raises a UsageError.
COMMANDS = (demo, connect, serve, bench)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    Args:
        arguments: those of the command line; None for those of this process.

    Raises:
        SystemExit: always, with the exit status: 0 when all went well, 1 when it did not, 2 when
            the arguments are wrong.
    """
    parser = argparse.ArgumentParser(prog="creche", description="WebSockets on Trio and asyncio.")
    build = "compiled" if COMPILED else "pure Python"
    parser.add_argument(
        "--version",
        action="version",
        version=f"creche {creche.__version__} ({build}), Python {platform.python_version()}",
    )
    open_missing_streams()
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_to(commands)
    given, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse(commands.choices[given.command], unknown)
    options = {"use_uvloop": True} if given.backend == "uvloop" else {}
    backend = "asyncio" if given.backend == "uvloop" else given.backend
    try:
        command = given.prepare(given)
        status = anyio.run(_until_signal, command, backend=backend, backend_options=options)
    except UsageError as exc:
        commands.choices[given.command].error(str(exc))
    except (OSError, creche.WebSocketError) as exc:
        print(f"creche: {escape(explain(exc), None)}", file=sys.stderr)
        status = 1
    sys.exit(status)


def _refuse(command: argparse.ArgumentParser, unknown: list[str]) -> NoReturn:
    """Say which arguments a command does not know, and which of its options is meant perhaps."""
    options = [name for action in command._actions for name in action.option_strings]
    meant = get_close_matches(unknown[0].partition("=")[0], options, 1)
    advice = f"; is it {meant[0]}?" if meant else ""
    command.error(f"unrecognized arguments: {' '.join(unknown)}{advice}")


def explain(exc: Exception) -> str:
    """What is wrong, in a line, and how to go on where that is known."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return (
            f"the server's certificate is not trusted: {exc.verify_message}. Say --ca FILE to "
            "trust the authority in FILE, or --insecure to check nothing"
        )
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed: {exc.reason}. Does the server speak TLS at all? Without it, say ws://"
    if isinstance(exc, creche.InvalidStatus) and not exc.said:
        body = exc.response.body.decode("utf-8", "replace").strip().partition("\n")[0]
        return f"{exc}: {body[:200]}" if body else str(exc)
    if isinstance(exc, OSError):
        return exc.strerror or str(exc)
    return str(exc)


async def _until_signal(command: Command) -> int:
    """Run a command, and cancel it at Ctrl-C and SIGTERM."""
    status = 0
    error: Exception | None = None
    try:
        async with anyio.create_task_group() as tg:
            await tg.start(_cancel_by_signal, tg.cancel_scope)
            try:
                status = await command() or 0
            except (OSError, creche.WebSocketError) as exc:
                error = exc
            tg.cancel_scope.cancel()
        if error is not None:
            raise error
    finally:
        del error
    return status


async def _cancel_by_signal(
    scope: anyio.CancelScope, *, task_status: TaskStatus[Any] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
