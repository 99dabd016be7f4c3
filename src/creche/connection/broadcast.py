# cython: annotation_typing=False
"""broadcast(): one message for many connections, encoded once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from creche.connection.endpoint import Message
from creche.connection.websocket import WebSocket
from creche.protocol.closing import Close
from creche.protocol.prepared import PreparedMessage

# Writing to a peer at once is cheaper than leaving it to the end of the turn, but so many system
# calls in a row hold up everyone else.
_WRITTEN_AT_ONCE = 256


def broadcast(
    websockets: Iterable[WebSocket],
    message: Message,
    *,
    text: bool | None = None,
    slow: Literal["skip", "close"] = "skip",
) -> list[WebSocket]:
    """Send a message to many connections, without waiting for any of them.

    Args:
        websockets: the connections.
        message: str is sent as text, bytes-like as binary, a PreparedMessage as what it holds. It
            is encoded once, and compressed once for all connections that compress alike.
        text: whether it is sent as text, whatever its type; None if that is for its type to say.
        slow: what becomes of a connection with more than `write_limit` bytes waiting: "skip" does
            not send it the message; "close" also closes it, with 1008.

    Returns:
        The connections that were passed over: the slow ones, and those that are not open.

    Raises:
        TypeError: `message` is neither str nor bytes-like, or `text` is given beside a
            PreparedMessage.
        ValueError: another `slow`, or a text message that is not UTF-8.
    """
    if slow not in ("skip", "close"):
        raise ValueError(f'slow must be "skip" or "close", not {slow!r}')
    if isinstance(message, PreparedMessage):
        message.check_text(text)
    else:
        message = PreparedMessage(message, text=text)
    return _post(websockets, message, slow == "close")


def _post(
    websockets: Iterable[WebSocket], message: PreparedMessage, closing: bool
) -> list[WebSocket]:
    passed_over = []
    committed = 0
    for ws in websockets:
        link = ws._link
        if link.post(message, committed < _WRITTEN_AT_ONCE):
            committed += 1
        else:
            passed_over.append(ws)
            if not (link.is_open() and link.is_slow()):
                continue
            link.note_skipped()
            if closing:
                link.begin_close(Close(1008, "too slow"))
    return passed_over
