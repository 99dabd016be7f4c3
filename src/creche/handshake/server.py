# cython: annotation_typing=False
"""The server's side of the opening handshake (RFC 6455 4.2)."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import h11

from creche.handshake.exceptions import InvalidHeader, InvalidMessage, InvalidUpgrade, Rejection
from creche.handshake.extensions import ExtensionFactory, choose_from
from creche.handshake.forwarding import parse_address
from creche.handshake.headers import Headers, HeadersLike
from creche.handshake.http import Request, Response
from creche.handshake.reading import (
    HeadReader,
    HeadTooLarge,
    NotHTTP,
    decode_headers,
    encode_headers,
    next_event,
    trailing_data,
)
from creche.handshake.redaction import shown_authority, what_h11_says, without_secrets
from creche.handshake.rules import VERSION, accept_key, check_upgrade, single, taken
from creche.handshake.start_lines import may_be_request_line
from creche.handshake.targets import (
    allowed_host,
    allowed_origin,
    authority_host,
    origin_host,
    parse_authority,
    parse_target,
)
from creche.protocol.extensions import Extension

Origin = str | re.Pattern[str] | None
Origins = Sequence[Origin] | str | None
Hosts = Sequence[str] | str | None

# Requests of these reach process_request; only one of 1.1 can become a WebSocket.
_VERSIONS = (b"1.0", b"1.1")

# The subprotocol of which the server's options decide.
OURS: Any = object()

_UPGRADE = (("Upgrade", "websocket"), ("Connection", "Upgrade"))


class ServerHandshake:
    """The server's side: reads the request, checks it, writes the answer.

    Args:
        origins: the origins that are allowed: "same-host", None for every one, or a sequence of
            str, patterns that must match whole, and None for requests without an Origin header.
        subprotocols: the supported ones, the preferred first.
        require_subprotocol: whether a client for whom none is chosen is refused.
        extensions: the supported ones.
        hosts: the hosts that may be asked for: names, "*.name" for every one below it, "loopback",
            or None for every one.
        max_header_bytes: the largest head of a request, in bytes.
    """

    _http: h11.Connection

    def __init__(
        self,
        *,
        origins: Origins = "same-host",
        subprotocols: Sequence[str] | None = None,
        require_subprotocol: bool = False,
        extensions: Sequence[ExtensionFactory] | None = None,
        hosts: Hosts = None,
        max_header_bytes: int = 2**14,
    ) -> None:
        self.request: Request | None = None
        self._checked: Request | None = None
        self.subprotocol: str | None = None
        self.extensions: list[Extension] = []
        self._factories = extensions or ()
        self._origins = origins
        self._subprotocols = subprotocols or ()
        self._requires_subprotocol = require_subprotocol
        self._hosts = hosts
        self._needs_host = hosts is not None or origins == "same-host"
        self._with_body = False
        self._head = HeadReader(max_header_bytes, may_be_request_line)

    @property
    def trailing_data(self) -> bytes:
        """What the client sent after its request."""
        return trailing_data(self._http)

    def receive_data(self, data: bytes | memoryview) -> Request | None:
        """Take bytes; the request once its head is complete: any that is well-formed.

        Raises:
            Rejection: it is none.
        """
        try:
            head = self._head.receive_data(data)
        except NotHTTP as exc:
            # Told at once: a client that speaks TLS would wait for an answer for long.
            raise reject(400, f"bad request: this is {exc}") from None
        except HeadTooLarge as exc:
            raise reject(414 if exc.in_first_line else 431, str(exc)) from None
        if head is None:
            return None
        # RFC 9112 2.2: an empty line may come first. h11 takes it for an empty head.
        head = head.removeprefix(b"\n" if head.startswith(b"\n") else b"\r\n")
        if _is_of_another_version(head):
            raise self._wrong_version()
        self._http = h11.Connection(h11.SERVER)  # not before: slow clients shall cost little
        self._http.receive_data(head)
        try:
            event = next_event(self._http)
            assert isinstance(event, h11.Request)
            headers = decode_headers(event.headers)
            method, target = event.method.decode("ascii"), event.target.decode("ascii")
            path, headers = _resolve_target(method, target, headers, self._needs_host)
        except (InvalidMessage, ValueError) as exc:
            raise reject(400, f"bad request: {exc}") from None
        self.request = Request(
            path,
            headers,
            method=method,
            http_version=event.http_version.decode("ascii"),
        )
        self._with_body = self._has_body(headers)
        return self.request

    def _has_body(self, headers: Headers) -> bool:
        # Without these there is none (RFC 9112 6.3); with them h11 knows: a length may be 0.
        if "Content-Length" not in headers and "Transfer-Encoding" not in headers:
            return False
        try:
            return not isinstance(next_event(self._http), h11.EndOfMessage)
        except InvalidMessage:
            return True  # and a malformed one

    def check_host(self, request: Request) -> None:
        """Refuse a request for another host: a browser that was led here by DNS rebinding.

        Raises:
            Rejection: with 421 (RFC 9110 15.5.20).
        """
        given = request.headers.get("Host")
        # Only a request of HTTP/1.0 may have none. A browser always has one, and without one
        # nothing becomes a WebSocket.
        if self._hosts is None or given is None:
            return
        host = authority_host(given)
        if host is None or not _host_matches(self._hosts, host.rstrip(".")):
            why = "the server listens on loopback" if self._hosts == "loopback" else "it is unknown"
            shown = without_secrets(given)
            raise reject(421, f"Host {shown} is not allowed: {why}; see the option hosts")

    @staticmethod
    def _method_not_allowed() -> Rejection:
        return reject(405, "only GET can become a WebSocket", [("Allow", "GET")])

    @staticmethod
    def _wrong_version() -> Rejection:
        return reject(505, "the opening handshake needs HTTP/1.1")

    def check(self, request: Request) -> None:
        """Whether a request asks for a WebSocket (RFC 6455 4.2).

        Raises:
            Rejection: it does not ask for one properly, or not for one that is allowed here.
        """
        if request.method != "GET":
            raise self._method_not_allowed()
        if request.http_version != "1.1":
            raise self._wrong_version()
        if self._with_body:
            raise reject(400, "a request with a body cannot become a WebSocket")
        headers = request.headers
        try:
            check_upgrade(headers, among_others=True)
        except InvalidUpgrade as exc:
            raise reject(426, f"this is a WebSocket server: {exc}", _UPGRADE) from None
        try:
            key = single(headers, "Sec-WebSocket-Key")
            if len(base64.b64decode(key, validate=True)) != 16:
                raise InvalidHeader("Sec-WebSocket-Key", key, ": it is not 16 bytes in base64")
            version = single(headers, "Sec-WebSocket-Version")
        except InvalidHeader as exc:
            raise reject(400, str(exc)) from None
        except ValueError:  # also where it is not even ASCII
            raise reject(400, "the Sec-WebSocket-Key header is not base64") from None
        if version != VERSION:
            extra = [*_UPGRADE, ("Sec-WebSocket-Version", VERSION)]
            raise reject(426, f"Sec-WebSocket-Version {version} is not supported", extra)
        self._check_origin(headers)
        self._checked = request

    def accept(self, request: Request, subprotocol: str | None = OURS) -> Response:
        """The answer 101 to a request.

        Args:
            request: the request.
            subprotocol: one that the client offers, or None; the first of ours by default.

        Raises:
            Rejection: as `check`, or for want of a subprotocol.
            ValueError: `subprotocol` was not offered.
        """
        if self._checked is not request:
            self.check(request)
        if subprotocol is OURS:
            subprotocol = self.choose_subprotocol(request)
        elif subprotocol is not None and subprotocol not in offered_subprotocols(request):
            raise ValueError("the subprotocol that was chosen was not offered by the client")
        if subprotocol is None and self._requires_subprotocol:
            known = f": {', '.join(self._subprotocols)}" if self._subprotocols else ""
            raise reject(400, f"offer a subprotocol that is supported here{known}")
        extensions = self._choose_extensions(request.headers)
        accept = accept_key(request.headers["Sec-WebSocket-Key"])
        response = Response(101, [*_UPGRADE, ("Sec-WebSocket-Accept", accept)])
        if subprotocol is not None:
            response.headers.add("Sec-WebSocket-Protocol", subprotocol)
        if extensions:
            response.headers.add("Sec-WebSocket-Extensions", extensions)
        self.agreed(response)
        return response

    def agreed(self, response: Response) -> None:
        """This answer, which may have been changed since, is sent: what it says holds."""
        self.subprotocol = response.headers.get("Sec-WebSocket-Protocol")
        if "Sec-WebSocket-Extensions" not in response.headers:
            self.extensions = []

    def _choose_extensions(self, headers: Headers) -> str:
        """The header that answers the client's offers; empty for none."""
        offers = headers.get("Sec-WebSocket-Extensions")
        if offers is None:
            return ""
        try:
            answer, self.extensions = choose_from(self._factories, offers)
        except InvalidHeader as exc:
            raise reject(400, str(exc)) from None
        return answer

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
            host = authority_host(headers.get("Host", ""))
            if host is not None and host == origin_host(origin):
                return
            why = 'it is of another host; the option origins="same-host" is in force'
        else:
            if any(_origin_matches(pattern, origin) for pattern in allowed):
                return
            why = "it is not among those of the option origins"
        shown = None if origin is None else without_secrets(origin)
        raise reject(403, f"Origin {shown} is not allowed: {why}")

    def choose_subprotocol(self, request: Request) -> str | None:
        """The first of our subprotocols that the client offers, too."""
        offered = offered_subprotocols(request)
        return next((name for name in self._subprotocols if name in offered), None)

    def respond(self, response: Response) -> bytes:
        """The bytes of an answer; after any but 101 the connection is to be closed.

        Raises:
            ValueError: h11 finds the response malformed.
        """
        try:
            return self._respond(response)
        except h11.LocalProtocolError as exc:
            what = what_h11_says(exc)
        raise ValueError(f"the response cannot be sent: {what}")

    def _respond(self, response: Response) -> bytes:
        headers = encode_headers(response.headers)
        if response.status == 101:
            # Headers has checked the fields, and there is nothing else for h11 to say.
            fields = b"".join([b"%b: %b\r\n" % field for field in headers])
            return b"HTTP/1.1 101 Switching Protocols\r\n%b\r\n" % fields
        reason = response.reason_phrase.encode()
        # A refusal may come before the request was read to its end, or where h11 gave up on it:
        # a connection of its own writes it.
        http = h11.Connection(h11.SERVER)
        asked = self.request
        method = "HEAD" if asked is not None and asked.method == "HEAD" else "GET"
        version = "1.1" if asked is None else asked.http_version
        http.receive_data(f"{method} / HTTP/{version}\r\nHost: -\r\n\r\n".encode())
        http.next_event()
        # With 204 there must be none (RFC 9110 8.6).
        if "Content-Length" not in response.headers and response.status != 204:
            headers.append((b"Content-Length", str(len(response.body)).encode()))
        headers = [field for field in headers if field[0].lower() != b"connection"]
        upgrade = b", Upgrade" if "Upgrade" in response.headers else b""
        headers.append((b"Connection", b"close" + upgrade))
        head = h11.Response(status_code=response.status, headers=headers, reason=reason)
        parts = [http.send(head)]
        if method != "HEAD":
            parts.append(http.send(h11.Data(data=response.body)))
        parts.append(http.send(h11.EndOfMessage()))
        return b"".join(part or b"" for part in parts)


