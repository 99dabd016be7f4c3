from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, TaskStatus

import creche
from creche.protocol.frames import CLOSE, TEXT
from creche.testing import memory_byte_pair
from support import (
    cancelled_once,
    count_descriptors,
    echo,
    echo_over,
    raw_client,
    said,
    settle,
    until,
)

pytestmark = pytest.mark.anyio


async def http(server: creche.Server, request: str) -> bytes:
    """What the server answers to the bytes of a request, to their end."""
    host, port = server.addresses[0]
    data = b""
    async with await anyio.connect_tcp(host, port) as stream:
        await stream.send(request.encode())
        while True:
            try:
                data += await stream.receive()
            except anyio.EndOfStream:
                return data


GET = (
    "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


# Many at once


async def test_those_that_connect_at_once_are_pinged_one_after_the_other() -> None:
    async with creche.serving(creche.discard, "127.0.0.1") as server, AsyncExitStack() as stack:
        for _ in range(20):
            await stack.enter_async_context(creche.connect(server.url, ping_interval=None))
        await until(lambda: len(server.connections) == 20)
        due = [ws._link.connection.next_timeout for ws in server.connections]
        assert max(due) - min(due) > 5


# Where it listens


@pytest.mark.feature("listen_tcp", "connect_tcp")
async def test_serve_gives_the_server_when_it_listens() -> None:
    async with anyio.create_task_group() as tg:
        server = await tg.start(creche.serve, echo, "127.0.0.1")
        assert isinstance(server, creche.Server)
        host, port = server.addresses[0]
        assert host == "127.0.0.1"
        assert server.url == f"ws://127.0.0.1:{port}/"
        assert repr(server) == f"<creche.Server {server.url} 0 connections>"
        async with creche.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
        tg.cancel_scope.cancel()
    with pytest.raises(OSError, match="cannot connect"):
        async with creche.connect(server.url):
            pass


@pytest.mark.parametrize(
    ("host", "name"),
    [
        *((None, "localhost"), ("", "localhost"), ("0.0.0.0", "localhost"), ("0", "localhost")),
        *(("localhost", "localhost"), ("LocalHost", "LocalHost"), ("::1", "[::1]")),
        *(("::", "[::1]"), ("0::0", "[::1]")),
        *((number, "127.0.0.1") for number in ("127.1", "0x7f000001", "2130706433", "127.0.0.1")),
    ],
)
async def test_the_url_connects_to_the_server(host: str | None, name: str) -> None:
    async with creche.serving(echo, host) as server:
        assert server.url == f"ws://{name}:{server.addresses[0][1]}/"
        async with creche.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


async def test_localhost_is_served_where_its_ipv6_address_cannot_be_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = anyio.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
        # As in a container without IPv6, whose resolver does not know that.
        found = await real("127.0.0.1", port, **options)
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", port)), *found]

    monkeypatch.setattr("anyio.getaddrinfo", getaddrinfo)
    async with creche.serving(echo, "localhost") as server:
        [(host, port)] = server.addresses
        assert host == "127.0.0.1"
        async with creche.connect(f"ws://127.0.0.1:{port}/", proxy=None) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


async def test_the_url_names_no_host_that_the_server_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = anyio.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **options: Any) -> Any:
        # As where a file of this machine says so.
        return await real("127.0.1.1" if host == "this-machine" else host, port, **options)

    monkeypatch.setattr("anyio.getaddrinfo", getaddrinfo)
    async with creche.serving(echo, "this-machine") as server:
        assert server.url == f"ws://127.0.1.1:{server.addresses[0][1]}/"
        async with creche.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
    async with creche.serving(echo, "this-machine", hosts=["this-machine"]) as server:
        assert server.url.startswith("ws://this-machine:")


@pytest.mark.parametrize(
    ("address", "name"),
    [("127.0.0.1", "localhost"), ("0.0.0.0", "localhost"), ("::1", "[::1]"), ("::", "[::1]")],
)
async def test_the_url_of_a_bound_socket_connects_to_it(address: str, name: str) -> None:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.bind((address, 0))
    async with creche.serving(echo, sockets=[sock]) as server, creche.connect(server.url) as ws:
        assert server.url == f"ws://{name}:{server.addresses[0][1]}/"
        await ws.send("x")
        assert await ws.receive() == "x"


