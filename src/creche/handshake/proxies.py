# cython: annotation_typing=False
"""Proxies: their URIs, and how an HTTP proxy is asked for a tunnel (RFC 9110 9.3.6)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import unquote

import h11

from creche.handshake.exceptions import InvalidMessage, InvalidProxy, InvalidProxyStatus, ProxyError
from creche.handshake.forwarding import Network, parse_address, unmapped
from creche.handshake.headers import Headers
from creche.handshake.http import Response
from creche.handshake.reading import HeadReader, NotHTTP, decode_headers, encode_headers, next_event
from creche.handshake.start_lines import may_be_status_line
from creche.handshake.uri import (
    basic_authorization,
    encode_host,
    host_of,
    is_unicode,
    port_of,
    split_uri,
    without_zone,
)

_DEFAULT_PORTS = {
    "http": 80,
    "https": 443,
    "socks4": 1080,
    "socks4a": 1080,
    "socks5": 1080,
    "socks5h": 1080,
}

# What curl, Debian and desktops write.
_OTHER_NAMES = {"socks": "socks5h"}
# How to name a proxy that answers so.
_SCHEMES = {"TLS": "https", "SOCKS": "socks5h", "HTTP": "http"}

_SHORT_NETWORK = re.compile(r"[0-9]+(?:\.[0-9]+){0,2}/[0-9]+")

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
    if not is_unicode(uri):
        raise InvalidProxy("the URI of the proxy has a lone surrogate, which is no character")
    try:
        parts = split_uri(uri)
        scheme = _OTHER_NAMES.get(parts.scheme, parts.scheme)
        if scheme not in _DEFAULT_PORTS:
            raise ValueError(f"must begin with one of {', '.join(_DEFAULT_PORTS)}, and ://")
        host, port = host_of(parts), port_of(parts)
    except ValueError as exc:
        raise InvalidProxy(f"the URI of the proxy {exc}") from None
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InvalidProxy("the URI of the proxy must have no path, query or fragment")
    user = None if parts.username is None else unquote(parts.username)
    password = unquote(parts.password or "")
    if user is not None:
        if scheme.startswith("http"):
            if ":" in user:
                raise InvalidProxy("the user of the proxy has a colon, which HTTP forbids")
        elif not (user.isascii() and password.isascii()):
            raise InvalidProxy("the user and the password of a SOCKS proxy must be ASCII")
        elif max(len(user), len(password)) > _MAX_SOCKS_CREDENTIAL:
            raise InvalidProxy("the user or the password of the proxy is too long for SOCKS")
    return Proxy(scheme, host, port or _DEFAULT_PORTS[scheme], user, password)


def scheme_advice(protocol: str) -> str:
    """How to name a proxy that seems to speak this, for the end of a text; empty if it seems to be
    no proxy."""
    scheme = _SCHEMES.get(protocol)
    return f"; say {scheme}://" if scheme else ""


def bypasses(no_proxy: str, host: str, port: int) -> bool:
    """Whether a host is among those that are to be connected to directly.

    Args:
        no_proxy: a list as the variable `no_proxy` has it, by commas or white space: names, which
            mean those below them, too; addresses; networks; each with a port perhaps; "*".
        host: a name or an address, without brackets.
        port: the TCP port.
    """
    wanted = _without_dots(host)
    address = parse_address(without_zone(wanted))
    for entry in re.split(r"[\s,]+", no_proxy):
        if entry == "*":
            return True
        name, entrys_port = _name_and_port(entry)
        if entrys_port not in ("", str(port)):
            continue
        if address is not None:
            try:
                if address in _network(name):
                    return True
            except ValueError:
                pass  # it is a name
        elif name and (wanted == name or wanted.endswith("." + name)):
            return True
    return False


def _name_and_port(entry: str) -> tuple[str, str]:
    """An entry of `no_proxy` without its brackets and dots, and its port, "" for every one."""
    bracketed = re.fullmatch(r"\[(.*)\](/[0-9]+)?(?::([0-9]+))?", entry)
    if bracketed:
        name, length, port = bracketed.groups("")
        return name.lower() + length, port
    name, _, port = entry.partition(":")
    if ":" in port:  # an address of IPv6, or a network
        return entry.lower(), ""
    name = _without_dots(name.removeprefix("*."))
    try:
        name = name if "/" in name else encode_host(name)
    except ValueError:
        pass  # it is of no host
    return name, port


def _network(text: str) -> Network:
    """The network that an entry names, also by its first numbers alone, as in "10/8".

    Raises:
        ValueError: it is a name.
    """
    if _SHORT_NETWORK.fullmatch(text):
        numbers, _, length = text.partition("/")
        text = f"{numbers}{'.0' * (3 - numbers.count('.'))}/{length}"
    return unmapped(ipaddress.ip_network(text, strict=False))


def _without_dots(name: str) -> str:
    return name.strip(".").lower()


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
        self._head = HeadReader(max_header_bytes, may_be_status_line, b"CONNECT")
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
            event = self._next_event()
            if not isinstance(event, h11.Response):
                raise ProxyError("the proxy sends an interim answer to CONNECT")
            response = Response(event.status_code, decode_headers(event.headers))
        except NotHTTP as exc:
            raise ProxyError(f"the proxy's answer is {exc}{scheme_advice(exc.protocol)}") from None
        except (InvalidMessage, ValueError) as exc:
            raise ProxyError(f"the proxy's answer cannot be used: {exc}") from None
        if not 200 <= response.status < 300:
            raise InvalidProxyStatus(response)
        if self._http.trailing_data[0]:
            raise ProxyError("the proxy sent more than its answer before we said anything")
        return True

    def _next_event(self) -> object:
        try:
            return next_event(self._http)
        except InvalidMessage as exc:
            raise ProxyError(f"the proxy's answer is not HTTP/1.1: {exc}") from None