def _is_of_another_version(head: bytes) -> bool:
    """Whether a request says that it is not of HTTP/1.1, nor of 1.0."""
    first_line = head.partition(b"\n")[0].rstrip(b"\r")
    version = first_line.rpartition(b" HTTP/")[2]
    return version not in _VERSIONS and re.fullmatch(rb"\d+\.\d+", version) is not None


def _resolve_target(
    method: str, target: str, headers: Headers, needs_host: bool
) -> tuple[str, Headers]:
    """The path that is asked for, and the header fields with the host that is. The path is "*"
    where OPTIONS asks for the server as a whole. The Host header may be empty, as for a URI without
    an authority, where nothing depends on it.

    Raises:
        ValueError: the target or the Host header is malformed (RFC 9112 3.2).
    """
    for host in headers.get_all("Host"):
        if host or needs_host:
            parse_authority(host)
    if target == "*" and method == "OPTIONS":
        return target, headers
    authority, path = parse_target(target)
    if authority is not None:
        # It counts, and not the Host header (RFC 9112 3.2.2).
        parse_authority(authority)
        fields = [field for field in headers.fields if field[0].lower() != "host"]
        headers = Headers([("Host", authority), *fields])
    return path, headers


def offered_subprotocols(request: Request) -> list[str]:
    """What the client offers, the preferred first."""
    return request.headers.get_tokens("Sec-WebSocket-Protocol")


