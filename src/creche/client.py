"""connect(): an address, a transport, the opening handshake, a WebSocket."""

from __future__ import annotations

import os
import socket
import ssl as ssl_module
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Unpack

import anyio
from anyio.abc import ByteStream

from creche.background import Background
from creche.opening import ask
from creche.options import ClientHandshakeOptions, ClientOptions, client_options
from creche.protocol.client_handshake import ClientHandshake
from creche.protocol.states import Side
from creche.protocol.uri import URI, parse_uri
from creche.transports.base import Transport
from creche.transports.dialing import client_context, dial_tcp, dial_unix, open_transport
from creche.transports.streams import StreamTransport, TrioStream
from creche.websocket import WebSocket

_Open = Callable[[URI, ClientOptions], Awaitable[Transport]]


@asynccontextmanager
async def connect(uri: str, **options: Unpack[ClientOptions]) -> AsyncIterator[WebSocket]:
    """Connect to a WebSocket server, as an async context manager.

    Leaving it closes the connection: with 1000, with 1011 if the body raises, with 1001 if it is
    cancelled. What the body raises leaves it as the very same object.

    Args:
        uri: a ws or wss URI (RFC 6455 3). A user and password in it become an Authorization
            header.
        options: see ClientOptions.

    Raises:
        InvalidURI: `uri` is not one of a WebSocket.
        TypeError, ValueError: an option is not what it should be; its name is in the text.
        OSError: the host is unknown, nobody listens, or TLS fails (ssl.SSLError).
        HandshakeError: the server answered, but not as a WebSocket server.
        TimeoutError: all this took longer than `open_timeout`.
    """
    async with _connected(uri, client_options(options), _open_tcp) as ws:
        yield ws


@asynccontextmanager
async def connect_unix(
    path: str | os.PathLike[str], uri: str = "ws://localhost/", **options: Unpack[ClientOptions]
) -> AsyncIterator[WebSocket]:
    """Connect over a Unix socket; otherwise as connect().

    Args:
        path: where the server listens.
        uri: what to tell it in the opening handshake; wss for TLS.
        options: see ClientOptions.

    Raises:
        OSError: nobody listens there.
    """

    async def open_unix(target: URI, settings: ClientOptions) -> Transport:
        return await _secure(await dial_unix(path), target, settings)

    async with _connected(uri, client_options(options), open_unix) as ws:
        yield ws


@asynccontextmanager
async def client_websocket(
    stream: ByteStream | TrioStream, uri: str, **options: Unpack[ClientHandshakeOptions]
) -> AsyncIterator[WebSocket]:
    """Open a WebSocket as the client over a byte stream that is connected already.

    Args:
        stream: an anyio.abc.ByteStream or a trio.abc.Stream; it is closed at the end.
        uri: what to tell the server; TLS is the stream's affair.
        options: see ClientHandshakeOptions.

    Raises:
        InvalidURI, TypeError, ValueError, HandshakeError, OSError, TimeoutError: as connect().
    """

    async def open_stream(_target: URI, _settings: ClientOptions) -> Transport:
        return StreamTransport(stream)

    async with _connected(uri, client_options(options), open_stream) as ws:
        yield ws


@asynccontextmanager
async def _connected(
    uri: str, options: ClientOptions, open_transport_to: _Open
) -> AsyncIterator[WebSocket]:
    target = parse_uri(uri)
    handshake = ClientHandshake(
        target,
        origin=options["origin"],
        subprotocols=options["subprotocols"],
        extensions=options["extensions"],
        additional_headers=options["additional_headers"],
        user_agent_header=options["user_agent_header"],
        max_header_bytes=options["max_header_bytes"],
    )
    _check_tls(target, options)
    async with Background() as background:
        seconds = options["open_timeout"]
        with anyio.move_on_after(seconds) as scope:
            transport = await open_transport_to(target, options)
            try:
                response = await ask(transport, handshake)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await transport.aclose_forcefully()
                raise
        if scope.cancelled_caught:
            raise TimeoutError(f"opening the connection to {target.host} took over {seconds:g} s")
        async with WebSocket(
            transport,
            background,
            Side.CLIENT,
            options,
            request=handshake.request,
            response=response,
            subprotocol=handshake.subprotocol,
            extensions=handshake.extensions,
            early_data=handshake.trailing_data,
        ) as ws:
            yield ws


def _check_tls(target: URI, options: ClientOptions) -> None:
    if not target.secure and options["ssl"]:
        raise ValueError("ssl: a ws URI does not use TLS; use wss")
    if target.secure and options["ssl"] is False:
        raise ValueError("ssl: a wss URI needs TLS; use ws, or a context that does not verify")


async def _open_tcp(target: URI, options: ClientOptions) -> Transport:
    sock = options["sock"]
    if sock is None:
        sock = await dial_tcp(
            options["host"] or target.host,
            options["port"] or target.port,
            local_address=options["local_address"],
        )
    return await _secure(sock, target, options)


async def _secure(sock: socket.socket, target: URI, options: ClientOptions) -> Transport:
    context: ssl_module.SSLContext | None = None
    if target.secure:
        given = options["ssl"]
        context = given if isinstance(given, ssl_module.SSLContext) else client_context()
    return await open_transport(
        sock,
        context,
        server_hostname=(options["server_hostname"] or target.host) if context else None,
    )
