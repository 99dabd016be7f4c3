# cython: annotation_typing=False
"""The opening handshake, both sides (RFC 6455 4)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit

import h11

from creche.protocol.exceptions import (
    InvalidHeader,
    InvalidMessage,
    InvalidStatus,
    InvalidUpgrade,
    NegotiationError,
    Rejection,
)
from creche.protocol.headers import Headers, HeadersLike
from creche.protocol.http import (
    MAX_BODY_BYTES,
    HeadReader,
    HeadTooLarge,
    Request,
    Response,
    decode_headers,
    encode_headers,
    trailing_data,
)
from creche.protocol.uri import URI

Origin = str | re.Pattern[str] | None
Origins = Sequence[Origin] | str | None
SelectSubprotocol = Callable[[Request, Sequence[str]], str | None]

VERSION = "13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# These reach process_request; only a GET can become a WebSocket.
_METHODS = ("GET", "HEAD", "OPTIONS")


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept that answers a Sec-WebSocket-Key (RFC 6455 4.2.2)."""
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def check_subprotocols(subprotocols: Sequence[str]) -> list[str]:
    """The subprotocols that a side offers or supports.

    Raises:
        TypeError: one str instead of a sequence of them, or something that is not a str in it.
        ValueError: one is not a token, or stands there twice.
    """
    if isinstance(subprotocols, str):
        raise TypeError("subprotocols must be a sequence of str, not a str")
    checked = list(subprotocols)
    for name in checked:
        if not isinstance(name, str):
            raise TypeError(f"subprotocols must hold str, not {type(name).__name__}")
        if not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name):
            raise ValueError(f"subprotocols: {name!r} is not a token")
    if len(set(checked)) != len(checked):
        raise ValueError("subprotocols: one of them stands there twice")
    return checked


def _single(headers: Headers, name: str) -> str:
    """The value of a field that must stand there once."""
    values = headers.get_all(name)
    if not values:
        raise InvalidHeader(name, None)
    if len(values) > 1:
        raise InvalidHeader(name, ", ".join(values), ": it stands there more than once")
    return values[0]


def _check_upgrade(headers: Headers) -> None:
    connection = headers.get_tokens("Connection")
    if "upgrade" not in [token.lower() for token in connection]:
        raise InvalidUpgrade("Connection", headers.get("Connection"))
    upgrade = headers.get_tokens("Upgrade")
    if [token.lower() for token in upgrade] != ["websocket"]:
        raise InvalidUpgrade("Upgrade", headers.get("Upgrade"))


