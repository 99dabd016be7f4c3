"""Where `creche connect` reads lines and shows messages: a terminal, or two streams.

With prompt_toolkit (the extra "cli") a terminal has line editing and history, and messages appear
above the prompt. Without it, and where standard input or output is no terminal, lines are read and
written plainly.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import anyio
from anyio.lowlevel import current_token

from creche.protocol.escaping import escape


class Console:
    """Standard input and output, line by line.

    Attributes:
        interactive: whether a person sits there, who types and reads.
        shown: whether a terminal shows the output, wherever the input comes from.
    """

    def __init__(self, interactive: bool, shown: bool) -> None:
        self.interactive = interactive
        self.shown = shown

    async def each_line(self, use: Callable[[str], Awaitable[None]]) -> None:
        """Call `use` with each line of the input, without its end; return at the end of all."""
        send, receive = anyio.create_memory_object_stream[bytes](0)
        arguments = (sys.stdin.fileno(), send.send, current_token())
        threading.Thread(target=_read_input, args=arguments, daemon=True).start()
        rest = b""
        with send, receive:
            while data := await receive.receive():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    await use(line.decode("utf-8", "replace").removesuffix("\r"))
            if rest:
                await use(rest.decode("utf-8", "replace"))

    def show(self, message: str) -> None:
        """Write a message of the server.

        Raises:
            OSError: it cannot be written; a BrokenPipeError if nobody reads the output any more.
        """
        if self.shown:
            message = escape(message, None, keep="\n\t")
        # What the output's encoding has no character for would be an error.
        encoding = sys.stdout.encoding or "utf-8"
        message = message.encode(encoding, "backslashreplace").decode(encoding)
        print(f"< {message}" if self.interactive else message, flush=True)

    def note(self, text: str) -> None:
        """Write what is not a message, where it does not mix with messages."""
        print(f"* {escape(text, None)}", file=sys.stderr, flush=True)


def open_missing_streams() -> None:
    """Where a process has been started without one of its standard streams, nothing is read, and
    what is written goes nowhere.

    A socket would otherwise get the number of the missing one.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def forget_output() -> None:  # pragma: no cover - see connect.py
    """Nobody reads the output any more, or it has no room: let what is buffered go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def say(text: str) -> None:
    """Write a line of a log: who serves goes on where it cannot be written."""
    try:
        print(text, flush=True)
    except OSError:  # pragma: no cover - as in: creche serve | head -1
        forget_output()


# What tells the thread that nobody wants more: the event loop has ended, or is about to.
_OVER = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    RuntimeError,
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
)


def _read_input(descriptor: int, send: Any, token: Any) -> None:
    """Pass on what comes; nothing at its end. The thread is left alone when nobody wants more.

    os.read has no lock that an interpreter that ends would wait for.
    """
    data = b"\n"
    while data:
        try:
            data = os.read(descriptor, 65536)
        except OSError:
            data = b""
        try:
            anyio.from_thread.run(send, data, token=token)
        except _OVER:
            return


class Prompt(Console):
    """A terminal with a line editor at its bottom."""

    def __init__(self) -> None:
        super().__init__(True, True)
        from prompt_toolkit import PromptSession

        self._session: PromptSession[str] = PromptSession("> ")

    async def each_line(self, use: Callable[[str], Awaitable[None]]) -> None:
        while True:
            try:
                line = await self._session.prompt_async()
            except (EOFError, KeyboardInterrupt):  # Ctrl-D, Ctrl-C
                return
            await use(line)


@contextmanager
def open_console() -> Iterator[Console]:
    """The best console that there is."""
    shown = sys.stdout.isatty()
    interactive = shown and sys.stdin.isatty()
    if not interactive or find_spec("prompt_toolkit") is None:
        yield Console(interactive, shown)
        return
    from prompt_toolkit.patch_stdout import patch_stdout

    with patch_stdout():
        yield Prompt()
