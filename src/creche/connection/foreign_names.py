"""What other libraries call the members of a connection, and what they are here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NoReturn, TypeVar

from creche.options.hints import LEAVE_OUT, told

T = TypeVar("T")

# websockets, trio-websocket, Starlette, aiohttp, httpx-ws, wsproto and picows.
_NAMES: Mapping[str, str] = {
    "accept": "deciding(), whose handlers accept or reject a request",
    "client": "remote_address",
    "close": "aclose(code, reason)",
    "closed": "state, which is 'closed' then",
    "connected": "state, which is 'open' then",
    "cookies": "request.headers",
    "disconnect": "aclose(code, reason)",
    "drain": "flush()",
    "exception": "what receive() and send() raise",
    "get_message": "receive()",
    "headers": "request.headers",
    "host": "remote_address",
    "iter_bytes": "'async for message in ws'",
    "iter_json": "'async for message in ws', or codec()",
    "iter_text": "'async for message in ws'",
    "keepalive": "the options ping_interval and ping_timeout",
    "local": "local_address",
    "loop": LEAVE_OUT + "a connection belongs to the event loop that it was opened in",
    "messages": "'async for message in ws'",
    "open": "state, which is 'open' then",
    "path": "request.path",
    "port": "remote_address",
    "protocol": "subprotocol",
    "query_params": "request.path, or what a router gives",
    "read_message": "receive()",
    "receive_bytes": "receive()",
    "receive_json": "json.loads(await ws.receive()), or codec()",
    "receive_str": "receive()",
    "receive_text": "receive()",
    "recv": "receive()",
    "recv_streaming": "receive_stream()",
    "remote": "remote_address",
    "request_headers": "request.headers",
    "response_headers": "response.headers",
    "send_bytes": "send()",
    "send_json": "send(json.dumps(data)), or codec()",
    "send_message": "send()",
    "send_str": "send()",
    "send_text": "send()",
    "transport": "extra(), which tells of the socket and of TLS",
    "url": "request.path and request.headers['Host']",
    "wait_close": "wait_closed()",
    "wait_disconnected": "wait_closed()",
    "write_message": "send()",
}


# The same of their modules.
_MODULE_NAMES: Mapping[str, str] = {
    "AbortHandshake": "process_request, which returns a Response",
    "ClientConnection": "WebSocket",
    "ConnectionRejected": "InvalidStatus",
    "ConnectionTimeout": "TimeoutError",
    "HandshakeException": "HandshakeError",
    "InvalidHandshake": "HandshakeError",
    "InvalidStatusCode": "InvalidStatus",
    "PayloadTooBigError": "PayloadTooBig",
    "ServerConnection": "WebSocket",
    "WSMsgType": "str for a text message and bytes for a binary one",
    "WebSocketApp": "connect() or reconnect()",
    "WebSocketClientProtocol": "WebSocket",
    "WebSocketConnection": "WebSocket",
    "WebSocketDisconnect": "ConnectionClosed",
    "WebSocketException": "WebSocketError",
    "WebSocketServer": "Server",
    "WebSocketServerProtocol": "WebSocket",
    "aconnect_ws": "connect()",
    "broadcast_message": "broadcast()",
    "connect_websocket": "client_websocket()",
    "connect_websocket_url": "connect(), which may be awaited",
    "create_connection": "connect()",
    "open_websocket": "connect()",
    "open_websocket_url": "connect()",
    "route": "creche.router",
    "serve_websocket": "serve()",
    "start_server": "serve()",
    "unix_connect": "connect_unix()",
    "unix_serve": "serve_unix()",
    "ws_connect": "connect()",
    "wrap_client_stream": "client_websocket()",
    "wrap_server_stream": "server_websocket()",
}


def unknown_name(name: str) -> AttributeError:
    """The error for a name that the package does not have."""
    meant = _MODULE_NAMES.get(name)
    return AttributeError(
        f"module 'creche' has no {name!r}" + (f": {told(meant)}" if meant else "")
    )


class ForeignName:
    """A member that there is not, which says what it is here.

    A `__getattr__` would do the same, and would make each look at any member slower.
    """

    def __init__(self, name: str, meant: str) -> None:
        self._name = name
        self._meant = meant

    def __get__(self, owner: object, kind: type) -> NoReturn:
        text = f"{kind.__name__} has no {self._name!r}: {told(self._meant)}"
        raise AttributeError(text, name=None, obj=None)  # or Python would add names that are alike


def explain_names(kind: type[T]) -> type[T]:
    """Let a class explain the names of others; a decorator."""
    for name, meant in _NAMES.items():
        assert not hasattr(kind, name)
        setattr(kind, name, ForeignName(name, meant))
    return kind


def own_names(names: Iterable[str]) -> list[str]:
    """Those that are not of others."""
    return [name for name in names if name not in _NAMES]
