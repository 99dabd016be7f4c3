# cython: annotation_typing=False
"""The client's side of the opening handshake (RFC 6455 4.1)."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from typing import NoReturn

import h11

from creche.handshake.exceptions import (
    InvalidHeader,
    InvalidMessage,
    InvalidStatus,
    NegotiationError,
)
from creche.handshake.excerpts import excerpt
from creche.handshake.extensions import ExtensionFactory, agree_on, format_offers
from creche.handshake.headers import Headers, HeadersLike
from creche.handshake.http import Request, Response
from creche.handshake.reading import (
    MAX_BODY_BYTES,
    HeadReader,
    NotHTTP,
    decode_headers,
    encode_headers,
    next_event,
    trailing_data,
)
from creche.handshake.rules import (
    VERSION,
    accept_key,
    check_additional,
    check_subprotocols,
    check_upgrade,
    single,
)
from creche.handshake.start_lines import may_be_status_line
from creche.handshake.uri import URI
from creche.protocol.extensions import Extension

# A server may send so many answers like 100 and 103 before its own (RFC 9110 15.2).
MAX_INTERIM_ANSWERS = 16


class ClientHandshake:
    """The client's side: writes the request, reads the answer, checks it.

    Args:
        uri: what to connect to.
        origin: the value of the Origin header; None for no such header.
        subprotocols: what to offer, the preferred first.
        require_subprotocol: whether an answer without one of these is a failure.
        extensions: what to offer, the preferred first.
        additional_headers: further header fields.
        user_agent_header: the value of the User-Agent header; None for no such header.
        max_header_bytes: the largest head of an answer, in bytes.

    Raises:
        TypeError, ValueError: an argument cannot stand in a header.
    """

    def __init__(
        self,
        uri: URI,
        *,
        origin: str | None = None,
        subprotocols: Sequence[str] | None = None,
        require_subprotocol: bool = False,
        extensions: Sequence[ExtensionFactory] | None = None,
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = None,
        max_header_bytes: int = 2**14,
    ) -> None:
        self._subprotocols = check_subprotocols(subprotocols)
        self._requires_subprotocol = require_subprotocol
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._head = HeadReader(max_header_bytes, may_be_status_line, b"GET")
        self._secure = uri.secure
        self._http = h11.Connection(h11.CLIENT)
        self._refusal: Response | None = None
        self._body = bytearray()  # of the refusal, as far as it has come
        self._interim_answers = 0
        self._answered = False  # whether a byte has come
        self._in_head = True  # h11 bounds what comes after an interim answer
        self.subprotocol: str | None = None
        self.extensions: list[Extension] = []
        self._factories = extensions = list(extensions or ())
        self.response: Response | None = None
        headers = Headers([("Host", uri.host_header)])
        headers.add("Upgrade", "websocket")
        headers.add("Connection", "Upgrade")
        headers.add("Sec-WebSocket-Key", self._key)
        headers.add("Sec-WebSocket-Version", VERSION)
        if origin is not None:
            headers.add("Origin", origin)
        if self._subprotocols:
            headers.add("Sec-WebSocket-Protocol", ", ".join(self._subprotocols))
        if extensions:
            headers.add("Sec-WebSocket-Extensions", format_offers(extensions))
        for name, value in check_additional("additional_headers", additional_headers or ()).fields:
            if name.lower() == "origin" and origin is not None:
                raise ValueError(f"additional_headers: {name} is set by the option origin")
            headers.add(name, value)
        if uri.authorization is not None:
            headers.add_default("Authorization", uri.authorization)
        if user_agent_header is not None:
            headers.add_default("User-Agent", user_agent_header)
        self.request = Request(uri.resource, headers)

    @property
    def refusal(self) -> Response | None:
        """Another answer than 101, as far as it has come."""
        if self._refusal is not None:
            self._refusal.body = bytes(self._body)
        return self._refusal

    @property
    def trailing_data(self) -> bytes:
        """What the server sent after its answer."""
        return trailing_data(self._http)

    def invalid_status(self, refusal: Response) -> InvalidStatus:
        """What to raise for another answer than 101."""
        return InvalidStatus(refusal, excerpt(self.request, refusal))

    def request_bytes(self) -> bytes:
        """The bytes of the request."""
        request = h11.Request(
            method=b"GET",
            target=self.request.path.encode(),
            headers=encode_headers(self.request.headers),
        )
        data = self._http.send(request) or b""
        return data + (self._http.send(h11.EndOfMessage()) or b"")

    def receive_data(self, data: bytes | memoryview) -> Response | None:
        """Take bytes; the answer 101 once it is complete.

        Raises:
            InvalidStatus: another answer, complete with its body.
            HandshakeError: an answer that breaks RFC 6455 4.1.
        """
        self._answered = True
        if self._in_head:
            try:
                head = self._head.receive_data(data)
            except NotHTTP as exc:
                advice = "; say wss" if exc.protocol == "TLS" else ""
                raise InvalidMessage(f"the server's answer is {exc}{advice}") from None
            if head is None:
                return None
            self._in_head = False
            data = head
        self._http.receive_data(bytes(data))
        return self._next_events()

    def receive_eof(self) -> NoReturn:
        """The server's bytes have ended.

        Raises:
            InvalidStatus: in the middle of the body of another answer than 101.
            InvalidMessage: before the answer.
        """
        if self.refusal is not None:
            raise self.invalid_status(self.refusal)
        raise InvalidMessage(f"the server closed the connection before it answered{self.advice}")

    @property
    def advice(self) -> str:
        """What to try where the server has gone without a word: one that speaks TLS goes so."""
        return "" if self._secure or self._answered else "; if it speaks TLS, say wss"

    def _next_events(self) -> Response | None:
        while True:
            try:
                event = next_event(self._http)
            except InvalidMessage as exc:
                if self.refusal is not None:
                    raise self.invalid_status(self.refusal) from None
                raise InvalidMessage(f"the server's answer is not HTTP/1.1: {exc}") from None
            if isinstance(event, h11.InformationalResponse):
                if event.status_code != 101:
                    self._interim_answers += 1  # 100 or 103: the answer is still to come
                    if self._interim_answers > MAX_INTERIM_ANSWERS:
                        raise InvalidMessage("the server sends interim answers without end")
                    continue
                response = Response(101, decode_headers(event.headers))
                self._check(response, event.http_version)
                self.response = response
                return response
            if isinstance(event, h11.Response):
                if event.status_code > 599:
                    raise InvalidMessage(f"the server answered with status {event.status_code}")
                self._refusal = Response(event.status_code, decode_headers(event.headers))
            elif isinstance(event, h11.Data):
                self._body += event.data[: MAX_BODY_BYTES - len(self._body)]
                if len(self._body) == MAX_BODY_BYTES:
                    self.receive_eof()  # it is enough
            elif event is h11.NEED_DATA:
                return None
            else:
                self.receive_eof()

    def _check(self, response: Response, http_version: bytes) -> None:
        headers = response.headers
        if http_version != b"1.1":
            raise InvalidMessage(f"101 over HTTP/{http_version.decode()}, not HTTP/1.1")
        check_upgrade(headers)
        accept = single(headers, "Sec-WebSocket-Accept")
        if accept != accept_key(self._key):
            raise InvalidHeader("Sec-WebSocket-Accept", accept, ": it does not match our key")
        if "Sec-WebSocket-Extensions" in headers:
            self.extensions = agree_on(self._factories, headers["Sec-WebSocket-Extensions"])
        if "Sec-WebSocket-Protocol" in headers:
            subprotocol = single(headers, "Sec-WebSocket-Protocol")
            if subprotocol not in self._subprotocols:
                raise NegotiationError("the server chose a subprotocol not asked for")
            self.subprotocol = subprotocol
        elif self._requires_subprotocol:
            # Which were offered is not told: there may be a token among them.
            what = "none of those offered" if self._subprotocols else "none, and none was offered"
            raise NegotiationError(f"the server chose {what}: require_subprotocol asks for one")
