"""Looking names up."""

from __future__ import annotations

import errno
import socket
from typing import Any

import anyio

from creche.transports.sockets import named_error

Address = tuple[int, Any]


async def resolve(host: str | None, port: int, *, passive: bool = False) -> list[Address]:
    """The addresses of a host, as (family, address), in the resolver's order.

    Args:
        host: a name or an address; None or "" for every interface, or for loopback.
        port: the TCP port.
        passive: whether to listen there.

    Raises:
        OSError: there are none; it names the host.
    """
    try:
        if host and "%" in host:
            # An address already: uvloop would lose its interface in its resolver.
            return [(socket.AF_INET6, socket_address((host, port)))]
        if host:
            address = _numeric(host, port)
            if address is not None:
                return [address]
        flags = socket.AI_PASSIVE if passive else 0
        found = await anyio.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
        addresses: list[Address] = [
            (family, socket_address(address)) for family, _, _, _, address in found
        ]
    except OSError as exc:
        raise named_error(exc, f"cannot resolve {host}") from None
    except ValueError:  # UnicodeError, or a NUL
        raise OSError(errno.EINVAL, f"cannot resolve {host!r}: it is not a host name") from None
    if not addresses:  # of a Python without IPv6
        raise OSError(errno.EADDRNOTAVAIL, f"cannot resolve {host}: no address of it is of use")
    return addresses


def _numeric(host: str, port: int) -> Address | None:
    """An IP address, for which the resolver would start a thread; None for a name."""
    for family, rest in ((socket.AF_INET, ()), (socket.AF_INET6, (0, 0))):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family, (host, port, *rest)
    return None


def socket_address(address: Any) -> Any:
    """An address as the kernel takes it: the interface of a link-local one, which AnyIO and people
    write behind a "%", is a number of its own there."""
    name, percent, zone = address[0].partition("%")
    if not percent:
        return address
    return name, address[1], 0, int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
