"""What several commands let their user say."""

from __future__ import annotations

import argparse
import ssl
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

from creche.client.connect import check_target
from creche.handshake.addresses import check_port
from creche.handshake.exceptions import InvalidURI
from creche.options.checks import MOST_SECONDS
from creche.options.resolving import client_options

# What a command does; it returns the exit status, None for 0.
Command = Callable[[], Awaitable[int | None]]


_LAST_PORT = 2**16 - 1


class UsageError(Exception):
    """The arguments are wrong; the text says which, and why."""


def add_backend(parser: argparse.ArgumentParser) -> None:
    """--backend: the event loop."""
    parser.add_argument(
        "--backend",
        type=_installed,
        choices=["asyncio", "uvloop", "trio"],
        default="asyncio",
        help="the event loop (default: asyncio)",
    )


def _installed(name: str) -> str:
    if name in ("uvloop", "trio") and find_spec(name) is None:
        raise argparse.ArgumentTypeError(f"{name} is not installed: pip install {name}")
    return name


def add_client_tls(parser: argparse.ArgumentParser) -> None:
    """--ca and --insecure: what a client trusts."""
    parser.add_argument("--ca", metavar="FILE", help="trust the authorities in this PEM file")
    parser.add_argument(
        "--insecure", action="store_true", help="do not check the server's certificate"
    )


def client_tls(given: argparse.Namespace) -> ssl.SSLContext | None:
    """The TLS context that --ca and --insecure ask for; None for the default.

    Raises:
        UsageError: the file of --ca cannot be read.
    """
    if not given.ca and not given.insecure:
        return None
    if not given.uri.lower().startswith("wss:"):
        raise UsageError("--ca and --insecure are for wss URIs")
    try:
        context = ssl.create_default_context(cafile=given.ca)
    except OSError as exc:
        raise UsageError(f"--ca {given.ca}: {exc.strerror or exc.reason}") from None  # type: ignore[attr-defined]
    if given.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def check_client_options(uri: str, **options: Any) -> dict[str, Any]:
    """The options of connect(), where they are right.

    Raises:
        InvalidURI: the URI is not one of a WebSocket.
        UsageError: one of the options is wrong.
    """
    try:
        check_target(uri, client_options(options))
    except InvalidURI:
        raise  # the arguments are right in their form
    except (TypeError, ValueError) as exc:
        raise UsageError(str(exc)) from None
    return options


def seconds(text: str) -> float:
    """A positive number of seconds."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    if value > MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_SECONDS:,}")
    return value


def delay(text: str) -> float:
    """A number of seconds, which may be 0."""
    return 0 if float(text) == 0 else seconds(text)


def port(text: str) -> int:
    """A TCP port, or 0 for a free one."""
    try:
        value = int(text)
        check_port("port", value, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be 0 to {_LAST_PORT}, not {text[:20]!r}") from None
    return value


def count_up_to(most: int) -> Callable[[str], int]:
    """What takes a number that is at least 1, and not more than a machine can do."""

    def count(text: str) -> int:
        value = int(text)
        if value < 1:
            raise ValueError
        if value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most:,}")
        return value

    return count
