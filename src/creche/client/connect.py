"""connect(): an address, a transport, the opening handshake, a WebSocket."""

from __future__ import annotations

import os
import ssl as ssl_module
from typing import Unpack

import anyio
from anyio.abc import ByteStream

from creche.client.advice import advising
from creche.client.proxies import find_proxy, open_tunnel
from creche.connection.asking import ask
from creche.connection.pending import PendingConnection
from creche.connection.tracing import call_trace
from creche.connection.websocket import WebSocket
from creche.engine.current import current_engine
from creche.engine.patience import PatientScope
from creche.handshake.addresses import check_unix_path
from creche.handshake.client import ClientHandshake
from creche.handshake.exceptions import InvalidRedirect, InvalidStatus
from creche.handshake.http import Response
from creche.handshake.redirects import is_same_origin, redirected
from creche.handshake.uri import URI, certificate_name, parse_uri
from creche.options.declared import ClientHandshakeOptions, ClientOptions
from creche.options.resolving import client_options
from creche.protocol.states import Side
from creche.transports.authorities import shared_context
from creche.transports.base import Transport
from creche.transports.dialing import (
    add_tls,
    dial_tcp,
    dial_unix,
    open_transport,
)
from creche.transports.streams import StreamTransport, TrioStream


class Way:
    """How a client gets to a server, and where else it may be redirected to."""

    async def open(self, target: URI, options: ClientOptions) -> Transport:
        """A transport that leads there."""
        raise NotImplementedError

    def leads_on(self, base: URI, target: URI) -> bool:
        """Whether it leads from one URI to another, too."""
        raise NotImplementedError


class TCPWay(Way):
    """To the URI's host, or to what the options say instead, through a proxy perhaps.

    Raises:
        ValueError: a proxy beside a connected socket.
    """

    def __init__(self, options: ClientOptions) -> None:
        if options["sock"] is not None and isinstance(options["proxy"], str):
            raise ValueError("proxy: a connected socket goes through none")
        self._options = options

    async def open(self, target: URI, options: ClientOptions) -> Transport:
        host, port = options["host"] or target.host, options["port"] or target.port
        sock = options["sock"]
        proxy = None if sock is not None else find_proxy(options["proxy"], target)
        try:
            context, name = await _tls(target, options)
        except BaseException:
            if sock is not None:
                sock.close()
            raise
        if proxy is not None:
            tunnel = await open_tunnel(
                proxy,
                host,
                port,
                local_address=options["local_address"],
                context=options["proxy_ssl"],
                server_hostname=options["proxy_server_hostname"],
                user_agent_header=options["user_agent_header"],
            )
            with advising():
                return await add_tls(tunnel, context, server_hostname=name) if context else tunnel
        if sock is None:
            sock = await dial_tcp(host, port, local_address=options["local_address"])
        with advising():
            return await open_transport(sock, context, server_hostname=name)

    def leads_on(self, base: URI, target: URI) -> bool:
        options = self._options
        pinned = options["host"] or options["port"] or options["server_hostname"]
        return options["sock"] is None and (not pinned or base.origin == target.origin)


class UnixWay(Way):
    """To a Unix socket, which stands for one origin.

    Raises:
        TypeError, ValueError: no socket can be at this path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_unix_path(path)
        self._path = path

    async def open(self, target: URI, options: ClientOptions) -> Transport:
        context, name = await _tls(target, options)
        sock = await dial_unix(self._path)
        with advising():
            return await open_transport(sock, context, server_hostname=name)

    def leads_on(self, base: URI, target: URI) -> bool:
        return base.origin == target.origin


class StreamWay(Way):
    """By a stream that is connected already."""

    def __init__(self, stream: ByteStream | TrioStream) -> None:
        self._stream = stream

    async def open(self, _target: URI, _options: ClientOptions) -> Transport:
        return StreamTransport(self._stream)

    def leads_on(self, _base: URI, _target: URI) -> bool:
        return False  # the stream is used up


class _PendingClient(PendingConnection):
    def __init__(self, uri: str, options: ClientOptions, way: Way) -> None:
        self._target = check_target(uri, options)
        self._options = options
        self._way = way

    async def _open(self) -> WebSocket:
        return await open_websocket(self._target, self._options, self._way)


class connect(_PendingClient):
    """Connect to a WebSocket server, as an async context manager, or by awaiting it.

    `async with connect(uri) as ws` closes the connection at the end: with 1000, with 1011 if the
    body raises, with 1001 if it is cancelled. What the body raises leaves it as the very same
    object. `ws = await connect(uri)` leaves it open until somebody calls `ws.aclose()`, in any task
    of the event loop.

    Args:
        uri: a ws or wss URI (RFC 6455 3). A user and password in it become an Authorization
            header.
        options: see ClientOptions.

    Raises:
        InvalidURI: `uri` is not one of a WebSocket.
        TypeError, ValueError: an option is not what it should be; its name is in the text.
        OSError: the host is unknown, nobody listens, or TLS fails (ssl.SSLError).
        HandshakeError: the server answered, but not as a WebSocket server; InvalidRedirect if it
            redirected us where we do not go.
        ProxyError: the proxy did not connect us.
        TimeoutError: all this took longer than `open_timeout`.
    """

    def __init__(self, uri: str, **options: Unpack[ClientOptions]) -> None:
        settings = client_options(options)
        super().__init__(uri, settings, TCPWay(settings))


class connect_unix(_PendingClient):
    """Connect over a Unix socket; otherwise as connect().

    Args:
        path: where the server listens.
        uri: what to tell it in the opening handshake; wss for TLS.
        options: see ClientOptions.

    Raises:
        OSError: nobody listens there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        uri: str = "ws://localhost/",
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__(uri, client_options(options), UnixWay(path))


