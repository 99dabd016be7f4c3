"""The options of connect() and serve(), declared once.

They are TypedDicts, so that editors and type checkers know the keyword arguments.
"""

from __future__ import annotations

import logging
import socket
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from creche.handshake.extensions import ExtensionFactory
from creche.handshake.headers import HeadersLike
from creche.handshake.http import Request, Response
from creche.handshake.server import (
    Hosts,
    Origins,
)

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
    """Seconds that the closing handshake may take without the peer taking bytes. Default 10."""
    linger_timeout: float
    """Seconds that it may take in all, however steadily the peer takes bytes. Default 120."""
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
    extensions: Sequence[ExtensionFactory] | None
    """Extensions to negotiate, the preferred first; None for none. A PerMessageDeflate stands for
    `compression`. Default none."""
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
    subprotocols: Sequence[str] | None
    """The subprotocols to offer, the preferred first; None for none. Default none."""
    require_subprotocol: bool
    """Whether the opening handshake fails with NegotiationError where the server chooses none of
    them (RFC 6455 4.1 lets it). Default False."""
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
    subprotocols: Sequence[str] | None
    """The supported subprotocols, the preferred first; None for none. Default none."""
    require_subprotocol: bool
    """Whether a client for which none of them is chosen is refused with 400. Default False."""
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
