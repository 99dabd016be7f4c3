"""What the value of an option may be."""

from __future__ import annotations

import logging
import socket
import ssl as ssl_module
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from creche.handshake.addresses import check_host, check_ip_address, check_port
from creche.handshake.extensions import check_extensions
from creche.handshake.forwarding import check_trusted_proxies
from creche.handshake.headers import Headers, HeadersLike
from creche.handshake.proxies import parse_proxy
from creche.handshake.redaction import shown_authority
from creche.handshake.rules import check_additional, check_subprotocols, taken
from creche.handshake.server import (
    check_hosts,
    check_origins,
)
from creche.handshake.uri import certificate_name, encode_origin

# listen() takes an int of C; the kernel has a limit of its own, far below.
_MOST_BACKLOG = 2**31 - 1

# The compiled build counts in words of this size.
_MOST = sys.maxsize

#: What is more is no time that anybody waits for, and at some point no float any more.
MOST_SECONDS = 10**9


# A check takes what the caller has given for an option, and returns what is kept of it. Whatever
# can be iterated is taken once, into an object of our own: it may be an iterator, or be changed
# later.
_Check = Callable[[str, Any], Any]


def _number(name: str, value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a {what}, not {type(value).__name__}")
    return value


def _seconds(name: str, value: object) -> object:
    number = _number(name, value, "number of seconds")
    if not 0 < number <= MOST_SECONDS:
        raise ValueError(
            f"{name} must be a positive number of seconds, at most {MOST_SECONDS:,}, "
            f"not {_shown(number)}"
        )
    return value


def check_delay(name: str, value: object) -> None:
    """Check a number of seconds, which may be none.

    Raises:
        TypeError: it is not a number.
        ValueError: it is out of range.
    """
    if _number(name, value, "number of seconds") != 0:
        _seconds(name, value)


def _rate(name: str, value: object) -> object:
    number = _number(name, value, "number a second")
    if not 1 / MOST_SECONDS <= number <= MOST_SECONDS:
        raise ValueError(
            f"{name} must be a positive number a second, at most {MOST_SECONDS:,}, "
            f"not {_shown(number)}"
        )
    return value


def _count(name: str, value: object, least: int = 1, most: int = _MOST) -> object:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {_shown(value)}")
    if value > most:
        raise ValueError(f"{name} must be at most {most}, not {_shown(value)}")
    return value


def _shown(number: float) -> str:
    """A number in a text; Python refuses to write an int with very many digits."""
    if isinstance(number, int) and number.bit_length() > 64:
        return f"a number of {number.bit_length()} bits"
    return str(number)


def _count_or_zero(name: str, value: object) -> object:
    return _count(name, value, 0)


def _reuse_port(name: str, value: object) -> object:
    _instance(bool)(name, value)
    if value and not hasattr(socket, "SO_REUSEPORT"):
        raise ValueError(f"{name}: this system does not let two processes share a port")
    return value


def _backlog(name: str, value: object) -> object:
    return _count(name, value, most=_MOST_BACKLOG)


def _proxy(name: str, value: object) -> object:
    _instance(str, bool)(name, value)
    if isinstance(value, str):
        parse_proxy(value)
    return value


def _function(name: str, value: object) -> object:
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    return value


def _instance(*types: type) -> _Check:
    def check(name: str, value: object) -> object:
        if not isinstance(value, types):
            wanted = " or ".join(t.__name__ for t in types)
            raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")
        return value

    return check


def _plain_socket(name: str, value: object) -> object:
    _instance(socket.socket)(name, value)
    if isinstance(value, ssl_module.SSLSocket):
        raise TypeError(f"{name} must be a plain socket, not an SSLSocket; say ssl instead")
    sock = cast(socket.socket, value)
    if sock.fileno() == -1:
        raise ValueError(f"{name} is closed")
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"{name} must be a stream socket, not {sock.type.name}")
    return value


def _plain_sockets(name: str, value: Iterable[object]) -> list[object]:
    sockets = taken(name, value)
    if not sockets:
        raise ValueError(f"{name} is empty: a server has to listen somewhere")
    descriptors: list[int] = []
    for i, sock in enumerate(sockets):
        descriptor = cast(socket.socket, _plain_socket(f"{name}[{i}]", sock)).fileno()
        if descriptor in descriptors:
            raise ValueError(f"{name}[{i}] is {name}[{descriptors.index(descriptor)}] again")
        descriptors.append(descriptor)
    return sockets


