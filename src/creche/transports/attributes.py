# cython: annotation_typing=False
"""AnyIO's typed attributes of a socket, plain or TLS."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

from creche.transports.tls import TLSSocket

T = TypeVar("T")


def _address(address_of: Callable[[], Any]) -> Any:
    try:
        address = address_of()
    except OSError:
        return None  # the peer has gone already
    # The first two elements of an IPv6 address are host and port.
    return address[:2] if isinstance(address, tuple) else address


def _constant(value: T) -> Callable[[], T]:
    return lambda: value


class SocketAttributes(Mapping[Any, Callable[[], Any]]):
    """AnyIO's typed attributes of a socket; addresses are kept from before it is closed."""

    __slots__ = ("_local", "_remote", "_sock")

    def __init__(self, sock: socket.socket | TLSSocket, peer: Any = None) -> None:
        self._sock = sock
        self._local = _address(sock.getsockname)
        self._remote = _address(sock.getpeername if peer is None else _constant(peer))

    def __getitem__(self, attribute: Any) -> Callable[[], Any]:
        return self._all()[attribute]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[Any, Callable[[], Any]]:
        """Made when they are asked for: they would be a tenth of an idle connection's memory."""
        tls = self._sock.ssl_object if isinstance(self._sock, TLSSocket) else None
        sock = self._sock.plain if isinstance(self._sock, TLSSocket) else self._sock
        attributes: dict[Any, Callable[[], Any]] = {
            SocketAttribute.family: lambda: sock.family,
            SocketAttribute.raw_socket: lambda: sock,
        }
        for side, address in (("local", self._local), ("remote", self._remote)):
            if address is not None:
                attributes[getattr(SocketAttribute, f"{side}_address")] = _constant(address)
            if isinstance(address, tuple):
                attributes[getattr(SocketAttribute, f"{side}_port")] = _constant(address[1])
        if tls is not None:
            attributes |= {
                TLSAttribute.alpn_protocol: tls.selected_alpn_protocol,
                TLSAttribute.cipher: tls.cipher,
                TLSAttribute.peer_certificate: lambda: tls.getpeercert(False),
                TLSAttribute.peer_certificate_binary: lambda: tls.getpeercert(True),
                TLSAttribute.server_side: lambda: tls.server_side,
                TLSAttribute.shared_ciphers: tls.shared_ciphers,
                TLSAttribute.ssl_object: lambda: tls,
                TLSAttribute.tls_version: tls.version,
            }
        return attributes
