# cython: annotation_typing=False
"""Requests and responses of the opening handshake, and the way they are read (RFC 9112).

h11 parses HTTP/1.1. Here the head is bounded before h11 sees it, and its version is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import h11

from creche.protocol.escaping import escape
from creche.protocol.exceptions import InvalidMessage
from creche.protocol.headers import Headers, HeadersLike
from creche.protocol.redaction import shown_path, what_h11_says
from creche.protocol.start_lines import JUDGED_BYTES, recognize, show

# The most of a refusing server's body that is kept, in bytes.
MAX_BODY_BYTES = 2**16

_MISSING: Any = object()


class Request:
    """The client's half of the opening handshake.

    Attributes:
        method: GET, as far as a handler sees it; `process_request` sees every one.
        path: the path and query asked for. The path is in the one form of all ways to write it:
            "%61" is "a", "%3a" is ":", "%c3%a9" is "%C3%A9". The query is as it was sent.
            `process_request` also sees "*", which OPTIONS may ask for.
        headers: the header fields. Host is what was asked for, also by a target that is a URI.
        http_version: "1.1", as far as a handler sees it; `process_request` sees "1.0", too.
        find_client: gives `client_address`, of this request; None where there is no such thing.
        extra_attributes: what `extra` looks up.
    """

    __slots__ = (
        "_client_address",
        "_state",
        "extra_attributes",
        "find_client",
        "headers",
        "http_version",
        "method",
        "path",
    )

    def __init__(
        self,
        path: str,
        headers: HeadersLike = (),
        *,
        method: str = "GET",
        http_version: str = "1.1",
        extra_attributes: Mapping[Any, Callable[[], Any]] | None = None,
    ) -> None:
        self.method = method
        self.http_version = http_version
        self.path = path
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self._state: dict[str, Any] | None = None
        self.extra_attributes = extra_attributes or {}
        self.find_client: Callable[[Request], str | None] | None = None
        self._client_address: Any = _MISSING

    @property
    def state(self) -> dict[str, Any]:
        """A dict for the application, from `process_request` to the handler."""
        if self._state is None:
            self._state = {}
        return self._state

    @property
    def client_address(self) -> str | None:
        """The client's IP address, on the server: that of the connection, or what the proxies say
        that the option `trusted_proxies` names. None where it is not known."""
        # Found once: who asks with each line of a log would read long headers each time.
        if self._client_address is _MISSING:
            self._client_address = None if self.find_client is None else self.find_client(self)
        address: str | None = self._client_address
        return address

    def __repr__(self) -> str:
        return f"<Request {escape(self.method)} {escape(shown_path(self.path))}>"

    def extra(self, attribute: Any, default: Any = _MISSING) -> Any:
        """A fact about the connection, such as anyio.abc.SocketAttribute.remote_address.

        Args:
            attribute: an attribute of AnyIO's SocketAttribute or TLSAttribute.
            default: what to return where the attribute is not known.

        Raises:
            LookupError: the attribute is not known and there is no default.
        """
        try:
            getter = self.extra_attributes[attribute]
        except KeyError:
            if default is _MISSING:
                raise LookupError("the connection does not know this attribute") from None
            return default
        return getter()


class Response:
    """The server's half of the opening handshake.

    Args:
        status: the status code, 101 to 599.
        headers: the header fields; Content-Length and Connection are added where they belong.
        body: the content; str is sent as UTF-8.

    Raises:
        TypeError: `body` is neither str nor bytes, or `status` is not an int.
        ValueError: `status` is out of range.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: HeadersLike = (), body: bytes | str = b"") -> None:
        if not isinstance(status, int):
            raise TypeError(f"status must be an int, not {type(status).__name__}")
        if not 101 <= status <= 599:
            raise ValueError(f"status {status} is not one of 101 to 599")
        if not isinstance(body, (bytes, str)):
            raise TypeError(f"body must be str or bytes, not {type(body).__name__}")
        self.status = int(status)
        self.headers = Headers(headers)  # of its own, since it gets more
        if isinstance(body, str):
            body = body.encode()
            self.headers.add_default("Content-Type", "text/plain; charset=utf-8")
        self.body = body

    @property
    def reason_phrase(self) -> str:
        """The standard's words for the status."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return ""

    def __copy__(self) -> Response:
        return Response(self.status, self.headers, self.body)

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason_phrase}>"


class HeadTooLarge(InvalidMessage):
    """The head of a message is larger than allowed.

    Attributes:
        limit: how many bytes are.
        in_first_line: whether the first line alone is.
    """

    def __init__(self, limit: int, in_first_line: bool) -> None:
        super().__init__(limit, in_first_line)
        self.limit = limit
        self.in_first_line = in_first_line

    def _text(self) -> str:
        return f"the head of the opening handshake has more than {self.limit} bytes"


class NotHTTP(InvalidMessage):
    """The first bytes are no beginning of an HTTP/1.1 message.

    Attributes:
        protocol: what they seem to be, such as "SSH"; empty where that is not known.
        quoted: the first line as it may be shown; empty where it may not.
    """

    def __init__(self, protocol: str, quoted: str = "") -> None:
        super().__init__(protocol, quoted)
        self.protocol = protocol
        self.quoted = quoted

    def _text(self) -> str:
        it_is = f", it seems to be {self.protocol}" if self.protocol else ""
        return f"not HTTP/1.1{it_is}" + (f": {self.quoted}" if self.quoted else "")


class HeadReader:
    """Collects the bytes of a head, bounded, until it is complete.

    Args:
        max_bytes: the most that a head may have.
        may_begin: whether the first line may be so, or begin so, which is asked again and again
            until it is whole.
        method: of our request, if it is an answer that is read. What is not HTTP at all is quoted
            then, but for an echo of the request, which may hold credentials.
    """

    def __init__(
        self, max_bytes: int, may_begin: Callable[[bytes], bool], method: bytes | None = None
    ) -> None:
        self._max_bytes = max_bytes
        self._may_begin: Callable[[bytes], bool] | None = may_begin
        self._method = method
        self._buffer = bytearray()

    def receive_data(self, data: bytes | bytearray | memoryview) -> bytes | None:
        """The head with everything after it, once it is complete.

        Raises:
            NotHTTP: no head begins so.
            HeadTooLarge: it has more than `max_bytes` bytes.
        """
        buffer = self._buffer
        searched = max(len(buffer) - 3, 0)
        buffer += data
        if self._may_begin is not None:
            self._judge(self._may_begin, searched)
        end = _end_of_head(buffer, searched)
        size = end or len(buffer)
        if size > self._max_bytes:
            raise HeadTooLarge(self._max_bytes, b"\n" not in buffer[: self._max_bytes])
        return bytes(buffer) if end else None

    def _judge(self, may_begin: Callable[[bytes], bool], searched: int) -> None:
        buffer = self._buffer
        # RFC 9112 2.2: an empty line may come first. Two of them end the head.
        start = len(buffer[:2]) - len(buffer[:2].lstrip(b"\r\n"))
        newline = buffer.find(b"\n", max(searched, start))
        stop = newline + 1 or start + JUDGED_BYTES
        line = bytes(buffer[start:stop])
        if line and not may_begin(line):
            raise self._not_http(line)
        if newline >= 0:
            self._may_begin = None

    def _not_http(self, line: bytes) -> NotHTTP:
        if self._method is None or line.startswith(b"HTTP/"):
            return NotHTTP(recognize(line))
        if line.startswith(self._method):
            return NotHTTP("an echo of the request")
        return NotHTTP(recognize(line), show(line))


def _end_of_head(buffer: bytearray, start: int) -> int:
    """Behind the first empty line after `start`; 0 if there is none (RFC 9112 2.2: a line may end
    without CR)."""
    ends = [
        found + len(empty)
        for empty in (b"\n\r\n", b"\n\n")
        if (found := buffer.find(empty, start)) != -1
    ]
    return min(ends, default=0)


def next_event(http: h11.Connection) -> Any:
    """The next event of h11.

    Raises:
        InvalidMessage: what came is not HTTP/1.1.
    """
    try:
        return http.next_event()
    except h11.RemoteProtocolError as exc:
        what = what_h11_says(exc)
    # Not above, where h11's error would be its context, with the line that it quotes.
    raise InvalidMessage(what)


def decode_headers(fields: Any) -> Headers:
    """h11's header fields as ours.

    Raises:
        InvalidMessage: one has characters that h11 lets through and HTTP does not.
    """
    raw = fields.raw_items()
    try:
        return Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw])
    except ValueError as exc:
        raise InvalidMessage(str(exc)) from None


def encode_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Our header fields as h11's."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.fields]


def trailing_data(http: h11.Connection) -> bytes:
    """What came after the head: the first frames, perhaps."""
    return bytes(http.trailing_data[0])