async def test_the_url_of_a_socket_that_is_bound_elsewhere_names_its_address() -> None:
    class Elsewhere(socket.socket):
        def getsockname(self) -> Any:
            return ("192.0.2.1", super().getsockname()[1])

    sock = Elsewhere()
    sock.bind(("127.0.0.1", 0))
    async with creche.serving(echo, sockets=[sock]) as server:
        assert server.url.startswith("ws://192.0.2.1:")


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.feature("listen_sockets")
async def test_bound_sockets_are_served_and_closed(listens: bool) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    if listens:
        sock.listen()
    async with creche.serving(echo, sockets=[sock]) as server, creche.connect(server.url) as ws:
        await ws.send("x")
        assert await ws.receive() == "x"
    assert sock.fileno() == -1


async def test_host_and_port_do_not_go_with_bound_sockets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        for arguments in (("127.0.0.1", 0), (None, 80)):
            with pytest.raises(TypeError, match="sockets: host and port cannot"):
                await creche.serve(echo, *arguments, sockets=[sock])


@pytest.mark.feature("listen_unix", "connect_unix")
async def test_a_unix_socket_is_served_with_its_mode_and_removed(unix_path: Path) -> None:
    async with anyio.create_task_group() as tg:

        async def serve(*, task_status: Any) -> None:
            await creche.serve_unix(echo, unix_path, mode=0o600, task_status=task_status)

        server = await tg.start(serve)
        assert server.addresses == [str(unix_path)]
        assert server.url == "ws://localhost/"
        assert stat.S_IMODE(os.stat(unix_path).st_mode) == 0o600
        async with creche.connect_unix(unix_path, "ws://localhost/chat") as ws:
            assert ws.request.path == "/chat"
            await ws.send("x" * 100_000)
            assert await ws.receive() == "x" * 100_000
            assert ws.extra(SocketAttribute.remote_address) == str(unix_path)
        await server.shutdown()
    assert not unix_path.exists()


