"""WebSockets whose tasks live in a nursery, on Trio and on asyncio.

What this module names is the public API, together with creche.testing. Everything else may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from creche._version import __version__
from creche.app import run
from creche.client.connect import client_websocket, connect, connect_unix
from creche.client.reconnect import Connections, process_exception, reconnect, reconnecting
from creche.connection.broadcast import broadcast
from creche.connection.byte_stream import as_byte_stream
from creche.connection.codec import codec
from creche.connection.foreign_names import unknown_name
from creche.connection.handlers import ConnectionTaskGroup
from creche.connection.streams import ReceiveStream, SendStream
from creche.connection.websocket import WebSocket, discard
from creche.exceptions import (
    ConnectionAlreadyClosed,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    HandshakeError,
    InvalidHeader,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidRedirect,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    PayloadTooBig,
    ProtocolError,
    ProxyError,
    WebSocketError,
)
from creche.handshake.deflate import PerMessageDeflate
from creche.handshake.extensions import ExtensionFactory, Parameters
from creche.handshake.headers import Headers
from creche.handshake.http import Request, Response
from creche.options.declared import (
    Attempt,
    ClientHandshakeOptions,
    ClientOptions,
    ConnectionOptions,
    ListenerOptions,
    ReconnectOptions,
    ServerHandshakeOptions,
    ServerOptions,
)
from creche.protocol.closing import Close
from creche.protocol.extensions import Extension
from creche.protocol.prepared import PreparedMessage
from creche.server.auth import basic_auth
from creche.server.deciding import PendingRequest, deciding
from creche.server.serve import serve, serve_listener, serve_unix, server_websocket, serving
from creche.server.server import Server
from creche.server.stats import ServerStats

if not TYPE_CHECKING:  # for whom every name would exist then

    def __getattr__(name: str) -> object:
        raise unknown_name(name)


__all__ = [
    "Attempt",
    "ClientHandshakeOptions",
    "ClientOptions",
    "Close",
    "ConnectionAlreadyClosed",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "ConnectionOptions",
    "ConnectionTaskGroup",
    "Connections",
    "Extension",
    "ExtensionFactory",
    "HandshakeError",
    "Headers",
    "InvalidHeader",
    "InvalidMessage",
    "InvalidProxy",
    "InvalidProxyStatus",
    "InvalidRedirect",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "ListenerOptions",
    "NegotiationError",
    "Parameters",
    "PayloadTooBig",
    "PendingRequest",
    "PerMessageDeflate",
    "PreparedMessage",
    "ProtocolError",
    "ProxyError",
    "ReceiveStream",
    "ReconnectOptions",
    "Request",
    "Response",
    "SendStream",
    "Server",
    "ServerHandshakeOptions",
    "ServerOptions",
    "ServerStats",
    "WebSocket",
    "WebSocketError",
    "__version__",
    "as_byte_stream",
    "basic_auth",
    "broadcast",
    "client_websocket",
    "codec",
    "connect",
    "connect_unix",
    "deciding",
    "discard",
    "process_exception",
    "reconnect",
    "reconnecting",
    "run",
    "serve",
    "serve_listener",
    "serve_unix",
    "server_websocket",
    "serving",
]