class ServerHandshake:
    """The server's side: reads the request, checks it, writes the answer.

    Args:
        origins: the origins that are allowed: "same-host", None for every one, or a sequence of
            str, patterns that must match whole, and None for requests without an Origin header.
        subprotocols: the supported ones, the preferred first.
        select_subprotocol: chooses instead, from those that the client offers.
        max_header_bytes: the largest head of a request, in bytes.
        extra_attributes: what the request's `extra` looks up.
    """

    def __init__(
        self,
        *,
        origins: Origins = "same-host",
        subprotocols: Sequence[str] = (),
        select_subprotocol: SelectSubprotocol | None = None,
        max_header_bytes: int = 2**14,
        extra_attributes: Mapping[Any, Callable[[], Any]] | None = None,
    ) -> None:
        self.request: Request | None = None
        self.subprotocol: str | None = None
        self._origins = origins
        self._subprotocols = subprotocols
        self._select_subprotocol = select_subprotocol
        self._extra_attributes = extra_attributes
        self._first_byte: bytes | None = None
        self._head = HeadReader(max_header_bytes)
        self._http = h11.Connection(h11.SERVER)

    @property
    def trailing_data(self) -> bytes:
        """What the client sent after its request."""
        return trailing_data(self._http)

    def receive_data(self, data: bytes | memoryview) -> Request | None:
        """Take bytes; the request once it is complete.

        Raises:
            Rejection: it is not a request that we answer otherwise.
        """
        if self._first_byte is None:
            self._first_byte = bytes(data[:1])
            if not (self._first_byte.isalpha() or self._first_byte in b"\r\n"):
                # Told at once: a client that speaks TLS would wait for an answer for long.
                raise reject(400, "bad request: this is not HTTP; is it TLS?")
        try:
            head = self._head.receive_data(data)
        except HeadTooLarge as exc:
            raise reject(414 if exc.in_first_line else 431, str(exc)) from None
        if head is None:
            return None
        first_line = head.lstrip(b"\r\n").partition(b"\n")[0].rstrip(b"\r")
        version = re.search(rb" HTTP/(\d+\.\d+)$", first_line)
        if version is not None and version[1] != b"1.1":
            raise reject(505, "the opening handshake needs HTTP/1.1")
        self._http.receive_data(head)
        try:
            event = self._http.next_event()
            assert isinstance(event, h11.Request)
            headers = decode_headers(event.headers)
        except (h11.RemoteProtocolError, InvalidMessage) as exc:
            raise reject(400, f"bad request: {exc}") from None
        self.request = request = Request(
            event.target.decode("latin-1"),
            headers,
            method=event.method.decode("latin-1"),
            extra_attributes=self._extra_attributes,
        )
        if request.method not in _METHODS:
            raise self._method_not_allowed()
        if not isinstance(self._http.next_event(), h11.EndOfMessage):
            raise reject(400, "a request with a body cannot become a WebSocket")
        return request

    @staticmethod
    def _method_not_allowed() -> Rejection:
        return reject(405, "only GET can become a WebSocket", [("Allow", "GET")])

    def accept(self, request: Request) -> Response:
        """The answer 101 to a request that asks for a WebSocket (RFC 6455 4.2).

        Raises:
            Rejection: it does not ask for one properly, or not for one that is allowed here.
        """
        if request.method != "GET":
            raise self._method_not_allowed()
        headers = request.headers
        upgrade = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
        try:
            _check_upgrade(headers)
        except InvalidUpgrade as exc:
            raise reject(426, f"this is a WebSocket server: {exc}", upgrade) from None
        try:
            key = _single(headers, "Sec-WebSocket-Key")
            if len(base64.b64decode(key, validate=True)) != 16:
                raise InvalidHeader("Sec-WebSocket-Key", key, ": it is not 16 bytes in base64")
            version = _single(headers, "Sec-WebSocket-Version")
        except InvalidHeader as exc:
            raise reject(400, str(exc)) from None
        except binascii.Error:
            raise reject(400, "the Sec-WebSocket-Key header is not base64") from None
        if version != VERSION:
            extra = [*upgrade, ("Sec-WebSocket-Version", VERSION)]
            raise reject(426, f"Sec-WebSocket-Version {version} is not supported", extra)
        self._check_origin(headers)
        self.subprotocol = self._choose_subprotocol(request)
        response = Response(101, [*upgrade, ("Sec-WebSocket-Accept", accept_key(key))])
        if self.subprotocol is not None:
            response.headers.add("Sec-WebSocket-Protocol", self.subprotocol)
        return response

    def _check_origin(self, headers: Headers) -> None:
        """A browser tells the page's origin; others need not (RFC 6455 10.2)."""
        allowed = self._origins
        if allowed is None:
            return
        given = headers.get_all("Origin")
        if len(given) > 1:
            raise reject(400, "the Origin header stands there more than once")
        origin = given[0] if given else None
        if allowed == "same-host":
            if origin is None:
                return
            host = _host_of("//" + headers["Host"])
            if host is not None and host == _host_of(origin):
                return
            why = 'it is of another host; the option origins="same-host" is in force'
        else:
            if any(_origin_matches(pattern, origin) for pattern in allowed):
                return
            why = "it is not among those of the option origins"
        raise reject(403, f"Origin {origin} is not allowed: {why}")

    def _choose_subprotocol(self, request: Request) -> str | None:
        offered = request.headers.get_tokens("Sec-WebSocket-Protocol")
        if self._select_subprotocol is None:
            # The server's order decides.
            return next((name for name in self._subprotocols if name in offered), None)
        chosen = self._select_subprotocol(request, offered)
        if chosen is not None and chosen not in offered:
            raise ValueError(f"select_subprotocol chose {chosen!r}, which was not offered")
        return chosen

    def respond(self, response: Response) -> bytes:
        """The bytes of an answer; after any but 101 the connection is to be closed.

        Raises:
            ValueError: h11 finds the response malformed.
        """
        try:
            return self._respond(response)
        except h11.LocalProtocolError as exc:
            raise ValueError(f"the response cannot be sent: {exc}") from None

    def _respond(self, response: Response) -> bytes:
        headers = encode_headers(response.headers)
        reason = response.reason_phrase.encode()
        if response.status == 101:
            switch = h11.InformationalResponse(status_code=101, headers=headers, reason=reason)
            return self._http.send(switch) or b""
        # A refusal may come before the request was read to its end, or where h11 gave up on it:
        # a connection of its own writes it.
        http = h11.Connection(h11.SERVER)
        method = self.request.method if self.request is not None else "GET"
        http.receive_data(f"{method} / HTTP/1.1\r\nHost: -\r\n\r\n".encode())
        http.next_event()
        if "Content-Length" not in response.headers:
            headers.append((b"Content-Length", str(len(response.body)).encode()))
        headers = [field for field in headers if field[0].lower() != b"connection"]
        upgrade = b", Upgrade" if "Upgrade" in response.headers else b""
        headers.append((b"Connection", b"close" + upgrade))
        head = h11.Response(status_code=response.status, headers=headers, reason=reason)
        parts = [http.send(head)]
        if method != "HEAD":
            parts.append(http.send(h11.Data(data=response.body)))
        return b"".join(part or b"" for part in parts)


