# cython: annotation_typing=False
"""Requests and responses of the opening handshake (RFC 9112)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from creche.handshake.headers import Headers, HeadersLike
from creche.handshake.redaction import shown_path
from creche.protocol.escaping import escape

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
