# cython: annotation_typing=False
"""The URI of a WebSocket (RFC 6455 3)."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from creche.protocol.exceptions import InvalidURI

_DEFAULT_PORTS = {"ws": 80, "wss": 443}

# What may stand in a path or a query as it is: RFC 3986's pchar, "/", "?" and an escape's "%".
_SAFE = "/?%:@!$&'()*+,;=-._~"


@dataclass(frozen=True, slots=True)
class URI:
    """A WebSocket URI taken apart.

    Attributes:
        secure: whether the connection uses TLS.
        host: the name or address, IDNA-encoded, without brackets.
        port: the TCP port.
        resource: the path and query to ask for.
        authorization: the value of an Authorization header, if the URI names a user.
    """

    secure: bool
    host: str
    port: int
    resource: str
    authorization: str | None = None

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What is one server to a client: scheme, host and port (RFC 6454 4)."""
        return self.secure, self.host, self.port

    @property
    def host_header(self) -> str:
        """The value of the Host header: without the port where that is the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = _DEFAULT_PORTS["wss" if self.secure else "ws"]
        return host if self.port == default else f"{host}:{self.port}"


def basic_authorization(user: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617 2), in UTF-8."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def encode_host(host: str) -> str:
    """A host's name as the domain name system has it (RFC 3490).

    Raises:
        UnicodeError: it is no domain name.
    """
    return host.encode("ascii" if host.isascii() else "idna").decode()


def is_unicode(text: str) -> bool:
    """Whether it can be UTF-8: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_uri(uri: str) -> URI:
    """Take a URI apart.

    Raises:
        TypeError: `uri` is not a str.
        InvalidURI: it is not a ws or wss URI with a host, or it has a fragment.
    """
    if not isinstance(uri, str):
        raise TypeError(f"uri must be a str, not {type(uri).__name__}")
    if any(c <= " " or c == "\x7f" for c in uri):
        raise InvalidURI(uri, "has a space or a control character")
    if not is_unicode(uri):
        raise InvalidURI(uri, "has a lone surrogate, which is no character")
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as exc:
        raise InvalidURI(uri, f"cannot be parsed: {exc}") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidURI(uri, "must begin with ws:// or wss://")
    if "#" in uri:
        raise InvalidURI(uri, "must not have a fragment")
    if not parts.hostname:
        raise InvalidURI(uri, "has no host")
    try:
        host = encode_host(parts.hostname)
    except UnicodeError:
        raise InvalidURI(uri, "has a host that is not a domain name") from None
    if port == 0:
        raise InvalidURI(uri, "has port 0, which is none")
    resource = quote(parts.path or "/", safe=_SAFE)
    if "?" in uri:
        resource += "?" + quote(parts.query, safe=_SAFE)
    authorization = None
    if parts.username is not None:
        user = unquote(parts.username)
        if ":" in user:
            raise InvalidURI(uri, "has a user with a colon, which Basic authentication forbids")
        authorization = basic_authorization(user, unquote(parts.password or ""))
    if port is None:
        port = _DEFAULT_PORTS[parts.scheme]
    return URI(parts.scheme == "wss", host, port, resource, authorization)
