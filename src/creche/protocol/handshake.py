# cython: annotation_typing=False
"""What both sides of the opening handshake share (RFC 6455 4)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from typing import TypeVar

from creche.protocol.exceptions import InvalidHeader, InvalidUpgrade
from creche.protocol.headers import Headers

T = TypeVar("T")

VERSION = "13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def taken(name: str, elements: Iterable[T]) -> list[T]:
    """The elements of an option, taken once and kept: it may be an iterator, which is used up then,
    and a list of the caller's may change later.

    Raises:
        TypeError: it has none; its name is in the text.
    """
    try:
        iterator = iter(elements)
    except TypeError:
        raise TypeError(f"{name} must be a sequence, not {type(elements).__name__}") from None
    return list(iterator)


def check_subprotocols(subprotocols: Iterable[str]) -> list[str]:
    """The subprotocols that a side offers or supports.

    Raises:
        TypeError: one str instead of a sequence of them, or something that is not a str in it.
        ValueError: one is not a token, or stands there twice.
    """
    if isinstance(subprotocols, str):
        raise TypeError("subprotocols must be a sequence of str, not a str")
    checked = taken("subprotocols", subprotocols)
    for i, name in enumerate(checked):
        if not isinstance(name, str):
            raise TypeError(f"subprotocols must hold str, not {type(name).__name__}")
        # It is not shown: it may be a token in the other sense of the word.
        if not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name):
            raise ValueError(f"subprotocols: number {i + 1} is not a token (RFC 9110 5.6.2)")
    if len(set(checked)) != len(checked):
        raise ValueError("subprotocols: one of them stands there twice")
    return checked


def single(headers: Headers, name: str) -> str:
    """The value of a field that must stand there once."""
    values = headers.get_all(name)
    if not values:
        raise InvalidHeader(name, None)
    if len(values) > 1:
        raise InvalidHeader(name, ", ".join(values), ": it stands there more than once")
    return values[0]


def check_upgrade(headers: Headers, *, among_others: bool = False) -> None:
    """Whether a head upgrades the connection to a WebSocket.

    Args:
        headers: its header fields.
        among_others: whether other protocols may be named, too: who asks may offer some (RFC 9110
            7.8), who answers has chosen one.

    Raises:
        InvalidUpgrade: it does not.
    """
    connection = headers.get_tokens("Connection")
    if "upgrade" not in [token.lower() for token in connection]:
        raise InvalidUpgrade("Connection", headers.get("Connection"))
    upgrade = headers.get_tokens("Upgrade")
    named = {token.lower() for token in upgrade}
    if "websocket" not in named or (len(upgrade) > 1 and not among_others):
        raise InvalidUpgrade("Upgrade", headers.get("Upgrade"))