def _host_matches(allowed: Sequence[str] | str, host: str) -> bool:
    if allowed == "loopback":
        return is_on_loopback(host)
    return any(
        host.endswith(name[1:].lower()) if name.startswith("*.") else host == name.lower()
        for name in allowed
    )


def is_on_loopback(host: str) -> bool:
    """Whether this is a name (RFC 6761 6.3) or an IP address of loopback."""
    return host == "localhost" or host.endswith(".localhost") or is_loopback(host)


@lru_cache(maxsize=64)
def is_loopback(text: str) -> bool:
    """Whether this is an IP address of loopback, also one of IPv4 that is written as IPv6."""
    address = parse_address(text)
    return address is not None and address.is_loopback


def _origin_matches(pattern: Origin, origin: str | None) -> bool:
    if isinstance(pattern, re.Pattern):
        return origin is not None and pattern.fullmatch(origin) is not None
    return pattern == origin


def check_origins(origins: Origins) -> Origins:
    """The option `origins` of a server, checked.

    Raises:
        TypeError: a str other than "same-host", or something strange in the sequence.
        ValueError: an origin that no browser sends.
    """
    if origins is None or origins == "same-host":
        return origins
    if isinstance(origins, str):
        raise TypeError('origins must be "same-host", None or a sequence, not another str')
    checked = taken("origins", origins)
    for i, origin in enumerate(checked):
        if not isinstance(origin, str | re.Pattern | None):
            kind = type(origin).__name__
            raise TypeError(f"origins must hold str, patterns or None, not {kind}")
        if isinstance(origin, str):
            try:
                checked[i] = allowed_origin(origin)
            except ValueError as exc:
                raise ValueError(f"origins: number {i + 1} {exc}") from None
    return checked


def check_hosts(hosts: Hosts) -> Hosts:
    """The option `hosts` of a server, checked.

    Raises:
        TypeError: a str other than "auto" and "loopback", or something strange in the sequence.
        ValueError: a host that no client asks for.
    """
    if hosts is None or hosts in ("auto", "loopback"):
        return hosts
    if isinstance(hosts, str):
        raise TypeError('hosts must be "auto", "loopback", None or a sequence, not another str')
    checked = taken("hosts", hosts)
    for i, host in enumerate(checked):
        if not isinstance(host, str):
            raise TypeError(f"hosts must hold str, not {type(host).__name__}")
        try:
            checked[i] = allowed_host(host)  # as clients ask for it
        except ValueError as exc:
            raise ValueError(f"hosts: {shown_authority(host)} {exc}") from None
    return checked


def reject(status: int, text: str, headers: HeadersLike = ()) -> Rejection:
    """A refusal with a line of text."""
    return Rejection(Response(status, headers, text + "\n"), text)
