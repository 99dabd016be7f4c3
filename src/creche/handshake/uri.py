# cython: annotation_typing=False
"""The URI of a WebSocket (RFC 6455 3)."""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, unquote, urlsplit

from creche.handshake.exceptions import InvalidURI
from creche.handshake.redaction import shown_path
from creche.protocol.escaping import escape

_DEFAULT_PORTS = {"ws": 80, "wss": 443}

# What no host has: it would end it, or hide what follows.
_FORBIDDEN = re.compile(r"[\x00-\x20#%/:<>?@\[\\\]^|\x7f]")

_BRACKETED = re.compile(r"\[[^\[\]]*\](:.*)?")

# An interface of this machine, as RFC 6874 2 has it.
_ZONE = re.compile(r"[A-Za-z0-9._~-]+")

# The longest name and label (RFC 1035 2.3.4).
_MAX_NAME = 253
_MAX_LABEL = 63

# The mapping of UTS 46 makes names shorter: it composes characters of some, and leaves some out.
_MAX_UNMAPPED = 4 * _MAX_NAME

_JOINERS = "\u200c\u200d"

# What may stand in a path or a query as it is: RFC 3986's pchar, "/", "?" and an escape's "%".
_SAFE = "/?%:@!$&'()*+,;=-._~"


@dataclass(frozen=True, slots=True)
class URI:
    """A WebSocket URI taken apart.

    Attributes:
        secure: whether the connection uses TLS.
        host: the name or address, IDNA-encoded, without brackets; a link-local address may have a
            zone, as in "fe80::1%eth0".
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
        return f"<URI {scheme}://{self.host_header}{escape(shown_path(self.resource))}>"

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What is one server to a client: scheme, host and port (RFC 6454 4)."""
        return self.secure, self.host, self.port

    @property
    def host_header(self) -> str:
        """The value of the Host header: without the port where that is the default, and without a
        zone, which means something on this machine only (RFC 6874 1)."""
        host = f"[{without_zone(self.host)}]" if ":" in self.host else self.host
        default = _DEFAULT_PORTS["wss" if self.secure else "ws"]
        return host if self.port == default else f"{host}:{self.port}"


def basic_authorization(user: str, password: str) -> str:
    """The value of an Authorization header (RFC 7617 2), in UTF-8."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def encode_host(host: str) -> str:
    """A host as a resolver takes it: a name in ASCII, or an address, with its zone perhaps.

    Names are mapped and checked as browsers do, by UTS 46, not transitional: by IDNA 2003, which
    Python's own codec has, some lead to another owner's host, and the stricter tables of IDNA 2008
    leave out names that are registered, such as those with a heart. A label of ASCII stays as it
    is, also with an underscore.

    Raises:
        ValueError: it is neither a domain name nor an address.
    """
    if ":" in host:
        address, percent, zone = host.partition("%")
        ipaddress.IPv6Address(address)
        if percent and not _ZONE.fullmatch(zone):
            raise ValueError("a zone has other characters than an interface's name")
        return host
    name = host
    if not host.isascii():
        import idna  # not before: its tables are not small

        if len(host) > _MAX_UNMAPPED:
            raise ValueError("it is longer than a name may be")
        labels = idna.uts46_remap(host, std3_rules=False).split(".")
        name = ".".join([_encode_label(label) for label in labels])
    if _FORBIDDEN.search(name):
        raise ValueError("it has a character that no name has")
    labels = name.removesuffix(".").split(".")
    if len(".".join(labels)) > _MAX_NAME or max(map(len, labels)) > _MAX_LABEL:
        raise ValueError("it is longer than a name may be")
    return name


def _encode_label(label: str) -> str:
    """A label that UTS 46 has mapped, in ASCII (UTS 46 4.1, with CheckBidi and CheckJoiners).

    Raises:
        ValueError: it is none.
    """
    import idna

    if label.isascii():
        return label
    # In ASCII it would be longer still, and the time that takes is quadratic.
    if len(label) > _MAX_LABEL or label.startswith("xn--"):
        raise ValueError("it has a label that cannot be encoded")
    idna.check_initial_combiner(label)
    idna.check_bidi(label)
    for at, character in enumerate(label):
        if character in _JOINERS and not idna.valid_contextj(label, at):
            raise ValueError("it has a joiner that joins nothing")
    return "xn--" + label.encode("punycode").decode()


def encode_origin(origin: str) -> str:
    """An origin as browsers send it: its host in ASCII (RFC 6454 6.2).

    Raises:
        ValueError: it is not ASCII, and not of a scheme and a host.
    """
    if origin.isascii() or not origin.isprintable():
        return origin
    parts = split_uri(origin)
    host, port = host_of(parts), port_of(parts)
    return f"{parts.scheme}://{host}" + ("" if port is None else f":{port}")


def without_zone(host: str) -> str:
    """A host as others know it."""
    return host.partition("%")[0]


def certificate_name(host: str) -> str:
    """A host as it stands in certificates and in SNI: without the dot at its end (RFC 6066 3), and
    without a zone."""
    return without_zone(host).removesuffix(".")


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
        parts = urlsplit(uri)
    except ValueError:
        pass
    else:
        authority = parts.netloc.rpartition("@")[2]
        # Not every Python minds what stands around the brackets.
        if "[" not in authority or _BRACKETED.fullmatch(authority):
            return parts
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


def host_of(parts: SplitResult) -> str:
    """The host of a URI, as encode_host() has it.

    Raises:
        ValueError: it has none, or one that is none; as that of split_uri().
    """
    name = parts.hostname
    if not name:
        raise ValueError("has no host")
    address, percent, zone = name.partition("%")
    if percent and ":" in address:
        # "%25" by RFC 6874, "%" by RFC 9844 and by people.
        escaped = zone.startswith("25") and len(zone) > 2
        name = f"{address}%{zone[2:] if escaped else zone}"
    try:
        return encode_host(name)
    except ValueError:
        pass
    raise ValueError("has a host that is not a domain name")


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
    try:
        host = host_of(parts)
    except ValueError as exc:
        raise InvalidURI(uri, str(exc)) from None
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
