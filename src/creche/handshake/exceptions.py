# cython: annotation_typing=False
"""What is raised where an opening handshake fails."""

from __future__ import annotations

from creche.handshake.http import Response
from creche.handshake.redaction import shown_value, without_secrets
from creche.protocol.escaping import escape, quote
from creche.protocol.exceptions import WebSocketError


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
        said: the beginning of its body, if that is plain text or JSON and repeats nothing of the
            request that may be a secret; otherwise empty.
    """

    def __init__(self, response: Response, said: str = "") -> None:
        super().__init__(response, said)
        self.response = response
        self.said = said

    def _text(self) -> str:
        answer = f"{self.response.status} {self.response.reason_phrase}"
        said = f": {quote(self.said)}" if self.said else ""
        return f"the server answered {answer}, not 101 Switching Protocols{said}"


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