@contextmanager
def without_rights(directory: Path) -> Iterator[None]:
    """As a process that may do nothing in this directory any more."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        directory.chmod(0)
        try:
            yield
        finally:
            directory.chmod(0o700)


async def test_a_server_that_has_dropped_its_rights_shuts_down_cleanly(
    unix_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with anyio.create_task_group() as tg:
        server = await tg.start(creche.serve_unix, echo, unix_path)
        with without_rights(unix_path.parent):
            await server.shutdown()
            await until(lambda: caplog.records)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.message == f"cannot remove {unix_path}: Permission denied"


@pytest.mark.feature("any_listener")
async def test_any_listener_of_anyio_can_be_served() -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with anyio.create_task_group() as tg:
        server = await tg.start(creche.serve_listener, echo, listener)
        async with creche.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
            await server.shutdown()
            with pytest.raises(creche.ConnectionClosedOK):
                await ws.receive()


@pytest.mark.parametrize("kind", ["TCP", "Unix"])
@pytest.mark.parametrize("code", [errno.EPERM, errno.EMFILE, errno.ECONNABORTED])
async def test_an_error_of_accept_that_passes_ends_nobody_at_a_listener_of_anyio(
    kind: str,
    code: int,
    unix_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    accept: Any = socket.socket._accept  # type: ignore[attr-defined]  # Trio keeps the one above
    failures: list[OSError] = []

    def failing(sock: socket.socket) -> Any:
        if failures:
            raise failures.pop()
        return accept(sock)

    monkeypatch.setattr(socket.socket, "_accept", failing)
    listener: Any
    if kind == "TCP":
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    else:
        listener = await anyio.create_unix_listener(unix_path)
    async with anyio.create_task_group() as tg:
        server = await tg.start(creche.serve_listener, echo, listener)

        def connect() -> Any:
            if kind == "TCP":
                return creche.connect(server.url)
            return creche.connect_unix(unix_path)

        async with connect() as earlier:
            failures.append(OSError(code, os.strerror(code)))
            async with connect() as later:
                for ws in (earlier, later):
                    await ws.send("x")
                    assert await ws.receive() == "x"
        await server.shutdown()
    assert not failures
    assert f"cannot accept connections for now: [Errno {code}]" in caplog.text


async def test_a_listener_of_anyio_that_breaks_without_a_reason_ends_serve_listener() -> None:
    class Broken(anyio.abc.Listener[anyio.abc.ByteStream]):
        async def serve(self, handler: Any, task_group: Any = None) -> None:
            await anyio.lowlevel.checkpoint()
            raise anyio.BrokenResourceError

        async def aclose(self) -> None:
            pass

        @property
        def extra_attributes(self) -> Any:
            return {}

    with pytest.raises(OSError, match="accepting failed: BrokenResourceError"):
        await creche.serve_listener(echo, Broken())


@pytest.mark.feature("any_stream")
async def test_a_byte_stream_can_be_served() -> None:
    ours, theirs = memory_byte_pair()
    await echo_over(ours, theirs)


async def test_a_byte_stream_that_asks_badly_is_refused_and_closed() -> None:
    ours, theirs = memory_byte_pair()
    await ours.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    await ours.send_eof()
    with pytest.raises(creche.HandshakeError, match="426 Upgrade Required"):
        async with creche.server_websocket(theirs):
            pass
    assert (await ours.receive()).startswith(b"HTTP/1.1 426 ")
    with pytest.raises(anyio.ClosedResourceError):
        await theirs.receive()


async def test_a_byte_stream_that_says_nothing_times_out() -> None:
    _, theirs = memory_byte_pair()
    with pytest.raises(TimeoutError, match=r"opening handshake took over 0.02 s"):
        async with creche.server_websocket(theirs, open_timeout=0.02):
            pass


@pytest.mark.feature("server_tls", "client_tls")
async def test_tls_is_served(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    async with creche.serving(echo, "localhost", ssl=server_tls) as server:
        assert server.url.startswith("wss://localhost:")
        async with creche.connect(server.url, ssl=client_tls) as ws:
            await ws.send("x" * 100_000)
            assert await ws.receive() == "x" * 100_000


async def test_a_slow_tls_handshake_does_not_hold_up_others(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with creche.serving(echo, "localhost", ssl=server_tls) as server:
        host, port = server.addresses[0]
        async with await anyio.connect_tcp(host, port):
            async with creche.connect(server.url, ssl=client_tls) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"


async def test_a_request_knows_the_address_and_tls(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    from anyio.streams.tls import TLSAttribute

    seen = []

    def process_request(request: creche.Request) -> None:
        seen.append(request.extra(SocketAttribute.remote_address)[0])
        seen.append(request.extra(TLSAttribute.tls_version, None))

    for options in ({}, {"ssl": server_tls}):
        async with creche.serving(
            echo,
            "localhost",
            process_request=process_request,
            **options,  # type: ignore[arg-type]
        ) as server:
            tls = client_tls if options else None
            async with creche.connect(server.url, ssl=tls):
                pass
    assert seen == ["127.0.0.1", None, "127.0.0.1", "TLSv1.3"]


# The opening handshake


async def test_a_hook_may_return_the_same_response_each_time() -> None:
    """What the server adds to an answer is not added to the application's object."""
    refusal, opening = creche.Response(403, {"X-A": "b"}, b"no"), creche.Response(101)
    answers: list[creche.Headers] = []

    def process_response(_: creche.Request, response: creche.Response) -> creche.Response:
        if not opening.headers.fields:
            for name, value in response.headers.fields:
                opening.headers.add(name, value)
        return opening

    for header in ("one", "two"):
        async with creche.serving(
            echo, "127.0.0.1", process_request=lambda _: refusal, server_header=header
        ) as server:
            with pytest.raises(creche.InvalidStatus) as caught:
                async with creche.connect(server.url):
                    raise AssertionError
            answers.append(caught.value.response.headers)
    assert [headers["Server"] for headers in answers] == ["one", "two"]
    assert refusal.headers.fields == [("X-A", "b")]

    async with creche.serving(echo, "127.0.0.1", process_response=process_response) as server:
        async with raw_client(server.url) as client:
            assert client is not None
    assert "Server" not in opening.headers


