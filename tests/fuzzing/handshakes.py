"""Targets that are texts of the opening handshake: requests, answers, URIs, proxies."""

from __future__ import annotations

import re
from typing import Any

from creche.handshake.client import ClientHandshake
from creche.handshake.deflate import PerMessageDeflate
from creche.handshake.exceptions import HandshakeError, Rejection
from creche.handshake.extensions import agree_on, choose_from, parse_extensions
from creche.handshake.forwarding import client_key, find_client
from creche.handshake.headers import Headers
from creche.handshake.proxies import ConnectHandshake, Proxy, parse_proxy
from creche.handshake.redirects import redirected
from creche.handshake.rules import accept_key
from creche.handshake.server import ServerHandshake, offered_subprotocols
from creche.handshake.uri import parse_uri
from fuzzing.choices import pieces

URI = parse_uri("wss://user:password@server.example/path?query")

# What a server has to answer to the key of each client, whatever that is.
ACCEPT = b"<accept>"

SERVERS: list[dict[str, Any]] = [
    {"hosts": ["server.example", "[::1]"]},
    {"hosts": "loopback", "origins": ["https://server.example", re.compile("http://.*"), None]},
    {"origins": None, "max_header_bytes": 1000},
]


def fuzz_request(data: bytes) -> None:
    """A client's request; the first byte says to which server."""
    options = SERVERS[data[0] % len(SERVERS) if data else 0]
    server = ServerHandshake(subprotocols=["chat"], extensions=[PerMessageDeflate()], **options)
    for piece in pieces(data[1:]):
        try:
            request = server.receive_data(piece)
            if request is None:
                continue
            server.check_host(request)
            offered_subprotocols(request)
            find_client("10.0.0.1", request.headers, ["10.0.0.0/8", "unix"])
            request.headers.pack()
            str(request)
            assert len(request.headers) == len(dict(request.headers))
            assert b" 101 " in server.respond(server.accept(request))[:20]
            assert server.trailing_data in data
        except Rejection as refusal:
            str(refusal)
            assert re.match(rb"HTTP/1.1 (4|505)", server.respond(refusal.response))
        return


def fuzz_response(data: bytes) -> None:
    """A server's answer."""
    asks = bool(data) and data[0] % 2 == 1
    client = ClientHandshake(
        URI,
        subprotocols=["chat"],
        extensions=[PerMessageDeflate(server_no_context_takeover=asks)],
        origin="https://x.example",
        additional_headers={"Cookie": "a=b"},
        user_agent_header="fuzz",
    )
    client.request_bytes()
    accept = accept_key(client.request.headers["Sec-WebSocket-Key"]).encode()
    data = data.replace(ACCEPT, accept)
    try:
        for piece in pieces(data):
            response = client.receive_data(piece)
            if response is not None:
                assert response.status == 101
                assert client.trailing_data in data
                return
        client.receive_eof()
    except HandshakeError as exc:
        str(exc)
        response = getattr(exc, "response", None)
        if response is not None:
            str(response)
            try:
                redirected(URI, response)
            except HandshakeError as exc:
                str(exc)


def fuzz_extensions(data: bytes) -> None:
    """The header, as a server and as a client read it."""
    header = data.decode("latin-1")
    try:
        parse_extensions(header)
        choose_from([PerMessageDeflate()], header)
        agree_on([PerMessageDeflate()], header)
    except HandshakeError as exc:
        str(exc)


def fuzz_uri(data: bytes) -> None:
    """URIs of servers and of proxies, and where a redirect leads."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (parse_uri, parse_proxy):
        try:
            str(parse(text))
        except HandshakeError as exc:
            str(exc)


def fuzz_proxy(data: bytes) -> None:
    """What a proxy answers, and what proxies say of a client."""
    handshake = ConnectHandshake(Proxy("http", "proxy.example", 80, "u", "p"), "server.example", 80)
    handshake.request_bytes()
    try:
        for piece in pieces(data):
            if handshake.receive_data(piece):
                break
        else:
            handshake.receive_data(b"")
    except HandshakeError as exc:
        str(exc)
    try:
        headers = Headers(
            [("Forwarded", data.decode("latin-1")), ("X-Forwarded-For", "::1, 1.1.1.1")]
        )
    except ValueError:
        return
    assert repr(headers)
    assert find_client("10.0.0.1", headers, []) == "10.0.0.1"
    assert find_client("11.0.0.1", headers, ["10.0.0.0/8", "unix"]) == "11.0.0.1"
    address = find_client("10.0.0.1", headers, ["10.0.0.0/8"])
    assert address is None or find_client(address, headers, []) == address
    assert client_key("10.0.0.1", headers, ["10.0.0.0/8"]) is not None
