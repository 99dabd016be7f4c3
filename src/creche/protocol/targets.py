# cython: annotation_typing=False
"""What a request asks for: its target (RFC 9112 3.2), and the authority that is asked."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import NamedTuple

from creche.protocol.escaping import quote
from creche.protocol.redaction import without_secrets

# RFC 3986 3.2; a zone is no part of it, but some clients leave it there (RFC 6874).
_AUTHORITY = re.compile(
    r"(?:\[([0-9A-Fa-f:.]++)(?:%[A-Za-z0-9\-._~%]++)?\]|([A-Za-z0-9\-._~%!$&'()*+,;=]++))"
    r"(?::([0-9]*+))?"
)
_ABSOLUTE = re.compile(r"(?:http|ws)s?://([^/?]*+)", re.IGNORECASE)
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+\-.]*+://([^/?#]*+)")

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
