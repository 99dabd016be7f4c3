"""Attacks, each a test of that name."""

from __future__ import annotations

import logging
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

import creche
from creche.engine.read_buffer import read_buffer
from creche.handshake.exceptions import Rejection
from creche.handshake.reading import MAX_BODY_BYTES
from creche.handshake.rules import accept_key
from creche.handshake.server import ServerHandshake
from creche.protocol import COMPILED
from creche.protocol.frames import BINARY, TEXT
from creche.protocol.masking import new_key
from creche.testing import memory_byte_pair
from support import echo, raw_client, settle, until

pytestmark = pytest.mark.anyio

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def request(*fields: str, host: str = "localhost", line: str = "GET / HTTP/1.1") -> bytes:
    """A request for a WebSocket, with further header fields."""
    lines = [
        line,
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *fields,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def exchange(server: creche.Server, data: bytes) -> bytes:
    """Everything that the server answers until it closes the connection."""
    answer = b""
    async with await anyio.connect_tcp(*server.addresses[0]) as stream:
        await stream.send(data)
        with anyio.fail_after(10):
            try:
                while True:
                    answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return answer


def status(answer: bytes) -> int:
    return int(answer.split()[1])


# From a browser


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost.evil.example", "http://evil.example:80"],
)
@pytest.mark.feature("origins")
async def test_cross_site_websocket_hijacking(origin: str) -> None:
    """A page of another site opens a WebSocket, and the browser adds the user's cookies."""
    handled = []

    async def handler(ws: creche.WebSocket) -> None:
        handled.append(ws)

    async with creche.serving(handler, "127.0.0.1") as server:
        answer = await exchange(server, request(f"Origin: {origin}", "Cookie: session=1"))
    assert status(answer) == 403
    assert b'origins="same-host"' in answer
    assert not handled


@pytest.mark.feature("origins", "origin")
async def test_cross_site_request_is_allowed_where_the_application_says_so() -> None:
    async with creche.serving(echo, "127.0.0.1", origins=["https://app.example"]) as server:
        async with creche.connect(server.url, origin="https://app.example") as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
        with pytest.raises(creche.InvalidStatus, match="403"):
            async with creche.connect(server.url, origin="https://evil.example"):
                raise AssertionError


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("evil.example", 421),  # its name leads to 127.0.0.1 now
        ("evil.example:8765", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("192.168.0.1", 421),
        ("[", 400),
        ("localhost", 101),
        ("LOCALHOST:8765", 101),
        ("localhost.", 101),
        ("app.localhost", 101),
        ("127.0.0.1:8765", 101),
        ("127.1.2.3", 101),
        ("[::1]:8765", 101),
    ],
)
async def test_dns_rebinding(host: str, expected: int) -> None:
    """A page's own host name is made to lead to loopback: Origin and Host agree."""
    hooked: list[creche.Request] = []

    async def leave(ws: creche.WebSocket) -> None:
        await ws.aclose()

    async with creche.serving(
        leave, "127.0.0.1", process_request=hooked.append, close_timeout=0.1
    ) as server:
        answer = await exchange(server, request(f"Origin: http://{host}", host=host))
    assert status(answer) == expected
    if expected != 101:
        assert expected == 400 or b"see the option hosts" in answer
        assert not hooked  # no page is served either


@pytest.mark.parametrize(
    ("hosts", "allowed", "refused"),
    [
        (["app.example"], ["app.example", "APP.example:80"], ["x.app.example", "localhost"]),
        (["*.app.example"], ["x.app.example", "y.x.app.example"], ["app.example", "xapp.example"]),
        (None, ["anything.example"], []),
        ("loopback", ["localhost"], ["app.example"]),
    ],
)
def test_dns_rebinding_where_the_hosts_are_told(
    hosts: Any, allowed: list[str], refused: list[str]
) -> None:
    def check(host: str) -> None:
        handshake = ServerHandshake(hosts=hosts)
        asked = handshake.receive_data(request(host=host))
        assert asked is not None
        handshake.check_host(asked)

    for host in allowed:
        check(host)
    for host in refused:
        with pytest.raises(Rejection) as caught:
            check(host)
        assert caught.value.response.status == 421


