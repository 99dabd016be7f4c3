"""Every exception that an application meets.

What is raised when a connection has ended stands here, since it is AnyIO's, too; the rest comes
from the protocol.
"""

from __future__ import annotations

from typing import Any

import anyio

from creche.handshake.exceptions import (
    HandshakeError,
    InvalidHeader,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidRedirect,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    ProxyError,
)
from creche.protocol.closing import ABNORMAL, Close
from creche.protocol.exceptions import PayloadTooBig, ProtocolError, WebSocketError

__all__ = [
    "ConnectionAlreadyClosed",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "HandshakeError",
    "InvalidHeader",
    "InvalidMessage",
    "InvalidProxy",
    "InvalidProxyStatus",
    "InvalidRedirect",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "NegotiationError",
    "PayloadTooBig",
    "ProtocolError",
    "ProxyError",
    "WebSocketError",
]


class ConnectionClosed(WebSocketError):
    """The connection has ended.

    Attributes:
        received: the peer's close frame, None if none came. Its reason is as it came; the text of
            this exception has it escaped.
        sent: our close frame, None if none was sent.
        detail: why, in words, where no close frame tells.
    """

    def __init__(
        self, received: Close | None = None, sent: Close | None = None, detail: str = ""
    ) -> None:
        super().__init__(received, sent, detail)
        self.received = received
        self.sent = sent
        self.detail = detail
        self._connection: object = None

    @property
    def code(self) -> int:
        """The close code (RFC 6455 7.1.5): the peer's; 1006 if it sent no close frame."""
        return ABNORMAL if self.received is None else self.received.code

    @property
    def reason(self) -> str:
        """The peer's reason (RFC 6455 7.1.6), or in words why no close frame came."""
        return self.detail if self.received is None else self.received.reason

    def set_connection(self, connection: object) -> None:
        """Remember whose end it tells of."""
        self._connection = connection

    def of_connection(self, connection: object) -> bool:
        """Whether it tells of this connection's end, and not of another's."""
        return self._connection is connection

    def _text(self) -> str:
        received = "no close frame received" if self.received is None else f"got {self.received}"
        sent = "none sent" if self.sent is None else f"sent {self.sent}"
        return f"{received}; {sent}" + (f"; {self.detail}" if self.detail else "")


class ConnectionClosedOK(ConnectionClosed):
    """The connection ended well: the peer closed with 1000, 1001 or no code, or we did.

    What `receive` raises is also anyio.EndOfStream, what `send` raises anyio.BrokenResourceError.
    """


class EndOfMessages(ConnectionClosedOK, anyio.EndOfStream):
    """The form of ConnectionClosedOK that `receive` raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _end_of_messages, self.args


class PeerHasClosed(ConnectionClosedOK, anyio.BrokenResourceError):
    """The form of ConnectionClosedOK that `send` raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _peer_has_closed, self.args


def _end_of_messages(*args: Any) -> EndOfMessages:
    return EndOfMessages(*args)


def _peer_has_closed(*args: Any) -> PeerHasClosed:
    return PeerHasClosed(*args)


# What they are called is what an application catches; by that name pickle would find another class.
for _form in (EndOfMessages, PeerHasClosed):
    _form.__name__ = _form.__qualname__ = ConnectionClosedOK.__name__


class ConnectionClosedError(ConnectionClosed, anyio.BrokenResourceError):
    """The connection ended badly: another close code, a loss, a timeout or a broken protocol.

    Its cause is the ProtocolError, PayloadTooBig or OSError behind it, if there is one.
    """


class ConnectionAlreadyClosed(ConnectionClosedOK, anyio.ClosedResourceError):
    """We closed the connection ourselves, and used it afterwards or at the same time."""
