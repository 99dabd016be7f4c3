# cython: annotation_typing=False
"""Who a client is behind proxies: Forwarded (RFC 7239) and X-Forwarded-For."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from creche.handshake.headers import TOKEN_CHARACTER, Headers
from creche.handshake.redaction import shown_authority
from creche.handshake.rules import taken

#: Stands for every peer of a Unix socket, also among the trusted proxies.
UNIX = "unix"
#: Stands for every peer that has an address which we do not know: its connection is reset.
UNKNOWN = "unknown"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# A field of Forwarded is read in one pass: a parameter, and what is left of an element that is
# malformed. Neither can match a text in two ways, so that no byte is looked at again and again.
_PARAMETER = re.compile(rf"""[ \t]*+({TOKEN_CHARACTER}++)=("(?:[^"\\]|\\.)*+"|[^\s;,"]*+)[ \t]*+""")
_REST = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+")*+')

# What stands behind an address; it may be hidden as the address may (RFC 7239 6).
_PORT = re.compile(r":(?:[0-9]{1,5}|_[A-Za-z0-9._\-]+)")

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


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
def _networks(proxies: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple([unmapped(_network(proxy)) for proxy in proxies if proxy != UNIX])


def _network(proxy: str) -> Network:
    try:
        return ipaddress.ip_network(proxy)
    except ValueError as exc:
        host_bits = "has host bits set" in str(exc)
    # Not above, where the other error would be its context, with what it quotes.
    shown = shown_authority(proxy)
    if host_bits:
        raise ValueError(f"trusted_proxies: {shown} has host bits set")
    raise ValueError(f"trusted_proxies: {shown} is neither an IP address, nor a network, nor unix")


def parse_address(text: str) -> Address | None:
    """An IP address, None where it is none: one of IPv4 where it is written as IPv6, as it is when
    it comes over a socket of IPv6, and without a zone, which is known to one machine only."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    return address.ipv4_mapped or ipaddress.IPv6Address(int(address))


def unmapped(network: Network) -> Network:
    """The network of IPv4 for one that is written as IPv6, since addresses are told so."""
    if not isinstance(network, ipaddress.IPv6Network) or not network.subnet_of(_MAPPED):
        return network
    return ipaddress.IPv4Network(
        (str(network.network_address.ipv4_mapped), network.prefixlen - _MAPPED.prefixlen)
    )


def find_client(peer: str | None, headers: Headers, trusted: Sequence[str]) -> str | None:
    """The IP address of the client that sent a request.

    The headers count only if they come from a trusted proxy. They are read from the right, where
    the nearest proxy has written; what is left of the first address that is not trusted may be
    anybody's invention. Where the proxies hide the client, do not know it, or have written what
    cannot be read, it is not known: a proxy that forwards for somebody is not the client. Where
    both headers are there and do not say the same, one of them is not the proxy's: then neither
    counts. A trusted peer that sends neither forwards for nobody, as when it looks whether the
    server is well: then it is the client itself.

    Args:
        peer: the address at the other end of the connection, UNIX, or UNKNOWN; None where there is
            no such thing as an address.
        headers: those of the request.
        trusted: networks and addresses, and "unix".

    Returns:
        None where it is not known.
    """
    address = _parse(peer or "")
    if not (_is_trusted(peer, address, trusted) and _forwards(headers)):
        return _shown(address)
    networks = _networks(tuple(trusted))
    said = set()
    if "Forwarded" in headers:
        said.add(_nearest(map(_forwarded, reversed(headers.get_all("Forwarded"))), networks))
    if "X-Forwarded-For" in headers:
        fields = reversed(headers.get_all("X-Forwarded-For"))
        said.add(_nearest((field.split(",") for field in fields), networks))
    return _shown(said.pop()) if len(said) == 1 else None


def client_key(peer: str | None, headers: Headers, trusted: Sequence[str]) -> str | None:
    """What counts as one client for limits: an IPv4 address, or a network of IPv6, of which each
    household has one (RFC 6177).

    Clients that are not known count as the proxy that forwards for them: by hiding nobody gets
    around a limit, and nobody fills that of somebody who is known. All UNKNOWN count as one. The
    arguments are those of `find_client`.

    Returns:
        None where nothing tells clients apart: on a Unix socket without a proxy's word, or where
        there is no such thing as an address.
    """
    address = _parse(find_client(peer, headers, trusted) or peer or "")
    if address is None:
        if peer != UNIX:
            return peer
        return UNIX if UNIX in trusted and _forwards(headers) else None
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _is_trusted(peer: str | None, address: Address | None, trusted: Sequence[str]) -> bool:
    if address is None:
        return peer == UNIX and UNIX in trusted
    return bool(trusted) and _is_in(address, _networks(tuple(trusted)))


def _forwards(headers: Headers) -> bool:
    return "Forwarded" in headers or "X-Forwarded-For" in headers


def _shown(address: Address | None) -> str | None:
    return None if address is None else str(address)


def _is_in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


def _nearest(fields: Iterable[Sequence[str]], networks: tuple[Network, ...]) -> Address | None:
    """The first address from the right that is no trusted proxy, or the last one that was. None
    where one on the way is not an address: "unknown", a name that hides it, or nonsense.

    Args:
        fields: the addresses of each field, the last field first.
    """
    address = None
    for texts in fields:
        for text in reversed(texts):
            address = _parse(text)
            if address is None or not _is_in(address, networks):
                return address
    return address


def _forwarded(field: str) -> list[str]:
    """What the elements of a field of Forwarded say of their clients, "" for nothing.

    A field is read by itself: where a proxy has written one of its own behind a client's, a quote
    that was left open there does not swallow it. Where a quote is left open, nobody can tell where
    the last element begins: then nothing is said.
    """
    found: list[str] = []
    position = 0
    while True:
        text, position = _read_element(field, position)
        found.append(text)
        if position == len(field):
            return found
        if field[position] != ",":
            return [""]
        position += 1


def _read_element(field: str, position: int) -> tuple[str, int]:
    """What the element that begins there says of its client, and where it ends."""
    parameters: dict[str, str] = {}
    valid = True
    while (parameter := _PARAMETER.match(field, position)) is not None:
        name, value = parameter[1].lower(), parameter[2]
        valid = valid and name not in parameters  # RFC 7239 4
        parameters[name] = value
        position = parameter.end()
        if not field.startswith(";", position):
            break
        position += 1
    rest = _REST.match(field, position)
    assert rest is not None
    text = parameters.get("for", "")
    if not valid or rest[0].strip(" \t"):
        text = ""
    elif text.startswith('"'):
        text = re.sub(r"\\(.)", r"\1", text[1:-1])
    return text, rest.end()


def _parse(text: str) -> Address | None:
    """An address, with a port perhaps, and in brackets if it is one of IPv6."""
    text = text.strip(" \t")
    port = ""
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or ":" not in text:
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        port = f":{port}"
    if port and _PORT.fullmatch(port) is None:
        return None
    return parse_address(text)
