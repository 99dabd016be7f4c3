# cython: annotation_typing=False
"""The exceptions that the protocol itself raises or names as a cause.

What is raised when a connection has ended is in creche.exceptions: those classes are also
AnyIO's, and this layer does not know AnyIO.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from creche.protocol.escaping import MAX_TEXT, escape, quote
from creche.protocol.redaction import shown_value, without_secrets

if TYPE_CHECKING:
    from creche.protocol.http import Response


class WebSocketError(Exception):
    """The base of every exception of this library that is not a misuse.

    Its text and its repr can be logged and printed: what a peer has said is escaped, and cut. The
    attributes have it as it came, for programs that compare it.
    """

    def __str__(self) -> str:
        return escape(self._text(), MAX_TEXT)

    def __repr__(self) -> str:
        # That of Exception has each argument whole.
        shown = ", ".join([quote(arg) if isinstance(arg, str) else repr(arg) for arg in self.args])
        return escape(f"{type(self).__name__}({shown})", MAX_TEXT)

    def _text(self) -> str:
        """What is wrong; it is escaped by the one who asks."""
        return super().__str__()


class PeerError(WebSocketError):
    """What the peer did wrong on an open connection; the cause of a ConnectionClosedError.

    Attributes:
        close_code: the close code that tells the peer (RFC 6455 7.4.1).
    """

    close_code = 1002

    def __init__(self, message: str, close_code: int | None = None) -> None:
        super().__init__(message)
        if close_code is not None:
            self.close_code = close_code


class ProtocolError(PeerError):
    """The peer broke RFC 6455: a bad frame (1002) or text that is not UTF-8 (1007)."""


class PayloadTooBig(PeerError):
    """A message was larger than `max_size` or came in more than `max_fragments` (1009)."""

    close_code = 1009


class HandshakeError(WebSocketError):
    """The opening handshake failed; no connection came to be (RFC 6455 4)."""


class InvalidURI(HandshakeError, ValueError):
    """The URI is not one of a WebSocket (RFC 6455 3).

    Attributes:
        uri: the URI without its user, password, query and fragment.
        why: what is wrong with it.
    """

    def __init__(self, uri: str, why: str) -> None:
        uri = without_secrets(uri)
        super().__init__(uri, why)
        self.uri = uri
        self.why = why

    def _text(self) -> str:
        return f"uri {quote(self.uri)} {self.why}"


class InvalidMessage(HandshakeError):
    """The peer's opening handshake is not HTTP/1.1, or ended in the middle."""


class InvalidStatus(HandshakeError):
    """The server answered with another status than 101.

    Attributes:
        response: the whole answer; its body is cut at 64 KiB.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response

    def _text(self) -> str:
        return (
            f"the server answered {self.response.status} {self.response.reason_phrase}, "
            "not 101 Switching Protocols"
        )


class InvalidRedirect(InvalidStatus):
    """The server redirected the client where it does not go.

    Attributes:
        response: the server's answer.
        why: what is wrong with it.
    """

    def __init__(self, response: Response, why: str) -> None:
        super().__init__(response)
        self.args = (response, why)  # what a copy is made from
        self.why = why

    def _text(self) -> str:
        # The query of the new URI may hold credentials.
        return f"the server answered {self.response.status} and redirects {self.why}"


class ProxyError(HandshakeError):
    """A proxy could not be used, or did not connect us."""


class InvalidProxy(ProxyError, ValueError):
    """The URI of a proxy cannot be used; its user and password are not in the text."""


class InvalidProxyStatus(ProxyError):
    """An HTTP proxy answered CONNECT with another status than 2xx (RFC 9110 9.3.6).

    Attributes:
        response: its answer, without the body.
    """

    def __init__(self, response: Response) -> None:
        super().__init__(response)
        self.response = response

    def _text(self) -> str:
        return f"the proxy answered {self.response.status} {self.response.reason_phrase}"


class InvalidHeader(HandshakeError):
    """A header field of the opening handshake is missing, doubled or wrong.

    Attributes:
        name: the field's name.
        value: its value, or three asterisks unless the field holds no secret; None where it is
            missing.
    """

    def __init__(self, name: str, value: str | None, why: str = "") -> None:
        if value is not None:
            value = shown_value(name, value)
        super().__init__(name, value, why)
        self.name = name
        self.value = value
        self.why = why

    def _text(self) -> str:
        if self.value is None:
            return f"the {self.name} header is missing{self.why}"
        return f"the {self.name} header {quote(self.value)} is not acceptable{self.why}"


class InvalidUpgrade(InvalidHeader):
    """The Connection or Upgrade header does not switch to WebSocket (RFC 6455 4.1, 4.2.1)."""


class NegotiationError(HandshakeError):
    """The server chose a subprotocol or an extension that was not asked for (RFC 6455 4.1)."""


class Rejection(HandshakeError):
    """The server refuses a client's opening handshake.

    Attributes:
        response: the answer that tells the client why.
        why: what is wrong, where we know it; an answer of the application's is not read.
    """

    def __init__(self, response: Response, why: str = "") -> None:
        super().__init__(response, why)
        self.response = response
        self.why = why

    def _text(self) -> str:
        answer = f"{self.response.status} {self.response.reason_phrase}"
        return f"{answer}: {escape(self.why)}" if self.why else answer