@pytest.mark.feature("process_request")
async def test_process_request_may_answer_instead() -> None:
    async def process_request(request: creche.Request) -> creche.Response | None:
        await settle()
        request.state["seen"] = True
        if request.path == "/health":
            return creche.Response(200, {"X-A": "b"}, "fine\n")
        return None

    async def handler(ws: creche.WebSocket) -> None:
        await ws.send(str(ws.request.state["seen"]))

    async with creche.serving(handler, "127.0.0.1", process_request=process_request) as server:
        answer = await http(server, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert b"X-A: b" in head
        assert b"Connection: close" in head
        assert body == b"fine\n"
        async with creche.connect(server.url) as ws:
            assert await ws.receive() == "True"
        with pytest.raises(creche.InvalidStatus) as caught:
            async with creche.connect(server.url + "health"):
                pass
        assert caught.value.response.status == 200
        assert caught.value.response.body == b"fine\n"


@pytest.mark.feature("process_response")
async def test_process_response_may_add_or_refuse() -> None:
    def process_response(
        request: creche.Request, response: creche.Response
    ) -> creche.Response | None:
        response.headers.add("X-A", "b")
        return creche.Response(402, body="pay") if request.path == "/pay" else None

    async with creche.serving(echo, "127.0.0.1", process_response=process_response) as server:
        async with creche.connect(server.url) as ws:
            assert ws.response.headers["X-A"] == "b"
            assert ws.response.headers["Server"] == f"creche/{creche.__version__}"
        with pytest.raises(creche.InvalidStatus, match="402"):
            async with creche.connect(server.url + "pay"):
                pass


@pytest.mark.parametrize(
    "hook",
    [
        lambda request: 1 / 0,
        lambda request: "not a response",
        lambda request: creche.Response(200, {"Content-Length": "1"}, "too long"),
    ],
)
async def test_a_hook_that_fails_is_logged_and_answered_with_500(
    hook: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with creche.serving(echo, "127.0.0.1", process_request=hook) as server:
        with pytest.raises(creche.InvalidStatus, match="500 Internal Server Error"):
            async with creche.connect(server.url):
                pass
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].exc_info


@pytest.mark.feature("subprotocols")
async def test_a_subprotocol_is_agreed_on() -> None:
    async def handler(ws: creche.WebSocket) -> None:
        await ws.send(str(ws.subprotocol))

    async with creche.serving(handler, "127.0.0.1", subprotocols=["b", "a"]) as server:
        async with creche.connect(server.url, subprotocols=["a", "b"]) as ws:
            assert await ws.receive() == ws.subprotocol == "b"
        async with creche.connect(server.url) as ws:
            assert await ws.receive() == "None"


@pytest.mark.feature("server_header", "user_agent")
async def test_server_and_user_agent_can_be_hidden() -> None:
    async with creche.serving(echo, "127.0.0.1", server_header=None) as server:
        async with creche.connect(server.url, user_agent_header=None) as ws:
            assert "Server" not in ws.response.headers
            assert "User-Agent" not in ws.request.headers


async def test_a_cross_origin_request_is_refused_with_the_options_name() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        with pytest.raises(creche.InvalidStatus) as caught:
            async with creche.connect(server.url, origin="https://evil.example"):
                pass
        assert caught.value.response.status == 403
        assert b'origins="same-host"' in caught.value.response.body
        await until(lambda: server.stats.refused == 1)


async def test_a_refusal_reaches_a_client_that_has_sent_more() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        answer = await http(server, "POST / HTTP/1.1\r\nHost: localhost\r\n\r\n" + "x" * 200_000)
        assert answer.startswith(b"HTTP/1.1 405 ")


async def test_frames_that_come_with_the_request_are_not_lost() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        host, port = server.addresses[0]
        async with await anyio.connect_tcp(host, port) as stream:
            await stream.send(GET.encode() + b"\x81\x81\x00\x00\x00\x00x")
            data = b""
            while not data.endswith(b"\x81\x01x"):
                data += await stream.receive()


async def test_who_comes_and_goes_is_logged_at_debug_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with creche.serving(echo, "127.0.0.1", open_timeout=0.2) as server:
        host, port = server.addresses[0]
        for data in (b"", b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/1.1\r\nX"):
            async with await anyio.connect_tcp(host, port) as stream:
                if data:
                    await stream.send(data)
                if data.endswith(b"X"):
                    with pytest.raises(anyio.EndOfStream):
                        await stream.receive()
        await until(lambda: server.stats.refused == 3)
    levels = {record.levelname for record in said(caplog)}
    assert levels == {"DEBUG"}
    assert "took over 0.2 s" in caplog.text
    assert "closed the connection before it asked" in caplog.text


async def test_how_a_handler_met_the_end_is_told_to_who_debugs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(ws: creche.WebSocket) -> None:
        await ws.receive()

    caplog.set_level(logging.DEBUG, "creche.server")
    async with creche.serving(handler, "127.0.0.1") as server:
        async with creche.connect(server.url):
            pass
        await until(lambda: not server.connections)
    assert any(
        message.endswith(
            "handler met the end: got 1000 (normal closure); sent 1000 (normal closure)"
        )
        for message in caplog.messages
    )


# Stopping


@pytest.mark.feature("drain")
async def test_a_server_that_drains_accepts_nothing_and_keeps_what_is_open() -> None:
    async with anyio.create_task_group() as tg:
        server = await tg.start(creche.serve, echo, "127.0.0.1")
        async with creche.connect(server.url) as ws:
            tg.start_soon(server.drain)
            await until(lambda: server.draining)
            await ws.send("still here")
            assert await ws.receive() == "still here"
            with pytest.raises(OSError, match="cannot connect"):
                async with creche.connect(server.url):
                    pass
        # serve() returns when the last connection has ended


async def test_a_handshake_that_is_under_way_while_the_server_stops_gets_503() -> None:
    async with anyio.create_task_group() as tg:
        server = await tg.start(creche.serve, echo, "127.0.0.1")
        host, port = server.addresses[0]
        async with await anyio.connect_tcp(host, port) as stream:
            await until(lambda: server.stats.accepted)
            tg.start_soon(server.drain)
            await until(lambda: server.draining)
            await stream.send(GET.encode())
            assert (await stream.receive()).startswith(b"HTTP/1.1 503 ")


@pytest.mark.feature("context_exit")
async def test_leaving_serving_shuts_down() -> None:
    seen = []

    async def handler(ws: creche.WebSocket) -> None:
        await creche.discard(ws)
        seen.append(ws.close_code)

    async def client(url: str) -> None:
        async with creche.connect(url) as ws:
            with pytest.raises(creche.ConnectionClosedOK) as caught:
                await ws.receive()
            assert caught.value.code == 1001

    async with anyio.create_task_group() as tg:
        async with creche.serving(handler, "127.0.0.1") as server:
            tg.start_soon(client, server.url)
            await until(lambda: server.connections)
        assert seen == [1001]


async def test_an_exception_leaves_serving_as_it_was_and_stops_the_server_now() -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with creche.serving(echo, "127.0.0.1") as server:
            raise error
    assert caught.value is error
    assert server.draining


@pytest.mark.parametrize(
    "wrong",
    [{"grace": 10**400}, {"grace": -1}, {"spread": float("nan")}, {"spread": "1"}, {"grace": True}],
)
async def test_a_shutdown_with_a_bad_time_closes_nothing(wrong: Any) -> None:
    async with creche.serving(echo, "localhost") as server, creche.connect(server.url) as ws:
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            await server.shutdown(**wrong)
        await ws.send("still open")
        assert await ws.receive() == "still open"


async def test_a_shutdown_with_a_bad_code_closes_nothing() -> None:
    async with creche.serving(echo, "127.0.0.1") as server, creche.connect(server.url) as ws:
        with pytest.raises(ValueError, match="code 1005"):
            await server.shutdown(1005)
        await ws.send("x")
        assert await ws.receive() == "x"
        assert not server.draining


async def test_a_shutdown_does_not_wait_for_a_handshake_that_is_under_way() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        host, port = server.addresses[0]
        async with await anyio.connect_tcp(host, port) as stream:
            await until(lambda: server.stats.accepted)
            with anyio.fail_after(20):
                await server.shutdown(grace=60)
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()


async def test_a_shutdown_ends_a_client_that_was_accepted_in_the_same_turn() -> None:
    async with creche.serving(echo, "127.0.0.1", open_timeout=None) as server:
        ours, theirs = socket.socketpair()
        with ours:
            server._add_socket(theirs, None)
            with anyio.fail_after(20):
                await server.shutdown(grace=60)
            assert server.stats.accepted == 1
            assert ours.recv(1) == b""


async def test_a_shutdown_does_not_wait_for_a_client_that_an_interrupt_has_kept_from_arriving(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    async with creche.serving(echo, "127.0.0.1") as server:
        ours, theirs = socket.socketpair()
        with ours, monkeypatch.context() as patch:
            patch.setattr("creche.connection.answering.Answering.start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                server._add_socket(theirs, None)
            assert ours.recv(1) == b""
        with anyio.fail_after(20):
            await server.shutdown(grace=60)


async def test_any_number_of_tasks_may_wait_for_a_server_to_stop() -> None:
    released = anyio.Event()
    returned: list[str] = []

    async def handler(ws: creche.WebSocket) -> None:
        await released.wait()

    async def wait_for(name: str, stop: Callable[[], Awaitable[None]]) -> None:
        await stop()
        returned.append(name)

    async with creche.serving(handler, "127.0.0.1") as server, creche.connect(server.url):
        await until(lambda: server.connections)
        async with anyio.create_task_group() as tg:
            tg.start_soon(wait_for, "drain", server.drain)
            tg.start_soon(wait_for, "drain", server.drain)
            tg.start_soon(wait_for, "shutdown", partial(server.shutdown, grace=60))
            tg.start_soon(wait_for, "shutdown", partial(server.shutdown, grace=60))
            await settle()
            assert returned == []
            released.set()
            with anyio.fail_after(20):
                await until(lambda: sorted(returned) == ["drain"] * 2 + ["shutdown"] * 2)


async def test_a_server_that_is_cancelled_while_it_shuts_down_stops_at_once() -> None:
    async with anyio.create_task_group() as tg:

        async def host(*, task_status: TaskStatus[Any]) -> None:
            with anyio.CancelScope() as scope:
                async with creche.serving(stubborn, "127.0.0.1") as server:
                    task_status.started((server, scope))
                    await anyio.sleep_forever()

        async def stubborn(ws: creche.WebSocket) -> None:
            await anyio.sleep_forever()

        server, scope = await tg.start(host)
        async with creche.connect(server.url):
            await until(lambda: server.connections)
            tg.start_soon(partial(server.shutdown, grace=60))
            await settle()
            with anyio.fail_after(20):
                scope.cancel()
                await until(lambda: not server.connections)


async def test_a_cancelled_shutdown_stops_at_once() -> None:
    async def stubborn(ws: creche.WebSocket) -> None:
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tg:
        server = await tg.start(creche.serve, stubborn, "127.0.0.1")
        async with creche.connect(server.url):
            await until(lambda: server.connections)
            async with cancelled_once() as scope:
                await server.shutdown()
            assert scope.cancelled_caught
        assert not server.connections


async def test_a_listening_socket_that_breaks_ends_serve(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def break_it(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_RDWR)

    sock = socket.create_server(("127.0.0.1", 0))
    async with anyio.create_task_group() as tg:
        tg.start_soon(break_it, sock)
        with pytest.raises(OSError, match="accepting failed"):
            await creche.serve(echo, sockets=[sock])
    assert "accepting failed" in caplog.text


async def test_a_socket_that_cannot_listen_is_told_and_stays_the_callers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.connect(sock.getsockname())
        with pytest.raises(OSError, match=r"cannot listen on \('127.0.0.1', "):
            await creche.serve(echo, sockets=[taken])
        assert taken.fileno() != -1


async def test_a_socket_that_has_tls_already_is_told_and_stays_the_callers(
    server_tls: ssl.SSLContext,
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as plain,
        server_tls.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True) as sock,
    ):
        with pytest.raises(TypeError, match=r"sockets\[0\] must be a plain socket.*say ssl"):
            await creche.serve(echo, sockets=[sock])
        with pytest.raises(TypeError, match=r"sockets\[1\] must be socket, not str"):
            await creche.serve(echo, sockets=[plain, "x"])  # type: ignore[list-item]
        assert sock.fileno() != -1


async def test_a_socket_without_a_stream_is_told_and_stays_the_callers() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(
            ValueError, match=r"sockets\[0\] must be a stream socket, not SOCK_DGRAM"
        ):
            await creche.serve(echo, sockets=[sock])
        with pytest.raises(ValueError, match=r"sock must be a stream socket, not SOCK_DGRAM"):
            async with creche.connect("ws://localhost/", sock=sock):
                pass
        assert sock.fileno() != -1


async def test_a_socket_that_is_given_twice_is_told_and_stays_the_callers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        with socket.create_server(("127.0.0.1", 0)) as other:
            with pytest.raises(ValueError, match=r"sockets\[2\] is sockets\[0\] again"):
                await creche.serve(echo, sockets=[sock, other, sock])
        assert sock.fileno() != -1


async def test_a_server_can_be_started_again_on_its_port() -> None:
    port = 0
    for _ in range(2):
        async with creche.serving(echo, "127.0.0.1", port) as server:
            port = server.addresses[0][1]
            async with creche.connect(server.url) as ws:
                await ws.send("x")
                assert await ws.receive() == "x"


async def test_two_native_cancellations_cannot_hang_a_server(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")
    import asyncio

    async with creche.serving(echo, "127.0.0.1") as server, raw_client(server.url):
        pass  # what an event loop opens at the first use stays open
    before = count_descriptors()
    started = anyio.Event()

    async def stubborn(ws: creche.WebSocket) -> None:
        started.set()
        await anyio.sleep_forever()

    async def client(server: creche.Server) -> None:
        async with raw_client(server.url) as peer:  # never answers a close frame
            await peer.receive_eof()

    servers: list[creche.Server] = []

    async def serve() -> None:
        async with creche.serving(stubborn, "127.0.0.1") as server:
            servers.append(server)
            await anyio.sleep_forever()

    task = asyncio.create_task(serve())
    await until(lambda: servers)
    other = asyncio.create_task(client(servers[0]))
    await started.wait()
    task.cancel()
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await other
    await until(lambda: count_descriptors() == before)


@pytest.mark.feature("handler_exit")
async def test_a_handler_that_does_not_close_is_closed_with_1000() -> None:
    async def handler(ws: creche.WebSocket) -> None:
        await ws.send("bye")

    async with creche.serving(handler, "127.0.0.1") as server, raw_client(server.url) as peer:
        assert await peer.receive() == (TEXT, b"bye")
        assert await peer.receive() == (CLOSE, b"\x03\xe8")
        await peer.send(CLOSE, b"\x03\xe8")
        await peer.receive_eof()  # the server closes TCP first


async def test_a_handler_that_ends_by_the_end_is_no_failure(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def handler(ws: creche.WebSocket) -> None:
        while True:
            await ws.receive()

    async with creche.serving(handler, "127.0.0.1") as server:
        async with creche.connect(server.url):
            pass
        await until(lambda: not server.connections)
        assert server.stats.failed == 0
    assert said(caplog) == []


async def test_the_end_inside_a_group_is_no_failure_either() -> None:
    async def handler(ws: creche.WebSocket) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(ws.receive)

    async with creche.serving(handler, "127.0.0.1") as server:
        async with creche.connect(server.url):
            pass
        await until(lambda: server.stats.opened and not server.connections)
        assert server.stats.failed == 0


async def test_a_task_that_was_cancelled_elsewhere_ends_one_connection_only(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")
    import asyncio

    async def handler(ws: creche.WebSocket) -> None:
        if await ws.receive() == "stray":
            task = asyncio.create_task(anyio.sleep_forever())
            task.cancel()
            await task
        await ws.send("fine")

    async with creche.serving(handler, "127.0.0.1") as server:
        async with creche.connect(server.url) as good:
            async with creche.connect(server.url) as bad:
                await bad.send("stray")
                with pytest.raises(creche.ConnectionClosed):
                    await bad.receive()
            await until(lambda: len(server.connections) == 1)
            await good.send("go on")
            assert await good.receive() == "fine"
    assert "cancelled from outside" in caplog.text


async def test_a_connection_that_cannot_begin_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no room for another socket")

    monkeypatch.setattr("creche.connection.answering.WebSocket", fail)
    async with (
        creche.serving(echo, "127.0.0.1") as server,
        creche.connect(server.url) as ws,
    ):
        with anyio.fail_after(20), pytest.raises(creche.ConnectionClosedError):
            await ws.receive()
        assert server.stats.refused == 1


async def test_what_nobody_foresaw_is_logged_and_the_server_lives(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        with monkeypatch.context() as patch:
            patch.setattr("creche.server.visitor.Answering", None)
            host, port = server.addresses[0]
            async with await anyio.connect_tcp(host, port):
                await until(lambda: caplog.records)
        assert "please report it" in caplog.text
        async with creche.connect(server.url) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