class client_websocket(_PendingClient):
    """Open a WebSocket as the client over a byte stream that is connected already.

    Args:
        stream: an anyio.abc.ByteStream or a trio.abc.Stream; it is closed at the end.
        uri: what to tell the server; TLS is the stream's affair.
        options: see ClientHandshakeOptions.

    Raises:
        InvalidURI, TypeError, ValueError, HandshakeError, OSError, TimeoutError: as connect().
    """

    def __init__(
        self, stream: ByteStream | TrioStream, uri: str, **options: Unpack[ClientHandshakeOptions]
    ) -> None:
        super().__init__(uri, client_options(options), StreamWay(stream))


def check_target(uri: str, options: ClientOptions) -> URI:
    """What to connect to, if that is possible at all.

    Raises:
        InvalidURI, TypeError, ValueError: as connect().
    """
    target = parse_uri(uri)
    _handshake(target, options)
    if not target.secure and options["ssl"]:
        raise ValueError("ssl: a ws URI does not use TLS; use wss")
    if target.secure and options["ssl"] is False:
        raise ValueError("ssl: a wss URI needs TLS; use ws, or a context that does not verify")
    return target


async def open_websocket(target: URI, options: ClientOptions, way: Way) -> WebSocket:
    """A new connection, which is to be closed."""
    logger, trace = options["logger"], options["trace"]
    call_trace(trace, logger, "connection.open.started", host=target.host, port=target.port)
    try:
        ws = await _open_websocket(target, options, way)
    except BaseException as exc:
        call_trace(trace, logger, "connection.open.failed", exception=exc)
        raise
    call_trace(trace, logger, "connection.open.complete", websocket=ws)
    return ws


async def _open_websocket(target: URI, options: ClientOptions, way: Way) -> WebSocket:
    seconds = options["open_timeout"]
    engine = current_engine()
    with PatientScope(engine, seconds) as scope:
        transport, handshake, response = await _open(target, options, way)
    if scope.expired:
        raise TimeoutError(f"opening the connection to {target.host} took over {seconds:g} s")
    try:
        return WebSocket(
            transport,
            engine.clients,
            Side.CLIENT,
            options,
            request=handshake.request,
            response=response,
            subprotocol=handshake.subprotocol,
            extensions=handshake.extensions,
            early_data=handshake.trailing_data,
        )
    except BaseException:
        transport.abort()
        raise


async def _open(
    target: URI, options: ClientOptions, way: Way
) -> tuple[Transport, ClientHandshake, Response]:
    """A transport after the opening handshake, wherever the server has redirected us to."""
    left = options["max_redirects"]
    while True:
        handshake = _handshake(target, options)
        transport = await way.open(target, options)
        try:
            return transport, handshake, await ask(transport, handshake)
        except BaseException as exc:
            with anyio.CancelScope(shield=True):
                await transport.aclose_forcefully()
            if not isinstance(exc, InvalidStatus) or not options["max_redirects"]:
                raise
            refusal = exc.response
            following = redirected(target, refusal)
            if following is None:
                raise
        if not left:
            why = f"more often than max_redirects={options['max_redirects']} times"
            raise InvalidRedirect(refusal, why)
        if not way.leads_on(target, following):
            why = f"to {following.host_header}, but this client is bound to a host"
            raise InvalidRedirect(refusal, why)
        if not is_same_origin(target, following):
            if options["redirects"] == "same-origin":
                scheme = "wss" if following.secure else "ws"
                why = f"to another origin, {scheme}://{following.host_header}"
                raise InvalidRedirect(refusal, f'{why}; redirects="any" would follow it')
            options = _for_strangers(options)
        left -= 1
        target = following


def _for_strangers(options: ClientOptions) -> ClientOptions:
    """The options for an origin that the application has not asked for: it is told nothing that the
    application has added, all of which may be a credential. User and password went with the URI."""
    return {**options, "additional_headers": None, "origin": None, "subprotocols": ()}


def _handshake(target: URI, options: ClientOptions) -> ClientHandshake:
    return ClientHandshake(
        target,
        origin=options["origin"],
        subprotocols=options["subprotocols"],
        require_subprotocol=options["require_subprotocol"],
        extensions=options["extensions"],
        additional_headers=options["additional_headers"],
        user_agent_header=options["user_agent_header"],
        max_header_bytes=options["max_header_bytes"],
    )


async def _tls(
    target: URI, options: ClientOptions
) -> tuple[ssl_module.SSLContext | None, str | None]:
    """The context and the server's name; None and None for a connection without TLS."""
    if not target.secure:
        return None, None
    given = options["ssl"]
    context = given if isinstance(given, ssl_module.SSLContext) else await shared_context()
    return context, options["server_hostname"] or certificate_name(target.host)
