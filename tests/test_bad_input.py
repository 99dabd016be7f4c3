"""Bad input: one table of what is given, the exception's class, and what its text names.

Afterwards there are as many tasks and descriptors as before.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from werkzeug.routing import Map

import creche.router
from creche.testing import memory_byte_pair
from support import count_descriptors, count_tasks, echo, free_port, settle, until

pytestmark = pytest.mark.anyio


@dataclass
class Peers:
    """What there is to connect to."""

    url: str  # a creche server
    answers_200: str
    bad_accept: str
    closed: str


def port(peers: Peers) -> int:
    return int(peers.url.rsplit(":", 1)[1][:-1])


async def opening(uri: Any, **options: Any) -> None:
    async with creche.connect(uri, **options):
        raise AssertionError("it should not be opened")


async def opening_unix(path: Any) -> None:
    async with creche.connect_unix(path):
        raise AssertionError("it should not be opened")


async def using(url: str, use: Callable[[creche.WebSocket], Awaitable[Any]]) -> None:
    async with creche.connect(url) as ws:
        await use(ws)


Case = Callable[[Peers], Awaitable[Any]]

CASES: dict[str, tuple[Case, type[BaseException], str]] = {
    "http URI": (lambda p: opening("http://localhost/"), creche.InvalidURI, "uri 'http://"),
    "fragment": (lambda p: opening("ws://localhost/#x"), creche.InvalidURI, "uri .*fragment"),
    "bytes URI": (lambda p: opening(b"ws://localhost/"), TypeError, "uri must be a str"),
    "unknown host": (
        lambda p: opening("ws://no-such-host.invalid/"),
        OSError,
        "no-such-host.invalid",
    ),
    "closed port": (lambda p: opening(p.closed), ConnectionRefusedError, "port [0-9]+"),
    "TLS to a plain port": (
        lambda p: opening(p.url.replace("ws://", "wss://")),
        ssl.SSLError,
        "(?i)wrong.version.number|record",
    ),
    "answers 200": (lambda p: opening(p.answers_200), creche.InvalidStatus, "answered 200"),
    "bad accept": (
        lambda p: opening(p.bad_accept),
        creche.InvalidHeader,
        "Sec-WebSocket-Accept header .* does not match",
    ),
    "subprotocols as str": (
        lambda p: opening(p.url, subprotocols="chat"),
        TypeError,
        "subprotocols must be a sequence of str, not a str",
    ),
    "close code 1005": (
        lambda p: using(p.url, lambda ws: ws.aclose(1005)),
        ValueError,
        "code 1005 may not be sent",
    ),
    "reason of 124 bytes": (
        lambda p: using(p.url, lambda ws: ws.aclose(1000, "x" * 124)),
        ValueError,
        "reason is 124 bytes long",
    ),
    "send(123)": (
        lambda p: using(p.url, lambda ws: ws.send(123)),  # type: ignore[arg-type]
        TypeError,
        "message must be str or bytes-like, not int",
    ),
    "CRLF in a header": (
        lambda p: opening(p.url, additional_headers={"X-A": "a\r\nX-B: b"}),
        ValueError,
        "header X-A has a value with forbidden characters",
    ),
    "CRLF in the origin": (
        lambda p: opening(p.url, origin="http://x\r\nX-B: b"),
        ValueError,
        "header origin has a value with forbidden characters",
    ),
    "CRLF in the URI": (
        lambda p: opening("ws://localhost/\r\nX-B: b"),
        creche.InvalidURI,
        "control character",
    ),
    "unknown option": (
        lambda p: opening(p.url, pingpong=1),
        TypeError,
        "unknown option 'pingpong'",
    ),
    "a server's option": (
        lambda p: opening(p.url, origins=None),
        TypeError,
        "unknown option 'origins'",
    ),
    "negative timeout": (
        lambda p: opening(p.url, open_timeout=-1),
        ValueError,
        "open_timeout must be a positive number of seconds, at most 1,000,000,000, not -1",
    ),
    "ssl with ws": (lambda p: opening(p.url, ssl=True), ValueError, "ssl: a ws URI"),
    "wss without ssl": (
        lambda p: opening("wss://localhost/", ssl=False),
        ValueError,
        "ssl: a wss URI needs TLS",
    ),
    "not a handler": (
        lambda p: creche.serve(123, "127.0.0.1"),  # type: ignore[arg-type]
        TypeError,
        "handler must be callable, not int",
    ),
    "port taken": (
        lambda p: creche.serve(echo, "127.0.0.1", port(p)),
        OSError,
        "cannot listen on 127.0.0.1 port",
    ),
    "port beyond 65535": (
        lambda p: opening("ws://127.0.0.1/", port=65536 + port(p)),
        ValueError,
        "port must be 1 to 65535, not",
    ),
    "port 0 in the URI": (lambda p: opening("ws://h:0/"), creche.InvalidURI, "its port is"),
    "port beyond 65535 in the URI": (
        lambda p: opening(f"ws://127.0.0.1:{65536 + port(p)}/"),
        creche.InvalidURI,
        "its port is not a number from 1 to 65535",
    ),
    "port 0 of the proxy": (
        lambda p: opening(p.url, proxy="http://127.0.0.1:0"),
        creche.InvalidProxy,
        "its port is not a number from 1 to 65535",
    ),
    "a name as local_address": (
        lambda p: opening(p.url, local_address="localhost"),
        ValueError,
        "local_address must be an IP address",
    ),
    "no host": (lambda p: opening(p.url, host="a\0b"), ValueError, "host must be"),
    "server_hostname of no server": (
        lambda p: opening("wss://127.0.0.1/", server_hostname=".localhost"),
        ValueError,
        "server_hostname must be",
    ),
    "no path": (lambda p: opening_unix(""), ValueError, "path must not be empty"),
    "path with a NUL": (lambda p: opening_unix("/tmp/x\0y"), ValueError, "path must not contain"),
    "port beyond 65535, serving": (
        lambda p: creche.serve(echo, "127.0.0.1", 70_000),
        ValueError,
        "port must be 0 to 65535, not 70000",
    ),
    "negative port, serving": (
        lambda p: creche.serve(echo, "127.0.0.1", -1),
        ValueError,
        "port must be 0 to 65535, not -1",
    ),
    "port as str, serving": (
        lambda p: creche.serve(echo, "127.0.0.1", "8765"),  # type: ignore[arg-type]
        TypeError,
        "port must be an int, not str",
    ),
    "port as bool, serving": (
        lambda p: creche.serve(echo, "127.0.0.1", True),
        TypeError,
        "port must be an int, not bool",
    ),
    "no host, serving": (
        lambda p: creche.serve(echo, "a..b"),
        ValueError,
        "host must be the name or the IP address",
    ),
    "bytes as host, serving": (
        lambda p: creche.serve(echo, b"127.0.0.1"),  # type: ignore[arg-type]
        TypeError,
        "host must be a str, not bytes",
    ),
    "huge backlog": (
        lambda p: creche.serve(echo, "127.0.0.1", backlog=2**31),
        ValueError,
        "backlog must be at most",
    ),
    "no path, serving": (
        lambda p: creche.serve_unix(echo, ""),
        ValueError,
        "path must not be empty",
    ),
    "no path at all, serving": (
        lambda p: creche.serve_unix(echo, None),  # type: ignore[arg-type]
        TypeError,
        "path must be a str or a path",
    ),
    "mode as str": (
        lambda p: creche.serve_unix(echo, "/nowhere/x", mode="0o660"),  # type: ignore[arg-type]
        TypeError,
        "mode must be an int",
    ),
    "not a handler on a path": (
        lambda p: creche.serve_unix(123, "/nowhere/x"),  # type: ignore[arg-type]
        TypeError,
        "handler must be callable",
    ),
    "port beyond 65535, routing": (
        lambda p: creche.router.route(Map(), "127.0.0.1", 70_000),
        ValueError,
        "port must be 0 to 65535, not 70000",
    ),
    "server_name with port 0": (
        lambda p: creche.router.route(Map(), "127.0.0.1", server_name="app.example:0"),
        ValueError,
        "server_name must be a host, or host:port",
    ),
    "subprotocols as str, serving": (
        lambda p: creche.serve(echo, "127.0.0.1", subprotocols="chat"),
        TypeError,
        "subprotocols",
    ),
    "origins as str, serving": (
        lambda p: creche.serve(echo, "127.0.0.1", origins="https://a.example"),
        TypeError,
        "origins",
    ),
}


async def fake_server(answer: bytes) -> Any:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def handle(stream: Any) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer)

    return listener, handle


@pytest.mark.parametrize("name", CASES)
async def test_bad_input_is_named_and_leaves_nothing_behind(name: str) -> None:
    case, kind, text = CASES[name]
    from anyio.abc import SocketAttribute

    async with (
        AsyncExitStack() as stack,
        anyio.create_task_group() as tg,
        creche.serving(echo, "127.0.0.1") as server,
    ):
        urls = []
        for answer in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: bm90IHRoZSBhbnN3ZXI=\r\n\r\n",
        ):
            listener, handle = await fake_server(answer)
            await stack.enter_async_context(listener)
            tg.start_soon(listener.serve, handle)
            urls.append(f"ws://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/")
        peers = Peers(server.url, urls[0], urls[1], f"ws://127.0.0.1:{free_port()}/")
        async with creche.connect(server.url), await anyio.connect_tcp("127.0.0.1", port(peers)):
            pass  # what an event loop opens at the first use stays open
        await until(lambda: not server.connections)
        await settle()
        tasks, descriptors = count_tasks(), count_descriptors()
        with pytest.raises(kind, match=text):
            await case(peers)
        await until(lambda: count_tasks() <= tasks and count_descriptors() <= descriptors)
        tg.cancel_scope.cancel()


# Header fields


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "5"},
        {"Content-Length": "abc"},
        {"Transfer-Encoding": "gzip"},
        [("Content-Length", "1"), ("content-length", "2")],
        {"Sec-WebSocket-Protocol": "a"},
        {"Host": "x"},
    ],
)
async def test_headers_that_cannot_be_added_are_told_before_anything_is_opened(
    headers: Any,
) -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        with pytest.raises(ValueError, match="additional_headers: "):
            async with creche.connect(server.url, additional_headers=headers):
                raise AssertionError
        with pytest.raises(ValueError, match="additional_headers: "):
            await creche.reconnect(server.url, echo, additional_headers=headers)
        client, _ = memory_byte_pair()
        with pytest.raises(ValueError, match="additional_headers: "):
            async with creche.client_websocket(client, server.url, additional_headers=headers):
                raise AssertionError
        await settle()
        assert server.stats.accepted == 0


async def test_headers_that_are_renewed_are_checked_before_the_next_attempt() -> None:
    headers: dict[str, str] = {}

    def renew(attempt: creche.Attempt) -> None:
        headers["Content-Length"] = "5"

    async with creche.serving(echo, "127.0.0.1") as server:
        with pytest.raises(ValueError, match="additional_headers: Content-Length tells of a body"):
            await creche.reconnect(server.url, echo, additional_headers=headers, on_attempt=renew)
        await settle()
        assert server.stats.accepted == 0


@pytest.mark.parametrize("value", [True, False])
async def test_a_server_has_a_certificate_or_no_tls(value: bool) -> None:
    with pytest.raises(TypeError, match="ssl must be an SSLContext"):
        async with creche.serving(creche.discard, "127.0.0.1", ssl=value):  # type: ignore[arg-type]
            pass
