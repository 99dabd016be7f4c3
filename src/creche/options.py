"""The options of connect() and serve(): declared once, with their defaults, and checked.

They are TypedDicts, so that editors and type checkers know the keyword arguments.
"""

from __future__ import annotations

import logging
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, TypedDict, cast

from creche._version import __version__
from creche.protocol.deflate import PerMessageDeflate
from creche.protocol.extensions import ExtensionFactory, check_extensions
from creche.protocol.handshake import check_subprotocols
from creche.protocol.headers import Headers, HeadersLike
from creche.protocol.http import Request, Response
from creche.protocol.server_handshake import (
    Hosts,
    Origins,
    SelectSubprotocol,
    check_hosts,
    check_origins,
)

ProcessRequest = Callable[[Request], Response | Awaitable[Response | None] | None]
ProcessResponse = Callable[[Request, Response], Response | Awaitable[Response | None] | None]


class ConnectionOptions(TypedDict, total=False):
    """What both sides have."""

    open_timeout: float | None
    """Seconds that the opening handshake may take; None for ever. Default 10."""
    close_timeout: float
    """Seconds that the closing handshake may take. Default 10."""
    message_timeout: float | None
    """Seconds that a message may take to arrive, from its first byte to its last, not counting
    those in which reading pauses for the application; None for ever. Default 60."""
    ping_interval: float | None
    """Seconds of silence after which the peer is pinged; None for never. Default 20."""
    ping_timeout: float | None
    """Seconds in which a ping must be followed by a sign of life; None for ever. Default 20."""
    stall_timeout: float | None
    """Seconds in which the peer must take some of the bytes that wait for it; None for ever.
    Default: ping_interval + ping_timeout, 40."""
    max_size: int | None
    """The largest message that is received, in bytes; None for no limit. Default 1 MiB."""
    max_fragments: int | None
    """The most frames that a message may come in; None for no limit. Default 131,072."""
    max_queue: int | None
    """Received messages that may wait for the application before reading pauses. Default 16."""
    max_queue_bytes: int | None
    """Received bytes that may wait for the application before reading pauses. Default 1 MiB."""
    write_limit: int
    """Bytes that may wait for the peer before `send` waits. Default 64 KiB."""
    compression: Literal["deflate"] | None
    """Whether to compress messages by permessage-deflate (RFC 7692), if the peer does, too; None
    for no compression. Default "deflate"."""
    extensions: Sequence[ExtensionFactory]
    """Extensions to negotiate, the preferred first. A PerMessageDeflate stands for `compression`.
    Default none."""
    max_header_bytes: int
    """The largest head of an HTTP message that is read, in bytes. Default 16 KiB."""
    logger: logging.Logger
    """Where to log. Default: the logger "creche.client" or "creche.server"."""


class ClientHandshakeOptions(ConnectionOptions, total=False):
    """What a client tells the server in the opening handshake."""

    origin: str | None
    """The Origin header; a server may ask for it. Default None."""
    subprotocols: Sequence[str]
    """The subprotocols to offer, the preferred first. Default none."""
    additional_headers: HeadersLike | None
    """Further header fields of the request. Default None."""
    user_agent_header: str | None
    """The User-Agent header; None for no such header. Default: creche and its version."""


class ClientOptions(ClientHandshakeOptions, total=False):
    """The options of connect()."""

    ssl: ssl_module.SSLContext | bool | None
    """The TLS context of a wss URI; True or None for one that verifies. Default None."""
    server_hostname: str | None
    """The name that the server's certificate must have. Default: the URI's host."""
    sock: socket.socket | None
    """A connected socket to use; it belongs to the connection then. Default None."""
    host: str | None
    """Connect to this host instead of the URI's. Default None."""
    port: int | None
    """Connect to this port instead of the URI's. Default None."""
    local_address: str | None
    """The address to connect from. Default None."""


class ServerHandshakeOptions(ConnectionOptions, total=False):
    """What a server decides in the opening handshake."""

    origins: Origins
    """The origins that are allowed: "same-host", None for every one, or a sequence of str,
    patterns and None (a request without Origin). Default "same-host"."""
    subprotocols: Sequence[str]
    """The supported subprotocols, the preferred first. Default none."""
    select_subprotocol: SelectSubprotocol | None
    """Called with the request and the offered subprotocols; returns one or None."""
    process_request: ProcessRequest | None
    """Called with the request, sync or async; a Response it returns is sent instead of 101."""
    process_response: ProcessResponse | None
    """Called with request and response, sync or async; may return another response."""
    server_header: str | None
    """The Server header; None for no such header. Default: creche and its version."""
    hosts: Hosts
    """The hosts that a client may ask for, against DNS rebinding: names, of which `"*.example.com"`
    means every one below example.com, "loopback" for the names and addresses of loopback, None for
    every host, "auto" for "loopback" where the server listens on loopback only. Default "auto"."""


class ListenerOptions(ServerHandshakeOptions, total=False):
    """What a server with many connections allows."""

    max_connections: int | None
    """Open connections; further clients get 503. None for as many as there are descriptors.
    Default None."""
    max_handshakes: int | None
    """Opening handshakes in progress; a further one drops the oldest. None for any number.
    Default 500."""
    max_buffered_bytes: int | None
    """Bytes that all connections together may keep in memory, received and to be sent; beyond
    that, the one with the most is ended. None for any number. Default 256 MiB."""