async def test_dns_rebinding_is_looked_for_on_loopback_only() -> None:
    for address in ("0.0.0.0", None):
        async with creche.serving(echo, address) as server:
            port = server.addresses[0][1]
            async with creche.connect(f"ws://public.example:{port}/", host="127.0.0.1"):
                pass


# Request smuggling


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (request("Origin: https://evil.example"), 403),
        (request().replace(b"Upgrade: websocket\r\n", b""), 426),
        (request(line="POST / HTTP/1.1"), 405),
        (request("Content-Length: 10"), 400),
        (request("Transfer-Encoding: chunked"), 400),
        (request("Content-Length: 0", "Transfer-Encoding: chunked"), 400),
        (request("Content-Length: 1", "Content-Length: 2"), 400),
        (request("Host: other"), 400),
        (request(" folded: x"), 426),  # it became a part of the version
        (request(line="GET / HTTP/1.0"), 505),
    ],
)
async def test_request_smuggling_after_a_refused_upgrade(first: bytes, expected: int) -> None:
    """What follows a refusal is not a second request: a proxy may think it is the body's."""
    seen = []

    def process_request(asked: creche.Request) -> None:
        seen.append(asked.path)

    async with creche.serving(
        echo, "127.0.0.1", process_request=process_request, close_timeout=0.1
    ) as server:
        smuggled = request(line="GET /smuggled HTTP/1.1")
        answer = await exchange(server, first + smuggled)
    assert status(answer) == expected
    assert answer.count(b"HTTP/1.1 ") == 1
    assert "/smuggled" not in seen
    if expected != 101:
        assert b"Connection: close" in answer


# Header injection


INJECTIONS = ["a\r\nX-Injected: 1", "a\nX-Injected: 1", "a\rb", "a\0b"]


async def connect_with(**options: Any) -> None:
    ours, theirs = memory_byte_pair()
    try:
        async with creche.client_websocket(ours, options.pop("uri", "ws://h/"), **options):
            raise AssertionError
    finally:
        await settle()
        assert not theirs._arrived  # not a byte was sent


async def serve_with(**options: Any) -> None:
    async with creche.serving(echo, "127.0.0.1", **options):
        raise AssertionError


def answer_with(value: str) -> None:
    creche.Response(200, {"X-Value": value})


ARGUMENTS: dict[str, Callable[[str], Any]] = {
    "connect uri, path": lambda evil: connect_with(uri=f"ws://h/{evil}"),
    "connect uri, query": lambda evil: connect_with(uri=f"ws://h/?{evil}"),
    "connect uri, host": lambda evil: connect_with(uri=f"ws://{evil}/"),
    "connect origin": lambda evil: connect_with(origin=evil),
    "connect subprotocols": lambda evil: connect_with(subprotocols=[evil]),
    "connect additional_headers, value": lambda evil: connect_with(additional_headers={"X": evil}),
    "connect additional_headers, name": lambda evil: connect_with(additional_headers={evil: "x"}),
    "connect user_agent_header": lambda evil: connect_with(user_agent_header=evil),
    "serve subprotocols": lambda evil: serve_with(subprotocols=[evil]),
    "serve server_header": lambda evil: serve_with(server_header=evil),
}


