# cython: annotation_typing=False
"""The URI of a WebSocket (RFC 6455 3)."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlsplit

from creche.protocol.exceptions import InvalidURI
from creche.protocol.redaction import shown_path

_DEFAULT_PORTS = {"ws": 80, "wss": 443}

# What no host has: it would end it, or hide what follows.
_FORBIDDEN = re.compile(r"[\x00-\x20#/<>?@\[\\\]^|\x7f]")

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

    def __repr__(self) -> str:
        scheme = "wss" if self.secure else "ws"
        return f"<URI {scheme}://{self.host_header}{shown_path(self.resource)}>"

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
    name = host.encode("ascii" if host.isascii() else "idna").decode()
    if _FORBIDDEN.search(name):
        raise UnicodeError("it has a character that no name has")
    return name


def is_unicode(text: str) -> bool:
    """Whether it can be UTF-8: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def split_uri(uri: str) -> SplitResult:
    """As urlsplit(), but its errors quote nothing, neither in their text nor in their context.

    Raises:
        ValueError: what is wrong with the URI, as the end of a sentence.
    """
    try:
        return urlsplit(uri)
    except ValueError:
        pass
    raise ValueError("cannot be parsed: its host is malformed")


def port_of(parts: SplitResult) -> int | None:
    """The port of a URI; None where it has none.

    Raises:
        ValueError: it is no port to connect to; as that of split_uri().
    """
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("cannot be parsed: its port is not a number from 1 to 65535")
    return port


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
        parts = split_uri(uri)
        port = port_of(parts)
    except ValueError as exc:
        raise InvalidURI(uri, str(exc)) from None
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
