"""`creche connect`: talk to a WebSocket server."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import anyio

import creche
from creche.cli.arguments import (
    Command,
    UsageError,
    add_client_tls,
    check_client_options,
    client_tls,
    delay,
    seconds,
)
from creche.cli.console import Console, forget_output, open_console
from creche.handshake.redaction import without_secrets


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "connect",
        help="talk to a server",
        description="Talk to a WebSocket server. In a terminal each line is sent as a message; "
        "Ctrl-C or Ctrl-D closes the connection. Otherwise each line of the standard input is "
        "sent, and each message is a line of the standard output.",
    )
    parser.add_argument("uri", metavar="URI", help="such as wss://example.com/path")
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="a header field"
    )
    parser.add_argument(
        "--subprotocol", action="append", default=[], metavar="NAME", help="one to offer"
    )
    parser.add_argument("--origin", metavar="ORIGIN", help="the Origin header")
    parser.add_argument("--binary", action="store_true", help="send binary messages")
    parser.add_argument(
        "--ping", type=seconds, metavar="SECONDS", help="ping so often, and show the delay"
    )
    parser.add_argument(
        "--wait",
        type=delay,
        metavar="SECONDS",
        help="go on for so long after the end of the input (default: until the server closes)",
    )
    add_client_tls(parser)
    parser.set_defaults(prepare=prepare, backend="asyncio")


def prepare(given: argparse.Namespace) -> Command:
    options = check_client_options(
        given.uri,
        additional_headers=[_header(text) for text in given.header],
        subprotocols=given.subprotocol,
        origin=given.origin,
        ssl=client_tls(given),
        max_size=None,
        close_timeout=2,
    )
    return partial(run, given, options)


async def run(given: argparse.Namespace, options: Mapping[str, Any]) -> int:
    """Talk until either side closes; returns 1 if the connection ended badly."""
    with open_console() as console:
        async with creche.connect(given.uri, **options) as ws:
            agreed = f", subprotocol {ws.subprotocol}" if ws.subprotocol else ""
            console.note(f"connected to {without_secrets(given.uri)}{agreed}")
            if console.interactive:
                console.note("each line is sent as a message; Ctrl-D or Ctrl-C closes")
            try:
                return await _talk(ws, console, given)
            finally:
                # What the close code will be is known once it is closed.
                with anyio.CancelScope(shield=True):
                    await ws.aclose(1000)
                reason = f": {ws.close_reason}" if ws.close_reason else ""
                code = creche.Close(ws.close_code or 1006)
                console.note(f"closed with {code}{reason}")


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        # Not shown: it may be a credential, in a log of commands.
        raise UsageError("--header: one of them has no colon; say 'NAME: VALUE'")
    return name.strip(), value.strip()


async def _talk(ws: creche.WebSocket, console: Console, given: argparse.Namespace) -> int:
    status = 0

    async def send(ws: creche.WebSocket) -> None:
        await console.each_line(lambda line: ws.send(line.encode() if given.binary else line))
        if not console.interactive:
            await anyio.sleep(float("inf") if given.wait is None else given.wait)

    async def receive(ws: creche.WebSocket) -> None:
        nonlocal status
        async for message in ws:
            try:
                console.show(readable(message) if console.interactive else plain(message))
            # As in: creche connect URI | head -1. A process of its own shows it in the tests.
            except OSError as exc:  # pragma: no cover
                forget_output()
                if not isinstance(exc, BrokenPipeError):
                    console.note(f"the output cannot be written: {exc.strerror}")
                    status = 1
                return

    async def ping(ws: creche.WebSocket) -> None:
        while True:
            delay = await ws.ping()
            console.note(f"pong after {delay * 1000:.1f} ms")
            await anyio.sleep(given.ping)

    try:
        await ws.run(send, receive, *([ping] if given.ping else []))
    except creche.ConnectionClosedError:
        # What had arrived before it is shown, too.
        with contextlib.suppress(creche.ConnectionClosedError):
            await receive(ws)
        return 1
    return status


def plain(message: str | bytes) -> str:
    """A message as a line: text as it is, binary in hexadecimal digits."""
    return message if isinstance(message, str) else message.hex()


def readable(message: str | bytes) -> str:
    """A message for a person: JSON over several lines, binary in groups of digits."""
    if isinstance(message, bytes):
        return f"({len(message)} bytes) {message.hex(' ')}"
    if message.lstrip()[:1] in ("{", "["):
        try:
            return json.dumps(json.loads(message), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass  # it only looks like JSON, or is nested without end
    return message
