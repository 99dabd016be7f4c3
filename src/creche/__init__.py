"""WebSockets whose tasks live in a nursery, on Trio and on asyncio.

What this module names is the public API, together with creche.testing. Everything else may change.
"""

from __future__ import annotations

from creche._version import __version__
from creche.broadcast import broadcast
from creche.client import client_websocket, connect, connect_unix
from creche.codec import codec
from creche.exceptions import (
    ConnectionAlreadyClosed,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    HandshakeError,
    InvalidHeader,
    InvalidMessage,
    InvalidStatus,
    InvalidUpgrade,
    InvalidURI,
    NegotiationError,
    PayloadTooBig,
    ProtocolError,
    WebSocketError,
)
from creche.handlers import ConnectionTaskGroup
from creche.options import (
    ClientHandshakeOptions,
    ClientOptions,
    ConnectionOptions,
    ListenerOptions,
    ServerHandshakeOptions,
    ServerOptions,
)
from creche.protocol.closing import Close
from creche.protocol.deflate import PerMessageDeflate
from creche.protocol.extensions import Extension, ExtensionFactory, Parameters
from creche.protocol.headers import Headers
from creche.protocol.http import Request, Response
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
    "ClientHandshakeOptions",
    "ClientOptions",
    "Close",
    "ConnectionAlreadyClosed",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "ConnectionOptions",
    "ConnectionTaskGroup",
    "Extension",
    "ExtensionFactory",
    "HandshakeError",
    "Headers",
    "InvalidHeader",
    "InvalidMessage",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "ListenerOptions",
    "NegotiationError",
    "Parameters",
    "PayloadTooBig",
    "PerMessageDeflate",
    "ProtocolError",
    "ReceiveStream",
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
    "broadcast",
    "client_websocket",
    "codec",
    "connect",
    "connect_unix",
    "discard",
    "serve",
    "serve_listener",
    "serve_unix",
    "server_websocket",
    "serving",
]
