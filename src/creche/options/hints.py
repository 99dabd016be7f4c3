"""Hints: what a name that is not known here is called instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

# What stands before the reason why there is no such thing.
LEAVE_OUT = "leave it out, since "

# Options of websockets, trio-websocket, aiohttp, httpx-ws and picows, and what they are here.
_OPTIONS: Mapping[str, str] = {
    "additional_response_headers": "process_response, which may add to the response's headers",
    "autoping": LEAVE_OUT + "pings are answered",
    "compression_level": "extensions=[PerMessageDeflate(level=...)]",
    "connect_timeout": "open_timeout",
    "create_connection": LEAVE_OUT + "handlers get a WebSocket",
    "create_protocol": LEAVE_OUT + "handlers get a WebSocket",
    "disconnect_timeout": "close_timeout",
    "extra_headers": "additional_headers for a client, process_response for a server",
    "headers": "additional_headers",
    "heartbeat": "ping_interval and ping_timeout",
    "keepalive_ping_interval_seconds": "ping_interval",
    "keepalive_ping_timeout_seconds": "ping_timeout",
    "klass": LEAVE_OUT + "handlers get a WebSocket",
    "local_addr": "local_address, an IP address",
    "loop": LEAVE_OUT + "the event loop that runs is used",
    "max_message_size": "max_size",
    "max_message_size_bytes": "max_size",
    "max_msg_size": "max_size",
    "message_queue_size": "max_queue",
    "protocols": "subprotocols",
    "queue_size": "max_queue",
    "read_limit": "max_queue_bytes",
    "receive_timeout": LEAVE_OUT + "put receive() into anyio.fail_after()",
    "response_headers": "process_response, which may add to the response's headers",
    "sec_websocket_protocol": "subprotocols",
    "ssl_context": "ssl",
    "start_serving": LEAVE_OUT + "serve() and serving() begin at once",
    "timeout": "open_timeout or close_timeout; put anything else into anyio.fail_after()",
    "unix": "connect_unix() or serve_unix()",
    "user_agent": "user_agent_header",
    "websocket_handshake_timeout": "open_timeout",
    "write_buffer_size": "write_limit",
}

# Of what is alike there, so much must be the same.
_CUTOFF = 0.7


def unknown_option(name: str, known: Iterable[str]) -> TypeError:
    """The error for an option that does not exist, which says what may have been meant."""
    meant = _OPTIONS.get(name)
    if meant is None:
        nearest = get_close_matches(name, list(known), 1, _CUTOFF)
        meant = nearest[0] if nearest else None
        return TypeError(f"unknown option {name!r}" + (f": is it {meant!r}?" if meant else ""))
    return TypeError(f"unknown option {name!r}: {told(meant)}")


def told(meant: str) -> str:
    """What to do instead, after the name of what is not there."""
    return meant if meant.startswith(LEAVE_OUT) else f"here it is {meant}"
