"""WebSockets whose tasks live in a nursery, on Trio and on asyncio.

What this module names is the public API, together with creche.testing. Everything else may change.
"""

from __future__ import annotations

from creche._version import __version__
from creche.auth import basic_auth
from creche.broadcast import broadcast
from creche.byte_stream import as_byte_stream
from creche.client import client_websocket, connect, connect_unix
from creche.codec import codec
from creche.deciding import PendingRequest, deciding
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
from creche.handlers import ConnectionTaskGroup
from creche.options import (
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
from creche.protocol.deflate import PerMessageDeflate
from creche.protocol.extensions import Extension, ExtensionFactory, Parameters
from creche.protocol.headers import Headers
from creche.protocol.http import Request, Response
from creche.protocol.prepared import PreparedMessage
from creche.reconnect import Connections, process_exception, reconnect, reconnecting
from creche.server import (
    Server,
    ServerStats,
    serve,
    serve_listener,
    serve_unix,
    server_websocket,
    serving,
)
from creche.streams import ReceiveStream, SendStream
from creche.websocket import WebSocket, discard

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
    "serve",
    "serve_listener",
    "serve_unix",
    "server_websocket",
    "serving",
]