class ServerOptions(ListenerOptions, total=False):
    """The options of serve()."""

    ssl: ssl_module.SSLContext | None
    """The TLS context; None for no TLS. Default None."""
    sockets: Sequence[socket.socket] | None
    """Bound sockets to listen on, instead of host and port; they are closed at the end. Default
    None."""
    backlog: int
    """Connections that the kernel keeps until they are accepted. Default 1024."""
    reuse_port: bool
    """Whether other processes may listen on the same port. Default False."""


_DEFLATE = PerMessageDeflate()

_USER_AGENT = f"creche/{__version__}"

CONNECTION_DEFAULTS: ConnectionOptions = {
    "open_timeout": 10,
    "close_timeout": 10,
    "message_timeout": 60,
    "ping_interval": 20,
    "ping_timeout": 20,
    "max_size": 2**20,
    "max_fragments": 2**17,
    "max_queue": 16,
    "max_queue_bytes": 2**20,
    "write_limit": 2**16,
    "compression": "deflate",
    "extensions": (),
    "max_header_bytes": 2**14,
}

CLIENT_DEFAULTS: ClientOptions = {
    **CONNECTION_DEFAULTS,
    "logger": logging.getLogger("creche.client"),
    "origin": None,
    "subprotocols": (),
    "additional_headers": None,
    "user_agent_header": _USER_AGENT,
    "ssl": None,
    "server_hostname": None,
    "sock": None,
    "host": None,
    "port": None,
    "local_address": None,
}

SERVER_DEFAULTS: ServerOptions = {
    **CONNECTION_DEFAULTS,
    "logger": logging.getLogger("creche.server"),
    "origins": "same-host",
    "subprotocols": (),
    "select_subprotocol": None,
    "process_request": None,
    "process_response": None,
    "server_header": _USER_AGENT,
    "hosts": "auto",
    "max_connections": None,
    "max_handshakes": 500,
    "max_buffered_bytes": 2**28,
    "ssl": None,
    "sockets": None,
    "backlog": 1024,
    "reuse_port": False,
}

# The part of ping_interval and ping_timeout in a stall_timeout, where they are turned off.
_PING_SECONDS = 20.0


def _seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive number of seconds, not {value}")


def _count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def _function(name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")


def _instance(*types: type) -> Callable[[str, object], None]:
    def check(name: str, value: object) -> None:
        if not isinstance(value, types):
            wanted = " or ".join(t.__name__ for t in types)
            raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}")

    return check


def _header_value(name: str, value: object) -> None:
    _instance(str)(name, value)
    Headers([(name, cast(str, value))])


def _compression(name: str, value: object) -> None:
    if value != "deflate":
        raise ValueError(f'{name} must be "deflate" or None, not {value!r}')


def _or_none(check: Callable[[str, Any], object]) -> Callable[[str, object], None]:
    def check_unless_none(name: str, value: object) -> None:
        if value is not None:
            check(name, value)

    return check_unless_none


def _named_already(check: Callable[[Any], object]) -> Callable[[str, Any], object]:
    return lambda _, value: check(value)


_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "open_timeout": _or_none(_seconds),
    "close_timeout": _seconds,
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
    "origin": _or_none(_header_value),
    "subprotocols": _named_already(check_subprotocols),
    "additional_headers": _named_already(lambda value: Headers(value or ())),
    "user_agent_header": _or_none(_header_value),
    "ssl": _or_none(_instance(ssl_module.SSLContext, bool)),
    "server_hostname": _or_none(_instance(str)),
    "sock": _or_none(_instance(socket.socket)),
    "host": _or_none(_instance(str)),
    "port": _or_none(_count),
    "local_address": _or_none(_instance(str)),
    "origins": _named_already(check_origins),
    "select_subprotocol": _or_none(_function),
    "process_request": _or_none(_function),
    "process_response": _or_none(_function),
    "server_header": _or_none(_header_value),
    "hosts": _named_already(check_hosts),
    "max_connections": _or_none(_count),
    "max_handshakes": _or_none(_count),
    "max_buffered_bytes": _or_none(_count),
    "sockets": _or_none(_instance(list, tuple)),
    "backlog": _count,
    "reuse_port": _instance(bool),
}


def client_options(given: Mapping[str, Any]) -> ClientOptions:
    """The options of a client with their defaults.

    Raises:
        TypeError: an option of an unknown name or a wrong type.
        ValueError: an option out of range.
    """
    return cast(ClientOptions, _resolve(dict(CLIENT_DEFAULTS), given))


def server_options(given: Mapping[str, Any]) -> ServerOptions:
    """The options of a server with their defaults.

    Raises:
        TypeError: an option of an unknown name or a wrong type.
        ValueError: an option out of range.
    """
    return cast(ServerOptions, _resolve(dict(SERVER_DEFAULTS), given))


def _resolve(options: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name not in options and name != "stall_timeout":
            raise TypeError(f"unknown option {name!r}")
        _CHECKS[name](name, value)
        options[name] = value
    interval, timeout = options["ping_interval"], options["ping_timeout"]
    options.setdefault("stall_timeout", (interval or _PING_SECONDS) + (timeout or _PING_SECONDS))
    extensions = options["extensions"]
    if options["compression"] and all(factory.name != _DEFLATE.name for factory in extensions):
        options["extensions"] = [*extensions, _DEFLATE]
    return options