def _headers(name: str, value: HeadersLike) -> Headers:
    if isinstance(value, Mapping):
        return check_additional(name, value)
    fields = taken(name, value)
    if not all(isinstance(field, tuple | list) and len(field) == 2 for field in fields):
        raise TypeError(f"{name} must be a mapping, or pairs of a name and a value")
    return check_additional(name, fields)


def _certificate_name(name: str, value: object) -> str:
    return certificate_name(check_host(name, value))


def _origin(name: str, value: object) -> object:
    _instance(str)(name, value)
    try:
        value = encode_origin(cast(str, value))
    except ValueError as exc:
        raise ValueError(f"{name} {exc}") from None
    return _header_value(name, value)


def _header_value(name: str, value: object) -> object:
    _instance(str)(name, value)
    Headers([(name, cast(str, value))])
    return value


def _kind(value: object) -> str:
    """What is not one of a few words, in a text: its repr may be long, and hold what is secret."""
    if isinstance(value, str):
        return shown_authority(value)
    return str(value) if isinstance(value, bool) else f"a {type(value).__name__}"


def _one_of(*values: str) -> _Check:
    def check(name: str, value: object) -> object:
        if value not in values:
            wanted = " or ".join(f'"{value}"' for value in values)
            raise ValueError(f"{name} must be {wanted}, not {_kind(value)}")
        return value

    return check


def _compression(name: str, value: object) -> object:
    if value != "deflate":
        raise ValueError(f'{name} must be "deflate" or None, not {_kind(value)}')
    return value


def _or_none(check: _Check) -> _Check:
    return lambda name, value: None if value is None else check(name, value)


def _named_already(check: Callable[[Any], Any]) -> _Check:
    return lambda _, value: check(value)


_CHECKS: dict[str, _Check] = {
    "open_timeout": _or_none(_seconds),
    "close_timeout": _seconds,
    "linger_timeout": _seconds,
    "message_timeout": _or_none(_seconds),
    "ping_interval": _or_none(_seconds),
    "ping_timeout": _or_none(_seconds),
    "stall_timeout": _or_none(_seconds),
    "max_size": _or_none(_count),
    "max_fragments": _or_none(_count),
    "max_queue": _or_none(_count),
    "max_queue_bytes": _or_none(_count),
    "write_limit": _count,
    "compression": _or_none(_compression),
    "extensions": _named_already(check_extensions),
    "max_header_bytes": _count,
    "logger": _instance(logging.Logger),
    "trace": _or_none(_function),
    "origin": _or_none(_origin),
    "subprotocols": _named_already(check_subprotocols),
    "require_subprotocol": _instance(bool),
    "additional_headers": _or_none(_headers),
    "user_agent_header": _or_none(_header_value),
    "ssl": _or_none(_instance(ssl_module.SSLContext, bool)),
    "server_hostname": _or_none(_certificate_name),
    "sock": _or_none(_plain_socket),
    "host": _or_none(check_host),
    "port": _or_none(check_port),
    "local_address": _or_none(check_ip_address),
    "max_redirects": _count_or_zero,
    "redirects": _one_of("same-origin", "any"),
    "proxy": _or_none(_proxy),
    "proxy_ssl": _or_none(_instance(ssl_module.SSLContext)),
    "proxy_server_hostname": _or_none(_certificate_name),
    "initial_delay": _seconds,
    "max_delay": _seconds,
    "stable_after": _seconds,
    "max_attempts": _or_none(_count),
    "process_exception": _or_none(_function),
    "on_attempt": _or_none(_function),
    "origins": _named_already(check_origins),
    "select_subprotocol": _or_none(_function),
    "process_request": _or_none(_function),
    "process_response": _or_none(_function),
    "server_header": _or_none(_header_value),
    "hosts": _named_already(check_hosts),
    "trusted_proxies": _named_already(check_trusted_proxies),
    "max_connections": _or_none(_count),
    "max_handshakes": _or_none(_count),
    "max_connections_per_client": _or_none(_count),
    "handshake_rate": _or_none(_rate),
    "max_lifetime": _or_none(_seconds),
    "max_buffered_bytes": _or_none(_count),
    "sockets": _or_none(_plain_sockets),
    "backlog": _backlog,
    "reuse_port": _reuse_port,
}


def check_option(name: str, value: object) -> Any:
    """What is kept of the value of one option.

    Raises:
        TypeError: a value of a wrong type.
        ValueError: a value out of range.
    """
    return _CHECKS[name](name, value)