def _host_of(origin: str) -> str | None:
    """The host of an origin or an authority, without the port; None where there is none."""
    try:
        return urlsplit(origin).hostname
    except ValueError:
        return None


def _origin_matches(pattern: Origin, origin: str | None) -> bool:
    if isinstance(pattern, re.Pattern):
        return origin is not None and pattern.fullmatch(origin) is not None
    return pattern == origin


def check_origins(origins: Origins) -> None:
    """Check the option `origins` of a server.

    Raises:
        TypeError: a str other than "same-host", or something strange in the sequence.
    """
    if origins is None or origins == "same-host":
        return
    if isinstance(origins, str):
        raise TypeError('origins must be "same-host", None or a sequence, not another str')
    for origin in origins:
        if not isinstance(origin, str | re.Pattern | None):
            raise TypeError(f"origins must hold str, patterns or None, not {origin!r}")


def reject(status: int, text: str, headers: HeadersLike = ()) -> Rejection:
    """A refusal with a line of text."""
    return Rejection(Response(status, headers, text + "\n"))


class ClientHandshake:
    """The client's side: writes the request, reads the answer, checks it.

    Args:
        uri: what to connect to.
        origin: the value of the Origin header; None for no such header.
        subprotocols: what to offer, the preferred first.
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
        subprotocols: Sequence[str] = (),
        additional_headers: HeadersLike | None = None,
        user_agent_header: str | None = None,
        max_header_bytes: int = 2**14,
    ) -> None:
        self._subprotocols = check_subprotocols(subprotocols)
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._head = HeadReader(max_header_bytes)
        self._http = h11.Connection(h11.CLIENT)
        self.refusal: Response | None = None  # another answer than 101, so far
        self._in_head = True  # h11 bounds what comes after an interim answer
        self.subprotocol: str | None = None
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
        ours = frozenset(headers)
        for name, value in Headers(additional_headers or ()).fields:
            if name.lower() in ours:
                raise ValueError(f"additional_headers: {name} is set by the opening handshake")
            headers.add(name, value)
        if uri.authorization is not None:
            headers.add_default("Authorization", uri.authorization)
        if user_agent_header is not None:
            headers.add_default("User-Agent", user_agent_header)
        self.request = Request(uri.resource, headers)

    @property
    def trailing_data(self) -> bytes:
        """What the server sent after its answer."""
        return trailing_data(self._http)

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
        if self._in_head:
            head = self._head.receive_data(data)
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
            raise InvalidStatus(self.refusal)
        raise InvalidMessage("the server closed the connection before it answered")

    def _next_events(self) -> Response | None:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                if self.refusal is not None:
                    raise InvalidStatus(self.refusal) from None
                raise InvalidMessage(f"the server's answer is not HTTP/1.1: {exc}") from None
            if isinstance(event, h11.InformationalResponse):
                if event.status_code != 101:
                    continue  # 100 or 103: the answer is still to come
                response = Response(101, decode_headers(event.headers))
                self._check(response, event.http_version)
                self.response = response
                return response
            if isinstance(event, h11.Response):
                self.refusal = Response(event.status_code, decode_headers(event.headers))
            elif isinstance(event, h11.Data) and self.refusal is not None:
                body = self.refusal.body + event.data
                self.refusal.body = body[:MAX_BODY_BYTES]
                if len(body) >= MAX_BODY_BYTES:
                    raise InvalidStatus(self.refusal)
            elif event is h11.NEED_DATA:
                return None
            else:
                self.receive_eof()

    def _check(self, response: Response, http_version: bytes) -> None:
        headers = response.headers
        if http_version != b"1.1":
            raise InvalidMessage(f"101 over HTTP/{http_version.decode()}, not HTTP/1.1")
        _check_upgrade(headers)
        accept = _single(headers, "Sec-WebSocket-Accept")
        if accept != accept_key(self._key):
            raise InvalidHeader("Sec-WebSocket-Accept", accept, ": it does not match our key")
        if "Sec-WebSocket-Extensions" in headers:
            extensions = headers["Sec-WebSocket-Extensions"]
            raise NegotiationError(f"the server chose extensions not asked for: {extensions}")
        if "Sec-WebSocket-Protocol" in headers:
            subprotocol = _single(headers, "Sec-WebSocket-Protocol")
            if subprotocol not in self._subprotocols:
                raise NegotiationError(
                    f"the server chose a subprotocol not asked for: {subprotocol}"
                )
            self.subprotocol = subprotocol