@pytest.mark.parametrize("evil", INJECTIONS)
@pytest.mark.parametrize("argument", ARGUMENTS)
async def test_header_injection(argument: str, evil: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        await ARGUMENTS[argument](evil)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("evil", INJECTIONS)
def test_header_injection_into_a_response(evil: str) -> None:
    for make in (
        lambda: creche.Response(200, {"X": evil}),
        lambda: creche.Response(200, {evil: "x"}),
        lambda: creche.Response(200).headers.add("X", evil),
    ):
        with pytest.raises(ValueError, match="header"):
            make()


async def test_header_injection_by_the_user_part_of_a_uri() -> None:
    """It becomes an Authorization header, in base64."""
    async with creche.serving(echo, "127.0.0.1") as server:
        uri = server.url.replace("://", "://user%0d%0aX-Injected:%201:pass@")
        async with creche.connect(uri) as ws:
            assert "X-Injected" not in ws.request.headers


# Secrets


async def test_secrets_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[str] = []

    async def handler(ws: creche.WebSocket) -> None:
        told.extend([repr(ws), repr(ws.request), repr(ws.request.headers)])
        if "fail" in ws.request.path:
            raise KeyError("a bug")

    def refuse(asked: creche.Request) -> creche.Response | None:
        return creche.Response(401) if "refuse" in asked.path else None

    async with creche.serving(handler, "127.0.0.1", process_request=refuse) as server:
        for path in ("ok", "fail", "refuse"):
            uri = f"{server.url.replace('://', '://SECRET:SECRET@')}{path}?token=SECRET"
            try:
                async with creche.connect(
                    uri, additional_headers={"Cookie": "session=SECRET"}
                ) as ws:
                    told.extend([repr(ws), repr(ws.request), repr(ws.response)])
                    await creche.discard(ws)
            except (creche.InvalidStatus, creche.ConnectionClosedError) as exc:
                told.extend([str(exc), repr(exc)])
        await until(lambda: not server.connections)
    for bad in ("http://SECRET:SECRET@h/?SECRET", "ws://SECRET:SECRET@h/#SECRET"):
        with pytest.raises(creche.InvalidURI) as caught:
            async with creche.connect(bad):
                raise AssertionError
        told.extend([str(caught.value)])
    with pytest.raises(ValueError, match="Cookie") as invalid:
        creche.Headers({"Cookie": "SECRET\n"})
    told.append(str(invalid.value))
    assert len(told) > 10
    assert "SECRET" not in "\n".join(told) + caplog.text


MALFORMED = [
    b"GET /?SECRET HTTP/one",
    b"GET /SECRET SECRET HTTP/1.1",
    b"GET / HTTP/1.1\r\nHost: h\r\nCookie SECRET",
    b"GET / HTTP/1.1\r\nHost: h\r\nAuthorization : SECRET",
    b"GET / HTTP/1.1\r\nHost: h\r\nX-Api-Key: SECRET\x7f",
    b"GET / HTTP/1.1\r\nHost: u:SECRET@h",
    b"GET /answer HTTP/1.1\r\nHost: localhost",
]


@pytest.mark.parametrize("malformed", MALFORMED)
async def test_a_request_that_is_refused_is_not_quoted(
    malformed: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in the log, nor in what a trace is told, nor in the answer."""
    caplog.set_level(logging.DEBUG)
    told: list[str] = []

    def trace(event: str, info: dict[str, Any]) -> None:
        told.append(f"{event} {info!r} {info.get('exception')}")

    def answer(asked: creche.Request) -> creche.Response | None:
        return creche.Response(200, body="SECRET") if asked.path == "/answer" else None

    async with creche.serving(echo, "127.0.0.1", process_request=answer, trace=trace) as server:
        received = await exchange(server, malformed + b"\r\n\r\n")
        await until(lambda: len(told) == 2)
    assert (b"SECRET" in received) is malformed.startswith(b"GET /answer")
    assert "opening handshake failed: " in caplog.text
    assert "SECRET" not in "\n".join(told) + caplog.text


async def test_a_hook_that_goes_wrong_is_named_and_not_shown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def process_request(_key: str, _request: creche.Request) -> Any:
        return True

    hook = partial(process_request, "SECRET")
    async with creche.serving(echo, "127.0.0.1", process_request=hook) as server:
        assert status(await exchange(server, request())) == 500
    assert "process_request must return a Response or None, not bool" in caplog.text
    assert "SECRET" not in caplog.text


async def test_a_failing_hook_tells_the_client_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: creche.Request) -> None:
        raise KeyError("SECRET of the server")

    async with creche.serving(echo, "127.0.0.1", process_request=fail) as server:
        answer = await exchange(server, request())
    assert status(answer) == 500
    for word in (b"SECRET", b"KeyError", b"Traceback", b".py"):
        assert word not in answer
    assert "SECRET of the server" in caplog.text  # the operator is told


async def test_a_failing_handler_tells_the_client_1011_and_nothing_else() -> None:
    async def fail(ws: creche.WebSocket) -> None:
        raise KeyError("SECRET of the server")

    async with creche.serving(fail, "127.0.0.1") as server:
        async with creche.connect(server.url) as ws:
            with pytest.raises(creche.ConnectionClosedError) as caught:
                await ws.receive()
    assert caught.value.received == creche.Close(1011, "")


# Predictable masks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_processes_do_not_share_mask_keys() -> None:
    """Whoever knows the keys of one could write what a proxy takes for a request of another."""
    new_key()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"".join(new_key() for _ in range(100)))
        os._exit(0)
    os.waitpid(child, 0)
    data = os.read(read, 400)
    os.close(read)
    os.close(write)
    theirs = {data[i : i + 4] for i in range(0, 400, 4)}
    assert len(theirs) > 95
    assert not theirs & {new_key() for _ in range(100)}


# A hostile server


async def hostile_server(data: bytes, *, key: bool = False, for_ever: bytes = b"") -> Any:
    """What connect() raises when a server answers with `data`."""
    ours, theirs = memory_byte_pair(clogged_after=2**17)

    async def serve() -> None:
        asked = await theirs.receive()
        given = asked.partition(b"Sec-WebSocket-Key: ")[2].split(b"\r\n")[0].decode()
        try:
            await theirs.send(data.replace(b"ACCEPT", accept_key(given).encode()))
            while for_ever:
                await theirs.send(for_ever)
            await theirs.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass

    async with anyio.create_task_group() as tg:
        tg.start_soon(serve)
        with anyio.fail_after(20), pytest.raises((creche.WebSocketError, OSError)) as caught:
            async with creche.client_websocket(ours, "ws://h/", close_timeout=0.1) as ws:
                await ws.receive()
        tg.cancel_scope.cancel()
    return caught.value


SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: ACCEPT\r\n"
)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", creche.InvalidMessage),
        (b"\0" * 1000, creche.InvalidMessage),
        (b"HTTP/1.1 101 X\r\n\r\n", creche.InvalidUpgrade),
        (SWITCH.replace(b"1.1", b"1.0") + b"\r\n", creche.InvalidMessage),
        (SWITCH.replace(b"ACCEPT", b"wrong") + b"\r\n", creche.InvalidHeader),
        (SWITCH + b"Sec-WebSocket-Accept: ACCEPT\r\n\r\n", creche.InvalidHeader),
        (SWITCH.replace(b"websocket", b"h2c") + b"\r\n", creche.InvalidUpgrade),
        (SWITCH + b"Sec-WebSocket-Extensions: x-unasked\r\n\r\n", creche.NegotiationError),
        (SWITCH + b"Sec-WebSocket-Protocol: unasked\r\n\r\n", creche.NegotiationError),
        (SWITCH + b"X: " + b"x" * 100_000, creche.InvalidMessage),
        (SWITCH + b"X: a\x01b\r\n\r\n", creche.InvalidMessage),
        (SWITCH + b"\r\n" + b"\x81\x81\0\0\0\0x", creche.ConnectionClosedError),  # masked
        (SWITCH + b"\r\n" + b"\xc1\x01x", creche.ConnectionClosedError),  # RSV1
        (SWITCH + b"\r\n" + b"\x81\x7f" + b"\xff" * 8, creche.ConnectionClosedError),
        (SWITCH + b"\r\n" + b"\x88\x01x", creche.ConnectionClosedError),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://elsewhere/\r\n\r\n", creche.InvalidStatus),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", creche.WebSocketError),
    ],
)
async def test_a_hostile_server_with_everything_wrong(answer: bytes, kind: type[Exception]) -> None:
    error = await hostile_server(answer)
    assert isinstance(error, kind)


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
async def test_a_hostile_server_with_a_body_without_end(head: bytes) -> None:
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n" if b"chunked" in head else b"x" * 0x8000
    error = await hostile_server(head, for_ever=chunk)
    assert isinstance(error, creche.InvalidStatus)
    assert len(error.response.body) == MAX_BODY_BYTES


async def test_a_hostile_server_with_interim_answers_without_end() -> None:
    error = await hostile_server(b"", for_ever=b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
    assert isinstance(error, creche.InvalidMessage)


async def test_a_hostile_server_that_declares_a_huge_frame_costs_no_memory() -> None:
    ours, theirs = memory_byte_pair()
    await theirs.send(b"")
    handshake = ServerHandshake()

    async def serve() -> None:
        asked = handshake.receive_data(await theirs.receive())
        assert asked is not None
        await theirs.send(handshake.respond(handshake.accept(asked)))
        await theirs.send(b"\x82\x7f" + (2**62).to_bytes(8, "big") + b"x" * 100)

    async with anyio.create_task_group() as tg:
        tg.start_soon(serve)
        async with creche.client_websocket(ours, "ws://h/", max_size=None, close_timeout=0.1) as ws:
            await until(lambda: ws._link.connection.kept())
            assert ws._link.connection.kept() <= 200


# Other people's bytes


async def test_plaintext_of_one_connection_is_never_visible_to_another(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """All sockets of an event loop are read into one buffer."""
    messages: list[str | bytes] = []

    async def keep(ws: creche.WebSocket) -> None:
        async for message in ws:
            messages.append(message)

    async with creche.serving(keep, "localhost", ssl=server_tls) as server:
        async with creche.connect(server.url, ssl=client_tls) as ws:
            await ws.send("SECRET in text")
            await ws.send(b"SECRET in bytes")
            await ws.ping()
            async with creche.connect(server.url, ssl=client_tls) as other:
                await other.send("x" * 20)
                await other.ping()
    assert messages == ["SECRET in text", b"SECRET in bytes", "x" * 20]


async def test_a_message_in_many_pieces_keeps_no_view_of_the_read_buffer() -> None:
    """The tests overwrite the buffer after each parse: see conftest.py."""
    async with creche.serving(echo, "127.0.0.1") as server, raw_client(server.url) as peer:
        text, binary = peer.frame(TEXT, "é".encode() * 500), peer.frame(BINARY, bytes(range(256)))
        for data in (text, binary):
            for i in range(0, len(data), 7):
                await peer.stream.send(data[i : i + 7])
                await settle()
        assert await peer.receive() == (TEXT, "é".encode() * 500)
        assert await peer.receive() == (BINARY, bytes(range(256)))
        if not COMPILED:
            assert set(read_buffer()[:7]) == {0xA5}  # the overwriting took place


async def test_each_half_of_the_early_data_is_parsed_once() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        with socket.create_connection(server.addresses[0]) as sock:
            sock.setblocking(False)
            frame = b"\x81\x85\0\0\0\0early"
            await anyio.wait_writable(sock)
            sock.send(request() + frame[:6])
            await anyio.wait_readable(sock)
            assert sock.recv(4096).startswith(b"HTTP/1.1 101 ")
            sock.send(frame[6:])
            await anyio.wait_readable(sock)
            assert sock.recv(4096) == b"\x81\x05early"
