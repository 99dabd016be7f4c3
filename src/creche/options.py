"""The options of connect() and serve(): declared once, with their defaults, and checked.

They are TypedDicts, so that editors and type checkers know the keyword arguments.
"""

from __future__ import annotations

import logging
import socket
import ssl as ssl_module
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, cast

from creche._version import __version__
from creche.handshake.addresses import check_host, check_ip_address, check_port
from creche.handshake.deflate import PerMessageDeflate
from creche.handshake.extensions import ExtensionFactory, check_extensions
from creche.handshake.forwarding import check_trusted_proxies
from creche.handshake.headers import Headers, HeadersLike
from creche.handshake.http import Request, Response
from creche.handshake.proxies import parse_proxy
from creche.handshake.redaction import shown_authority
from creche.handshake.rules import check_additional, check_subprotocols, taken
from creche.handshake.server import (
    Hosts,
    Origins,
    check_hosts,
    check_origins,
)
from creche.handshake.uri import certificate_name, encode_origin

SelectSubprotocol = Callable[[Request, Sequence[str]], str | Awaitable[str | None] | None]
ProcessRequest = Callable[[Request], Response | Awaitable[Response | None] | None]
ProcessResponse = Callable[[Request, Response], Response | Awaitable[Response | None] | None]

ProcessException = Callable[[Exception], Exception | None]

#: Called with the name of an event and what is known of it.
Trace = Callable[[str, dict[str, Any]], object]


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt of reconnect() to connect.

    Attributes:
        number: 1 for the first; it begins anew after a connection that has held.
        delay: seconds until it is made.
        exception: why there is no connection; None at the very first.
    """

    number: int
    delay: float
    exception: Exception | None


OnAttempt = Callable[[Attempt], Awaitable[object] | None]


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
    """Received messages that may wait for the application before reading pauses. Default 64."""
    max_queue_bytes: int | None
    """Bytes of memory that received messages may take while they wait for the application, before
    reading pauses. Default 1 MiB."""
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
    trace: Trace | None
    """Called with the name of each event, such as "connection.open.started" or "frame.received",
    and a dict of what is known of it; it must not wait. Default None."""


class ClientHandshakeOptions(ConnectionOptions, total=False):
    """What a client tells the server in the opening handshake."""

    origin: str | None
    """The Origin header; a server may ask for it. Default None."""
    subprotocols: Sequence[str]
    """The subprotocols to offer, the preferred first. Default none."""
    additional_headers: HeadersLike | None
    """Further header fields of the request; not those that the opening handshake sets itself, nor
    those that tell of a body, such as Content-Length. Default None."""
    user_agent_header: str | None
    """The User-Agent header; None for no such header. Default: creche and its version."""


class ClientOptions(ClientHandshakeOptions, total=False):
    """The options of connect()."""

    ssl: ssl_module.SSLContext | bool | None
    """The TLS context of a wss URI; True or None for one that verifies by the authorities of the
    system, which all connections of the process share. Default None."""
    server_hostname: str | None
    """The name that the server's certificate must have. Default: the URI's host."""
    sock: socket.socket | None
    """A connected socket to use; it belongs to the connection then. Default None."""
    host: str | None
    """Connect to this host instead of the URI's. Default None."""
    port: int | None
    """Connect to this port instead of the URI's. Default None."""
    local_address: str | None
    """The IP address to connect from. Default None."""
    max_redirects: int
    """How often to follow the redirects of servers; 0 for not at all. Default 10."""
    redirects: Literal["same-origin", "any"]
    """Where to follow them: "same-origin" for the URI's own scheme, host and port, and from ws to
    wss on the same host; "any" for other origins, too, which are told nothing of
    `additional_headers`, `origin`, `subprotocols` and the URI's user and password. Default
    "same-origin"."""
    proxy: str | bool | None
    """The URI of a proxy to go through; True for the one that the environment names, if any; None
    or False for none. Default True."""
    proxy_ssl: ssl_module.SSLContext | None
    """The TLS context of an https proxy; None for one that verifies. Default None."""
    proxy_server_hostname: str | None
    """The name that the proxy's certificate must have. Default: its host."""


class ReconnectOptions(ClientOptions, total=False):
    """The options of reconnect() and reconnecting()."""

    initial_delay: float
    """The most seconds before the first attempt to connect again (RFC 6455 7.2.3); each further
    attempt in a row doubles them. How many of them it is, chance says. Default 5."""
    max_delay: float
    """The most seconds that chance may say, and the most that a server may ask for by Retry-After.
    Default 60."""
    stable_after: float
    """Seconds after which a connection has held, and its loss counts as a first one. Default 30."""
    max_attempts: int | None
    """Attempts in a row without a connection that holds; None for any number. Default None."""
    process_exception: ProcessException | None
    """Called with what an attempt has raised; returns None to try again, or what to raise.
    Default: creche.process_exception."""
    on_attempt: OnAttempt | None
    """Called with an Attempt before its delay, sync or async. Default None."""


