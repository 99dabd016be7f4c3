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
    flags = socket.AI_PASSIVE if passive else 0
    try:
        found = await anyio.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    except OSError as exc:
        raise named_error(exc, f"cannot resolve {host}") from None
    except ValueError:  # UnicodeError, or a NUL
        raise OSError(errno.EINVAL, f"cannot resolve {host!r}: it is not a host name") from None
    if not found:  # of a Python without IPv6
        raise OSError(errno.EADDRNOTAVAIL, f"cannot resolve {host}: no address of it is of use")
    return [(family, address) for family, _, _, _, address in found]
