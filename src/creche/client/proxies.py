"""Connecting through a proxy: HTTP CONNECT, over TLS or not, and SOCKS by python-socks."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from importlib import import_module
from typing import Any
from urllib.request import getproxies, getproxies_environment, proxy_bypass

from anyio.lowlevel import current_token

from creche.client.advice import add_advice
from creche.connection.asking import say
from creche.handshake.exceptions import InvalidProxy, ProxyError
from creche.handshake.proxies import ConnectHandshake, Proxy, bypasses, parse_proxy, scheme_advice
from creche.handshake.uri import URI, certificate_name, without_zone
from creche.transports.authorities import shared_context
from creche.transports.dialing import NotTLS, dial_tcp, open_transport
from creche.transports.resolving import socket_address
from creche.transports.sockets import SocketTransport, named_error

# Where the environment (or the system's settings) names a proxy, by the URI's scheme: that for
# WebSockets first, then SOCKS, which RFC 6455 4.1 prefers, then those for HTTP.
_FROM_ENVIRONMENT = {
    True: ("wss", "socks", "https", "all"),
    False: ("ws", "socks", "https", "http", "all"),
}

_MISSING = "connecting through a SOCKS proxy needs python-socks: pip install creche[proxy]"

# What python-socks says where the first byte is none of SOCKS, and where nothing comes: everything
# else is the word of a SOCKS proxy.
_NOT_SOCKS = (" version", "closed unexpectedly")


def _ways_to_write(host: str) -> list[str]:
    """A host as it was given, and the address that a resolver reads it as, such as "127.1"."""
    try:
        return [host, socket.inet_ntoa(socket.inet_aton(host))]
    except OSError:
        return [host]


def find_proxy(proxy: str | bool | None, target: URI) -> Proxy | None:
    """The proxy that leads to a target, by the option `proxy`.

    Raises:
        InvalidProxy: its URI cannot be used; a variable of the environment is named.
    """
    if isinstance(proxy, str):
        return parse_proxy(proxy)
    if not proxy:
        return None
    known = getproxies()
    no_proxy = known.get("no", "")
    if any(bypasses(no_proxy, host, target.port) for host in _ways_to_write(target.host)):
        return None
    if not getproxies_environment() and proxy_bypass(f"{target.host}:{target.port}"):
        return None  # by the system's settings
    for name in _FROM_ENVIRONMENT[target.secure]:
        uri = known.get(name, "").strip()
        if uri:
            if "://" not in uri:
                uri = f"http://{uri}"
            # Systems name a SOCKS proxy as if it were one of HTTP.
            if name == "socks" and uri.lower().startswith("http://"):
                uri = "socks5h" + uri[4:]
            try:
                return parse_proxy(uri)
            except InvalidProxy as exc:
                raise InvalidProxy(f"{_source(name)}: {exc}") from None
    return None


def _source(name: str) -> str:
    """Where the URI of a proxy is from, for somebody who is to mend it."""
    wanted = f"{name}_proxy"
    # Of several, urllib prefers the one in small letters.
    named = [key for key in os.environ if key.lower() == wanted]
    if not named:
        return "the system's settings of proxies"
    return f"the environment variable {max(named)}"


async def open_tunnel(
    proxy: Proxy,
    host: str,
    port: int,
    *,
    local_address: str | None,
    context: ssl.SSLContext | None,
    server_hostname: str | None,
    user_agent_header: str | None,
) -> SocketTransport:
    """A transport that leads to a host through a proxy.

    Args:
        proxy: the proxy.
        host: the host.
        port: its TCP port.
        local_address: the address to connect from.
        context: the TLS context for the proxy; None for one that verifies.
        server_hostname: the name that the proxy's certificate must have; None for its host.
        user_agent_header: what it is told of the client.

    Raises:
        ProxyError: the proxy refuses, fails, or needs what is not installed.
        OSError: it cannot be reached.
    """
    host = without_zone(host)  # it would be one of ours
    if proxy.is_socks:
        return await open_transport(await _dial_socks(proxy, host, port, local_address), None)
    name = None
    if proxy.scheme == "https":
        context = context or await shared_context()
        name = server_hostname or certificate_name(proxy.host)
    else:
        context = None
    sock = await dial_tcp(proxy.host, proxy.port, local_address=local_address)
    transport = await _open_proxy(sock, context, name)
    try:
        handshake = ConnectHandshake(proxy, host, port, user_agent_header=user_agent_header)
        await say(transport, handshake.request_bytes())
        while not handshake.receive_data(await _answer(transport)):
            pass
    except BaseException:
        transport.close()
        raise
    return transport


async def _open_proxy(
    sock: socket.socket, context: ssl.SSLContext | None, name: str | None
) -> SocketTransport:
    """The transport that leads to a proxy.

    Raises:
        ProxyError: it does not speak TLS, or does not go on with it.
        OSError: another failure of TLS, such as a certificate that is not trusted.
    """
    try:
        return await open_transport(sock, context, server_hostname=name)
    except NotTLS as exc:
        raise ProxyError(f"the proxy {exc.why}{scheme_advice(exc.protocol)}") from None
    except ssl.SSLCertVerificationError as exc:
        add_advice(exc, "proxy_")
        raise
    except (ssl.SSLEOFError, ConnectionError):
        # As those do that do not understand how TLS begins.
        why = "the proxy closed the connection during the TLS handshake"
        raise ProxyError(f"{why}; if it does not speak TLS, say http:// or socks5h://") from None


async def _answer(transport: SocketTransport) -> bytes:
    try:
        return await transport.receive()
    except OSError as exc:
        raise named_error(exc, "the proxy broke the connection off before it answered") from None


async def _dial_socks(
    proxy: Proxy, host: str, port: int, local_address: str | None
) -> socket.socket:
    try:
        import python_socks

        on_asyncio = isinstance(current_token().native_token, asyncio.AbstractEventLoop)
        backend = import_module("python_socks.async_." + ("asyncio" if on_asyncio else "trio"))
    except ImportError:
        raise InvalidProxy(_MISSING) from None
    socks4 = proxy.scheme in ("socks4", "socks4a")
    version = python_socks.ProxyType.SOCKS4 if socks4 else python_socks.ProxyType.SOCKS5
    connector = backend.Proxy(
        version, proxy.host, proxy.port, proxy.user, proxy.password, rdns=proxy.resolves
    )
    address = None if local_address is None else socket_address((local_address, 0))
    try:
        # `open_timeout` bounds it.
        sock: Any = await connector.connect(host, port, timeout=10**6, local_addr=address)
    except python_socks.ProxyError as exc:
        text = str(exc)
        if any(words in text for words in _NOT_SOCKS):
            text += "; if it speaks HTTP, say http:// or https://"
        raise ProxyError(f"the SOCKS proxy did not connect us: {text}") from exc
    return sock if isinstance(sock, socket.socket) else socket.socket(fileno=sock.detach())