class ServerHandshakeOptions(ConnectionOptions, total=False):
    """What a server decides in the opening handshake."""

    origins: Origins
    """The origins that are allowed: "same-host", None for every one, or a sequence of str,
    patterns and None (a request without Origin). Default "same-host"."""
    subprotocols: Sequence[str]
    """The supported subprotocols, the preferred first. Default none."""
    select_subprotocol: SelectSubprotocol | None
    """Called with the request and the offered subprotocols, sync or async; returns one or None."""
    process_request: ProcessRequest | None
    """Called with every well-formed request for an allowed host, of any method, sync or async; a
    Response it returns is sent instead of 101. The body of a request is never read."""
    process_response: ProcessResponse | None
    """Called with request and response, sync or async; may return another response."""
    server_header: str | None
    """The Server header; None for no such header. Default: creche and its version."""
    hosts: Hosts
    """The hosts that a client may ask for, against DNS rebinding: names, of which `"*.example.com"`
    means every one below example.com, "loopback" for the names and addresses of loopback, None for
    every host, "auto" for "loopback" where the server listens on loopback only. Default "auto"."""
    trusted_proxies: Sequence[str]
    """Whose Forwarded and X-Forwarded-For headers say who the client is: networks such as
    "10.0.0.0/8", addresses, and "unix" for whoever comes by a Unix socket. Where they do not say
    who it is, it is not known, and counts as the proxy for the limits. Default none."""


class ListenerOptions(ServerHandshakeOptions, total=False):
    """What a server with many connections allows."""

    max_connections: int | None
    """Open connections; further clients get 503. None for as many as there are descriptors.
    Default None."""
    max_handshakes: int | None
    """Opening handshakes in progress; a further one drops the oldest. None for any number.
    Default 500."""
    max_connections_per_client: int | None
    """Open connections of one client, which is an IPv4 address or a /64 network of IPv6; further
    ones get 429. None for any number. Default None."""
    handshake_rate: float | None
    """Opening handshakes a second that one client may ask for, on average over 10 s; further ones
    get 429. None for any number. Default None."""
    max_lifetime: float | None
    """Seconds after which a connection is closed with 1001, less up to 10 % by chance; None for
    never. Default None."""
    max_buffered_bytes: int | None
    """Bytes of memory that all connections together may take for what was received and is to be
    sent; beyond that, the one with the most is ended. None for any number. Default 256 MiB."""


class ServerOptions(ListenerOptions, total=False):
    """The options of serve()."""

    ssl: ssl_module.SSLContext | None
    """The TLS context; None for no TLS. Default None."""
    sockets: Sequence[socket.socket] | None
    """Bound stream sockets to listen on, instead of host and port; they are closed at the end,
    and stay yours where the server is not started. Default
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
    "max_queue": 64,
    "max_queue_bytes": 2**20,
    "write_limit": 2**16,
    "compression": "deflate",
    "extensions": (),
    "max_header_bytes": 2**14,
    "trace": None,
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
    "max_redirects": 10,
    "redirects": "same-origin",
    "proxy": True,
    "proxy_ssl": None,
    "proxy_server_hostname": None,
}

RECONNECT_DEFAULTS: ReconnectOptions = {
    **CLIENT_DEFAULTS,
    "initial_delay": 5,
    "max_delay": 60,
    "stable_after": 30,
    "max_attempts": None,
    "process_exception": None,
    "on_attempt": None,
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
    "trusted_proxies": (),
    "max_connections": None,
    "max_handshakes": 500,
    "max_connections_per_client": None,
    "handshake_rate": None,
    "max_lifetime": None,
    "max_buffered_bytes": 2**28,
    "ssl": None,
    "sockets": None,
    "backlog": 1024,
    "reuse_port": False,
}

# listen() takes an int of C; the kernel has a limit of its own, far below.
_MOST_BACKLOG = 2**31 - 1

# The compiled build counts in words of this size.
_MOST = sys.maxsize

#: What is more is no time that anybody waits for, and at some point no float any more.
MOST_SECONDS = 10**9

# The part of ping_interval and ping_timeout in a stall_timeout, where they are turned off.
_PING_SECONDS = 20.0


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


def client_options(given: Mapping[str, Any]) -> ClientOptions:
    """The options of a client with their defaults.

    Raises:
        TypeError: an option of an unknown name or a wrong type.
        ValueError: an option out of range.
    """
    return cast(ClientOptions, _resolve(dict(CLIENT_DEFAULTS), given))


def reconnect_options(given: Mapping[str, Any]) -> ReconnectOptions:
    """The options of a client that connects again, with their defaults.

    Raises:
        TypeError: an option of an unknown name or a wrong type.
        ValueError: an option out of range, or a socket, which serves once only.
    """
    options = cast(ReconnectOptions, _resolve(dict(RECONNECT_DEFAULTS), given))
    if options["sock"] is not None:
        raise ValueError("sock: a connected socket serves for one connection only")
    headers = given.get("additional_headers")
    if isinstance(headers, Mapping | list):
        # The caller's own: on_attempt may renew a token there, and each attempt checks it anew.
        options["additional_headers"] = headers
    return options


def server_options(given: Mapping[str, Any]) -> ServerOptions:
    """The options of a server with their defaults.

    Raises:
        TypeError: an option of an unknown name or a wrong type.
        ValueError: an option out of range.
    """
    if isinstance(given.get("ssl"), bool):
        raise TypeError("ssl must be an SSLContext with the server's certificate, not a bool")
    return cast(ServerOptions, _resolve(dict(SERVER_DEFAULTS), given))


def _resolve(options: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name not in options and name != "stall_timeout":
            raise TypeError(f"unknown option {name!r}")
        options[name] = check_option(name, value)
    interval, timeout = options["ping_interval"], options["ping_timeout"]
    options.setdefault("stall_timeout", (interval or _PING_SECONDS) + (timeout or _PING_SECONDS))
    extensions = options["extensions"]
    if options["compression"] and all(factory.name != _DEFLATE.name for factory in extensions):
        options["extensions"] = [*extensions, _DEFLATE]
    return options
