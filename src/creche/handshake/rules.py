# cython: annotation_typing=False
"""What both sides of the opening handshake share (RFC 6455 4)."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from typing import TypeVar

from creche.handshake.exceptions import InvalidHeader, InvalidUpgrade
from creche.handshake.headers import TOKEN_CHARACTER, Headers, HeadersLike

T = TypeVar("T")

VERSION = "13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# Why a field cannot be added to an opening handshake: it says it itself, or has no body that the
# field could tell of (RFC 9110 6.6.2, 7.6.1, 7.8, 8.6, 10.1; RFC 9112 6.1).
_OURS = "is set by the opening handshake"
_OF_A_BODY = "tells of a body, and the opening handshake has none"
_RESERVED = {
    "connection": _OURS,
    "content-length": _OF_A_BODY,
    "expect": _OF_A_BODY,
    "host": f"{_OURS}, from the URI",
    "sec-websocket-extensions": f"{_OURS}, from what you say of extensions and compression",
    "sec-websocket-protocol": f"{_OURS}, from what you say of subprotocols",
    "te": _OF_A_BODY,
    "trailer": _OF_A_BODY,
    "transfer-encoding": _OF_A_BODY,
    "upgrade": _OURS,
}
_RESERVED_PREFIX = "sec-websocket-"


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


def check_subprotocols(subprotocols: Iterable[str] | None) -> list[str]:
    """The subprotocols that a side offers or supports; None for none.

    Raises:
        TypeError: one str instead of a sequence of them, or something that is not a str in it.
        ValueError: one is not a token, or stands there twice.
    """
    if subprotocols is None:
        return []
    if isinstance(subprotocols, str):
        raise TypeError("subprotocols must be a sequence of str, not a str")
    checked = taken("subprotocols", subprotocols)
    for i, name in enumerate(checked):
        if not isinstance(name, str):
            raise TypeError(f"subprotocols must hold str, not {type(name).__name__}")
        # It is not shown: it may be a token in the other sense of the word.
        if not re.fullmatch(f"{TOKEN_CHARACTER}+", name):
            raise ValueError(f"subprotocols: number {i + 1} is not a token (RFC 9110 5.6.2)")
    if len(set(checked)) != len(checked):
        raise ValueError("subprotocols: one of them stands there twice")
    return checked


def check_additional(option: str, headers: HeadersLike) -> Headers:
    """Header fields that the application adds to an opening handshake.

    Raises:
        TypeError, ValueError: one cannot stand in a header, or not in this one; it is named.
    """
    try:
        checked = Headers(headers)
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"{option}: {exc}") from None
    for name, _ in checked.fields:
        key = name.lower()
        why = _RESERVED.get(key, _OURS if key.startswith(_RESERVED_PREFIX) else "")
        if why:
            raise ValueError(f"{option}: {name} {why}")
    return checked


def check_switching(headers: Headers) -> None:
    """Check the header fields of an answer 101, which the application may have changed.

    Raises:
        ValueError: no client would understand it.
    """
    for name, _ in headers.fields:
        if _RESERVED.get(name.lower()) is _OF_A_BODY:
            raise ValueError(f"the response cannot be sent: {name} {_OF_A_BODY}")
    try:
        check_upgrade(headers)
        single(headers, "Sec-WebSocket-Accept")
    except InvalidHeader as exc:
        raise ValueError(f"the response cannot be sent: {exc}") from None


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
