# cython: annotation_typing=False
"""What a request asks for: its target (RFC 9112 3.2), and the authority that is asked."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

from creche.handshake.redaction import without_secrets
from creche.handshake.uri import encode_host, host_of, port_of, split_uri, without_zone
from creche.protocol.escaping import quote

# RFC 3986 3.2; a zone is no part of it, but some clients leave it there (RFC 6874).
_AUTHORITY = re.compile(
    r"(?:\[([0-9A-Fa-f:.]++)(?:%[A-Za-z0-9\-._~%]++)?\]|([A-Za-z0-9\-._~%!$&'()*+,;=]++))"
    r"(?::([0-9]*+))?"
)
_ABSOLUTE = re.compile(r"(?:http|ws)s?://([^/?]*+)", re.IGNORECASE)
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+\-.]*+://([^/?#]*+)")

# Of the schemes whose origins leave them out.
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# Authorities up to this length are kept.
_SHORT = 64

# An escape, or a "%" that begins none.
_PERCENT = re.compile("%(?:[0-9A-Fa-f]{2})?")
# What may come as it is within a segment of a path. RFC 3986 3.3 allows some of them only escaped,
# but clients send them either way.
_PLAIN = frozenset(map(chr, range(0x21, 0x7F))) - frozenset("%/?#")


class Authority(NamedTuple):
    """A host, and perhaps its port.

    Attributes:
        host: a name or an address in small letters, without brackets.
        port: None where there is none.
    """

    host: str
    port: int | None


def parse_authority(text: str) -> Authority:
    """Take the value of a Host header apart.

    Raises:
        ValueError: it is malformed, or has a user.
    """
    return _parse_short(text) if len(text) <= _SHORT else _parse(text)


def _parse(text: str) -> Authority:
    found = _AUTHORITY.fullmatch(text)
    # A port has at most five digits, and no other number of a peer is made an int.
    digits = None if found is None else (found[3] or "").lstrip("0")
    if found is None or digits is None or len(digits) > 5 or int(digits or 0) > 65535:
        raise ValueError(f"{quote(without_secrets(text))} is not a host with a port perhaps")
    port = int(digits or 0) if found[3] else None
    if found[1] is None:
        return Authority(found[2].lower(), port)
    try:
        return Authority(str(ipaddress.IPv6Address(found[1])), port)
    except ValueError:
        raise ValueError(f"{quote(text)} is not an address of IPv6") from None


# All clients of a server ask for the same few hosts, and each request is looked at more than once.
_parse_short = lru_cache(maxsize=64)(_parse)


def origin_host(origin: str) -> str | None:
    """The host of an origin (RFC 6454 6.2); None where there is none."""
    found = _ORIGIN.match(origin)
    return None if found is None else authority_host(found[1])


def authority_host(text: str) -> str | None:
    """The host of a Host header; None where it is malformed."""
    try:
        return parse_authority(text).host
    except ValueError:
        return None


def allowed_host(host: str) -> str:
    """A host of the option `hosts`, as parse_authority() gives one; "*." may stand before a name.

    Raises:
        ValueError: none can be equal to it; what is wrong, as the end of a sentence.
    """
    if host in ("*", "auto", "loopback"):
        said = "None" if host == "*" else f'"{host}"'
        raise ValueError(f"is no host; say hosts={said} instead of a sequence")
    if "://" in host:
        raise ValueError("is a URI; say its host only")
    below = "*." if host.startswith("*.") else ""
    name = host.removeprefix(below)
    if not below and name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    if not below and name.count(":") == 1:
        raise ValueError("has a port; say the host only, which is allowed with every port")
    encoded = _plain_host(name)
    if "" in encoded.split(".") or "*" in encoded or (below and ":" in encoded):
        raise ValueError('is not a domain name; for all that are below one say "*.name"')
    return below + encoded


def _plain_host(name: str) -> str:
    """A host as parse_authority() gives it, without a zone and a dot at its end."""
    try:
        encoded = without_zone(encode_host(name)).lower().removesuffix(".")
    except ValueError:
        encoded = ""
    return str(ipaddress.IPv6Address(encoded)) if ":" in encoded else encoded


def allowed_origin(origin: str) -> str:
    """An origin of the option `origins`, as browsers send it (RFC 6454 6.2).

    Raises:
        ValueError: none can be equal to it; what is wrong, as the end of a sentence.
    """
    if origin in ("*", "same-host"):
        said = "None" if origin == "*" else '"same-host"'
        raise ValueError(f"is no origin; say origins={said} instead of a sequence")
    if origin == "null":  # of a page without one, such as a file
        return origin
    parts = split_uri(origin)
    if not parts.scheme or "://" not in origin:
        raise ValueError("has no scheme; say https://name")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("has more than a scheme, a host and a port")
    if parts.scheme not in _DEFAULT_PORTS:
        # Of an extension or an app, which names its own as it likes.
        return origin.removesuffix("/") if parts.netloc else origin
    host, port = _plain_host(host_of(parts)), port_of(parts)
    shown = f"[{host}]" if ":" in host else host
    default = port in (None, _DEFAULT_PORTS[parts.scheme])
    return f"{parts.scheme}://{shown}" + ("" if default else f":{port}")


def parse_target(target: str) -> tuple[str | None, str]:
    """Take a request's target apart: the authority, if it has one, and the path with the query.

    A path is only taken as a path: what begins with "//" is one, too. It gets the one form that all
    ways to write it share, so that none of them leads past a check of it (RFC 3986 6.2.2): what may
    come as it is stands there as it is, all else escaped in capital letters. An escaped slash
    stays another than a plain one.

    Raises:
        ValueError: it is not the target of a request for a resource.
    """
    if "#" in target:
        raise ValueError("the target has a fragment")
    authority = None
    rest = target
    if not target.startswith("/"):
        absolute = _ABSOLUTE.match(target)
        if absolute is None:
            shown = quote(without_secrets(target))
            raise ValueError(f"the target {shown} is neither a path nor a URI")
        authority, rest = absolute[1], target[absolute.end() :]
        if not rest.startswith("/"):
            rest = f"/{rest}"
    path, mark, query = rest.partition("?")
    if "%" in path:
        path = _PERCENT.sub(_in_one_form, path)
    return authority, path + mark + query


def _in_one_form(percent: re.Match[str]) -> str:
    digits = percent[0][1:]
    if not digits:
        # Otherwise it could make an escape of what follows, once that is undone.
        return "%25"
    character = chr(int(digits, 16))
    return character if character in _PLAIN else f"%{digits.upper()}"
