# cython: annotation_typing=False
"""Who a client is behind proxies: Forwarded (RFC 7239) and X-Forwarded-For."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from creche.protocol.handshake import taken
from creche.protocol.headers import Headers

#: Stands for every peer of a Unix socket among the trusted proxies.
UNIX = "unix"

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Searched for, each matches where the last one ended, or right behind a separator: no byte is
# looked at again and again.
_BALANCED = re.compile(r'[^"]*(?:"(?:[^"\\]|\\.)*"[^"]*)*')
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*")+')
_PARAMETER = re.compile(r'(?:[^;"]|"(?:[^"\\]|\\.)*")+')
_PAIR = re.compile(r'[ \t]*([^\s;,="]+)=("(?:[^"\\]|\\.)*"|[^\s;,"]*)[ \t]*')


def check_trusted_proxies(proxies: Iterable[str]) -> tuple[str, ...]:
    """The option `trusted_proxies`, checked.

    Raises:
        TypeError: it is not a sequence of str.
        ValueError: one of them is neither a network, nor an address, nor "unix".
    """
    if isinstance(proxies, str):
        raise TypeError("trusted_proxies must be a sequence of str, not a str")
    checked = tuple(taken("trusted_proxies", proxies))
    for proxy in checked:
        if not isinstance(proxy, str):
            raise TypeError(f"trusted_proxies must hold str, not {type(proxy).__name__}")
    _networks(checked)
    return checked


@lru_cache(maxsize=16)
def _networks(proxies: tuple[str, ...]) -> tuple[_Network, ...]:
    try:
        return tuple([ipaddress.ip_network(proxy) for proxy in proxies if proxy != UNIX])
    except ValueError as exc:
        raise ValueError(f"trusted_proxies: {exc}") from None


def find_client(peer: str | None, headers: Headers, trusted: Sequence[str]) -> str | None:
    """The IP address of the client that sent a request.

    The headers count only if they come from a trusted proxy. They are read from the right, where
    the nearest proxy has written; what is left of the first address that is not trusted may be
    anybody's invention. Where both headers are there and do not say the same, one of them is not
    the proxy's: then neither counts.

    Args:
        peer: the address at the other end of the connection; None for a Unix socket.
        headers: those of the request.
        trusted: networks and addresses, and "unix".

    Returns:
        None where it is not known.
    """
    address = None if peer is None else _parse(peer)
    if not trusted:
        return _shown(address)
    networks = _networks(tuple(trusted))
    if not (UNIX in trusted if address is None else _is_in(address, networks)):
        return _shown(address)
    said = set()
    if "Forwarded" in headers:
        said.add(_nearest(_forwarded(headers["Forwarded"]), networks))
    if "X-Forwarded-For" in headers:
        said.add(_nearest(headers["X-Forwarded-For"].split(","), networks))
    found = said.pop() if len(said) == 1 else None
    return _shown(found or address)


def client_key(address: str) -> str:
    """What counts as one client for limits: an IPv4 address, or a network of IPv6, of which each
    household has one (RFC 6177)."""
    parsed = ipaddress.ip_address(address)
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


def _shown(address: _Address | None) -> str | None:
    return None if address is None else str(address)


def _is_in(address: _Address, networks: Iterable[_Network]) -> bool:
    return any(address in network for network in networks)


def _nearest(addresses: list[str], networks: tuple[_Network, ...]) -> _Address | None:
    """The first address from the right that is no trusted proxy, or the last one that was."""
    found = None
    for text in reversed(addresses):
        address = _parse(text)
        if address is None:  # "unknown", or a name that hides it
            break
        found = address
        if not _is_in(address, networks):
            break
    return found


def _forwarded(value: str) -> list[str]:
    """What the elements of a Forwarded header say of their clients, "" for nothing."""
    found: list[str] = []
    if _BALANCED.fullmatch(value) is None:
        return found
    for element in _ELEMENT.findall(value):
        pairs = filter(None, map(_PAIR.fullmatch, _PARAMETER.findall(element)))
        parameters = {pair[1].lower(): pair[2] for pair in pairs}
        text = parameters.get("for", "")
        if text.startswith('"'):
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        found.append(text)
    return found


def _parse(text: str) -> _Address | None:
    """An address, with a port perhaps, and in brackets if it is one of IPv6."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # One of IPv4 that came over a socket of IPv6.
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
