"""What is in force: the options that are given, checked, and defaults for the others."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

from creche._version import __version__
from creche.handshake.deflate import PerMessageDeflate
from creche.options.checks import check_option
from creche.options.declared import (
    ClientOptions,
    ConnectionOptions,
    ReconnectOptions,
    ServerOptions,
)
from creche.options.hints import unknown_option

_DEFLATE = PerMessageDeflate()

_USER_AGENT = f"creche/{__version__}"

CONNECTION_DEFAULTS: ConnectionOptions = {
    "open_timeout": 10,
    "close_timeout": 10,
    "linger_timeout": 120,
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
    "require_subprotocol": False,
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
    "require_subprotocol": False,
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

# The part of ping_interval and ping_timeout in a stall_timeout, where they are turned off.
_PING_SECONDS = 20.0


def client_options(given: Mapping[str, Any]) -> ClientOptions:
    """The options of a client with their defaults.

    Raises:
        TypeError: an option of an unknown name or a wrong type.
        ValueError: an option out of range, or a required subprotocol where none is offered.
    """
    options = cast(ClientOptions, _resolve(dict(CLIENT_DEFAULTS), given))
    _check_subprotocols(options)
    return options


def _check_subprotocols(options: ClientOptions | ServerOptions) -> None:
    if options["require_subprotocol"] and not options["subprotocols"]:
        raise ValueError("require_subprotocol: there is none to require; say which in subprotocols")


def reconnect_options(given: Mapping[str, Any]) -> ReconnectOptions:
    """The options of a client that connects again, with their defaults.

    Raises:
        TypeError: an option of an unknown name or a wrong type.
        ValueError: an option out of range, or a socket, which serves once only.
    """
    options = cast(ReconnectOptions, _resolve(dict(RECONNECT_DEFAULTS), given))
    _check_subprotocols(options)
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
        ValueError: an option out of range, or a required subprotocol where none is supported.
    """
    if isinstance(given.get("ssl"), bool):
        raise TypeError("ssl must be an SSLContext with the server's certificate, not a bool")
    options = cast(ServerOptions, _resolve(dict(SERVER_DEFAULTS), given))
    if options["select_subprotocol"] is None:
        _check_subprotocols(options)
    return options


def _resolve(options: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in given.items():
        if name not in options and name != "stall_timeout":
            raise unknown_option(name, [*options, "stall_timeout"])
        options[name] = check_option(name, value)
    interval, timeout = options["ping_interval"], options["ping_timeout"]
    options.setdefault("stall_timeout", (interval or _PING_SECONDS) + (timeout or _PING_SECONDS))
    extensions = options["extensions"]
    if options["compression"] and all(factory.name != _DEFLATE.name for factory in extensions):
        options["extensions"] = [*extensions, _DEFLATE]
    return options
