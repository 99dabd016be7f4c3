# cython: annotation_typing=False
"""Proxies: their URIs, and how an HTTP proxy is asked for a tunnel (RFC 9110 9.3.6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import h11

from creche.protocol.exceptions import InvalidMessage, InvalidProxy, InvalidProxyStatus, ProxyError
from creche.protocol.headers import Headers
from creche.protocol.http import HeadReader, NotHTTP, Response, decode_headers, encode_headers
from creche.protocol.start_lines import may_be_status_line
from creche.protocol.uri import basic_authorization, encode_host, is_unicode

_DEFAULT_PORTS = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}

# How to name a proxy that answers so.
_SCHEMES = {"TLS": "https", "SOCKS": "socks5h"}

# The longest user and password of SOCKS5, in bytes (RFC 1929 2).
_MAX_SOCKS_CREDENTIAL = 255


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's URI taken apart.

    Attributes:
        scheme: "http", "https" (TLS to the proxy), "socks4", "socks4a", "socks5" or "socks5h".
        host: its name or address, without brackets.
        port: its TCP port.
        user: None if it asks for none.
        password: empty if there is none.
    """

    scheme: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    @property
    def is_socks(self) -> bool:
        return self.scheme.startswith("socks")

    @property
    def resolves(self) -> bool:
        """Whether the proxy looks names up, not we."""
        return self.scheme not in ("socks4", "socks5")


def parse_proxy(uri: str) -> Proxy:
    """Take a proxy's URI apart, such as "http://user:password@proxy.example:3128".

    Raises:
        InvalidProxy: it is not one of a proxy that can be used.
    """
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidProxy(f"the URI of the proxy cannot be parsed: {exc}") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidProxy(
            f"the URI of the proxy must begin with one of {', '.join(_DEFAULT_PORTS)}, "
            f"and ://, not {parts.scheme!r}"
        )
    if not host:
        raise InvalidProxy("the URI of the proxy has no host")
    if port == 0:
        raise InvalidProxy("the URI of the proxy has port 0, which is none")
    if not is_unicode(uri):
        raise InvalidProxy("the URI of the proxy has a lone surrogate, which is no character")
    try:
        host = encode_host(host)
    except UnicodeError:
        raise InvalidProxy("the URI of the proxy has a host that is not a domain name") from None
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InvalidProxy("the URI of the proxy must have no path, query or fragment")
    user = None if parts.username is None else unquote(parts.username)
    password = unquote(parts.password or "")
    if user is not None:
        if parts.scheme.startswith("http"):
            if ":" in user:
                raise InvalidProxy("the user of the proxy has a colon, which HTTP forbids")
        elif not (user.isascii() and password.isascii()):
            raise InvalidProxy("the user and the password of a SOCKS proxy must be ASCII")
        elif max(len(user), len(password)) > _MAX_SOCKS_CREDENTIAL:
            raise InvalidProxy("the user or the password of the proxy is too long for SOCKS")
    return Proxy(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme], user, password)


class ConnectHandshake:
    """Asks an HTTP proxy for a tunnel, and reads its answer.

    Args:
        proxy: what it is told of the user.
        host: where the tunnel shall lead.
        port: to which TCP port.
        user_agent_header: the value of the User-Agent header; None for no such header.
        max_header_bytes: the largest head of an answer, in bytes.
    """

    def __init__(
        self,
        proxy: Proxy,
        host: str,
        port: int,
        *,
        user_agent_header: str | None = None,
        max_header_bytes: int = 2**14,
    ) -> None:
        self._target = f"[{host}]:{port}" if ":" in host else f"{encode_host(host)}:{port}"
        self._headers = Headers([("Host", self._target)])
        if proxy.user is not None:
            authorization = basic_authorization(proxy.user, proxy.password)
            self._headers.add("Proxy-Authorization", authorization)
        if user_agent_header is not None:
            self._headers.add("User-Agent", user_agent_header)
        self._head = HeadReader(max_header_bytes, may_be_status_line)
        self._tls = proxy.scheme == "https"
        self._http = h11.Connection(h11.CLIENT)

    def request_bytes(self) -> bytes:
        """The bytes of the request."""
        request = h11.Request(
            method=b"CONNECT", target=self._target.encode(), headers=encode_headers(self._headers)
        )
        data = self._http.send(request) or b""
        return data + (self._http.send(h11.EndOfMessage()) or b"")

    def receive_data(self, data: bytes) -> bool:
        """Take bytes; whether the tunnel is open.

        Raises:
            InvalidProxyStatus: the proxy refuses.
            ProxyError: its answer is not HTTP, or it ended.
        """
        if not data:
            # As those do that are asked in what is not their language.
            advice = "" if self._tls else "; if it speaks TLS or SOCKS, say https:// or socks5h://"
            raise ProxyError(f"the proxy closed the connection before it answered{advice}")
        try:
            head = self._head.receive_data(data)
            if head is None:
                return False
            self._http.receive_data(head)
            event = self._http.next_event()
            if not isinstance(event, h11.Response):
                raise ProxyError("the proxy sends an interim answer to CONNECT")
            response = Response(event.status_code, decode_headers(event.headers))
        except NotHTTP as exc:
            scheme = _SCHEMES.get(exc.protocol)
            advice = f"; say {scheme}://" if scheme else ""
            raise ProxyError(f"the proxy's answer is {exc.quoting(b'CONNECT')}{advice}") from None
        except h11.RemoteProtocolError as exc:
            raise ProxyError(f"the proxy's answer is not HTTP/1.1: {exc}") from None
        except (InvalidMessage, ValueError) as exc:
            raise ProxyError(f"the proxy's answer cannot be used: {exc}") from None
        if not 200 <= response.status < 300:
            raise InvalidProxyStatus(response)
        if self._http.trailing_data[0]:
            raise ProxyError("the proxy sent more than its answer before we said anything")
        return True
