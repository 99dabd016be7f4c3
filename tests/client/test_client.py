from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

import creche
from creche.protocol.frames import CLOSE, TEXT
from creche.testing import memory_byte_pair
from creche.transports.listening import bind_unix
from support import (
    cancelled_once,
    count_descriptors,
    echo,
    echo_over,
    filled,
    raw_server,
    settle,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.mark.feature("connect_socket")
async def test_a_connected_socket_can_be_given() -> None:
    async with creche.serving(echo, "127.0.0.1", hosts=None) as server:
        sock = socket.create_connection(server.addresses[0])
        async with creche.connect("ws://elsewhere.example/", sock=sock) as ws:
            assert ws.request.headers["Host"] == "elsewhere.example"
            await ws.send("x")
            assert await ws.receive() == "x"
        assert sock.fileno() == -1


async def test_a_socket_that_has_tls_already_is_refused(client_tls: ssl.SSLContext) -> None:
    ours, theirs = socket.socketpair()
    tls = client_tls.wrap_socket(ours, server_hostname="h", do_handshake_on_connect=False)
    with tls, theirs:
        with pytest.raises(TypeError, match="sock must be a plain socket"):
            async with creche.connect("wss://h/", sock=tls):
                pytest.fail("it was taken")


async def test_host_and_port_can_be_others_than_the_uris() -> None:
    async with creche.serving(echo, "127.0.0.1", hosts=None) as server:
        host, port = server.addresses[0]
        async with creche.connect("ws://elsewhere.example/", host=host, port=port) as ws:
            assert ws.request.headers["Host"] == "elsewhere.example"
            assert ws.extra(SocketAttribute.remote_port) == port


async def test_the_local_address_can_be_given() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        async with creche.connect(server.url, local_address="127.0.0.9") as ws:
            assert ws.extra(SocketAttribute.local_address)[0] == "127.0.0.9"


async def test_a_connection_that_cannot_begin_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[Exception] = []

    async def handler(ws: creche.WebSocket) -> None:
        try:
            await ws.receive()
        except creche.ConnectionClosed as exc:
            ends.append(exc)

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("creche.client.connect.WebSocket", fail)
    async with creche.serving(handler, "127.0.0.1") as server:
        with pytest.raises(MemoryError):
            async with creche.connect(server.url):
                pass
        await until(lambda: ends)
        assert isinstance(ends[0], creche.ConnectionClosedError)


async def test_tls_verifies_by_default(server_tls: ssl.SSLContext) -> None:
    async with creche.serving(echo, "localhost", ssl=server_tls) as server:
        for option in (None, True):
            with pytest.raises(ssl.SSLCertVerificationError):
                async with creche.connect(server.url, ssl=option):
                    pass


async def test_the_servers_name_can_be_given(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with creche.serving(echo, "127.0.0.1", hosts=None, ssl=server_tls) as server:
        uri = f"wss://elsewhere.example:{server.addresses[0][1]}/"
        async with creche.connect(
            uri, host="127.0.0.1", ssl=client_tls, server_hostname="localhost"
        ) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"


async def test_tls_over_a_unix_socket(
    unix_path: Path, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with anyio.create_task_group() as tg:

        async def serve(*, task_status: Any) -> None:
            await creche.serve_unix(echo, unix_path, ssl=server_tls, task_status=task_status)

        server = await tg.start(serve)
        async with creche.connect_unix(unix_path, "wss://localhost/", ssl=client_tls) as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
        await server.shutdown()


async def test_a_server_that_does_not_answer_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uri = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(TimeoutError, match=r"connection to 127.0.0.1 took over 0.02 s"):
            async with creche.connect(uri, open_timeout=0.02):
                pass


async def test_a_unix_socket_without_room_is_waited_for_until_open_timeout(unix_path: Path) -> None:
    before = count_descriptors()
    with bind_unix(unix_path, backlog=1), filled(unix_path):
        with pytest.raises(TimeoutError, match=r"took over 0\.05 s"):
            async with creche.connect_unix(unix_path, open_timeout=0.05):
                pass
    assert count_descriptors() == before


async def test_a_client_that_is_cancelled_while_it_opens_leaves_at_once() -> None:
    ours, theirs = memory_byte_pair()
    async with cancelled_once() as scope:
        async with creche.client_websocket(ours, "ws://localhost/"):
            pass
    assert scope.cancelled_caught
    with pytest.raises(anyio.EndOfStream):
        while True:
            await theirs.receive()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 500 Oops\r\n\r\nbo|dy", b"body"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nto|o", b"too"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\no|k and more", b"ok"),
    ],
)
async def test_a_refusals_body_is_read_to_its_end(answer: bytes, body: bytes) -> None:
    ours, theirs = memory_byte_pair()

    async def serve() -> None:
        await theirs.receive()
        for piece in answer.split(b"|"):
            await theirs.send(piece)
            await settle()
        await theirs.aclose()

    async with anyio.create_task_group() as tg:
        tg.start_soon(serve)
        with pytest.raises(creche.InvalidStatus) as caught:
            async with creche.client_websocket(ours, "ws://localhost/"):
                pass
    assert caught.value.response.body == body


async def test_a_refusals_body_is_not_waited_for_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creche.connection.asking._REFUSAL_SECONDS", 0.02)
    ours, theirs = memory_byte_pair()

    async def serve() -> None:
        await theirs.receive()
        await theirs.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 100\r\n\r\npart")

    async with anyio.create_task_group() as tg:
        tg.start_soon(serve)
        with pytest.raises(creche.InvalidStatus) as caught:
            async with creche.client_websocket(ours, "ws://localhost/"):
                pass
    assert caught.value.response.body == b"part"


async def test_a_server_that_closes_instead_of_answering_is_told() -> None:
    ours, theirs = memory_byte_pair()

    async def serve() -> None:
        await theirs.receive()
        await theirs.send(b"HTTP/1.1 101")
        await theirs.send_eof()

    async with anyio.create_task_group() as tg:
        tg.start_soon(serve)
        with pytest.raises(creche.InvalidMessage, match="closed the connection before"):
            async with creche.client_websocket(ours, "ws://localhost/"):
                pass


async def test_frames_that_come_with_the_answer_are_not_lost() -> None:
    async with raw_server() as (ws, peer):
        # shake_hands() has answered; what follows at once is read with it or after it
        await peer.send(TEXT, b"early")
        assert await ws.receive() == "early"
        await peer.send(CLOSE, b"")
        await peer.stream.aclose()


async def test_a_stream_of_trio_can_be_used(anyio_backend_name: str) -> None:
    if anyio_backend_name != "trio":
        pytest.skip("only trio has streams of trio")
    import trio.testing

    ours, theirs = trio.testing.memory_stream_pair()
    await echo_over(ours, theirs)


async def test_leaving_after_the_peer_has_vanished_takes_close_timeout_at_most() -> None:
    async with raw_server(close_timeout=0.03) as (ws, _):
        start = anyio.current_time()
    assert 0.02 < anyio.current_time() - start < 30
    assert ws.close_code == 1006


async def test_leaving_when_cancelled_takes_a_second_at_most() -> None:
    start = anyio.current_time()
    with anyio.CancelScope() as scope:
        async with raw_server(close_timeout=30) as (ws, _):
            scope.cancel()
            await anyio.sleep_forever()
    assert ws.close_code == 1006
    assert 0.9 < anyio.current_time() - start < 30


async def test_a_cancellation_while_leaving_shortens_it() -> None:
    start = anyio.current_time()
    leaving = anyio.Event()
    async with cancelled_once(leaving.is_set) as scope:
        async with raw_server(close_timeout=30):
            leaving.set()
    assert scope.cancelled_caught
    assert anyio.current_time() - start < 30


async def test_native_cancellation_counts_and_a_second_one_aborts(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")
    import asyncio

    connected = anyio.Event()
    released = anyio.Event()

    async def handler(ws: creche.WebSocket) -> None:
        ws._link.transport.pause_reading()  # no close frame is answered
        await ws.send("deaf")
        await released.wait()

    async with creche.serving(handler, "127.0.0.1", close_timeout=0.05) as server:

        async def client() -> None:
            async with creche.connect(server.url, close_timeout=30) as ws:
                assert await ws.receive() == "deaf"
                connected.set()
                await anyio.sleep_forever()

        task = asyncio.create_task(client())
        await connected.wait()
        task.cancel()
        await settle()
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        released.set()

        async with asyncio.timeout(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    async with creche.connect(server.url):
                        await anyio.sleep_forever()


def test_it_runs_under_asyncio_run_as_well(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with creche.serving(echo, "127.0.0.1") as server:
            async with creche.connect(server.url) as ws:
                await ws.send("x" * 10**6)
                assert await ws.receive() == "x" * 10**6

    asyncio.run(main())
    assert caplog.records == []


async def test_what_an_iterator_gives_is_sent() -> None:
    """In every attempt, also after a redirect."""
    seen: list[creche.Headers] = []

    def redirect(request: creche.Request) -> creche.Response | None:
        seen.append(request.headers)
        return creche.Response(302, {"Location": "/here"}) if request.path == "/" else None

    async with creche.serving(
        echo,
        "127.0.0.1",
        process_request=redirect,
        subprotocols=iter(["chat"]),  # type: ignore[arg-type]
    ) as server:
        for _ in range(2):  # clients
            async with creche.connect(
                server.url,
                additional_headers=zip(["Authorization", "X-A", "X-A"], "xyz", strict=True),
                subprotocols=(name for name in ["other", "chat"]),  # type: ignore[arg-type]
            ) as ws:
                assert ws.subprotocol == "chat"
    assert len(seen) == 4
    for headers in seen:
        assert headers["Authorization"] == "x"
        assert headers.get_all("X-A") == ["y", "z"]


async def test_a_required_subprotocol_must_be_chosen() -> None:
    async with creche.serving(echo, "127.0.0.1", subprotocols=["chat"]) as server:
        options: dict[str, Any] = {"require_subprotocol": True}
        async with creche.connect(server.url, subprotocols=["other", "chat"], **options) as ws:
            assert ws.subprotocol == "chat"
        with pytest.raises(creche.NegotiationError, match=r"chose none of those offered: require"):
            await creche.connect(server.url, subprotocols=["other", "more"], **options)
        async with creche.connect(server.url, subprotocols=["other"]) as ws:
            assert ws.subprotocol is None


async def test_one_that_is_not_offered_cannot_be_required() -> None:
    for wrong in (None, ()):
        for kind in (creche.connect, creche.reconnecting):
            with pytest.raises(ValueError, match=r"^require_subprotocol: .* say which in subpro"):
                kind("ws://localhost/", subprotocols=wrong, require_subprotocol=True)
    with pytest.raises(TypeError, match="require_subprotocol"):
        creche.connect("ws://localhost/", require_subprotocol="chat")  # type: ignore[arg-type]


async def test_strangers_cannot_choose_what_they_are_not_offered() -> None:
    async with creche.serving(echo, "127.0.0.1", subprotocols=["chat"]) as other:

        def redirect(_request: creche.Request) -> creche.Response:
            return creche.Response(302, {"Location": other.url})

        async with creche.serving(echo, "127.0.0.1", process_request=redirect) as server:
            with pytest.raises(
                creche.NegotiationError, match=r"chose none, and none was offered: require"
            ):
                await creche.connect(
                    server.url, subprotocols=["chat"], require_subprotocol=True, redirects="any"
                )


async def test_a_dot_at_the_end_of_a_host_is_none_of_its_certificates(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    async with creche.serving(echo, "127.0.0.1", ssl=server_tls) as server:
        port = server.addresses[0][1]
        async with creche.connect(
            f"wss://localhost.:{port}/", ssl=client_tls, host="127.0.0.1"
        ) as ws:
            assert ws.request.headers["Host"] == f"localhost.:{port}"
            await ws.send("x")
            assert await ws.receive() == "x"


def link_local_address() -> str | None:
    """One of this machine, such as fe80::1%eth0."""
    table = Path("/proc/net/if_inet6")
    for line in table.read_text().splitlines() if table.exists() else []:
        digits, *_, interface = line.split()
        address = ipaddress.IPv6Address(bytes.fromhex(digits))
        if address.is_link_local:
            return f"{address}%{interface}"
    return None


@pytest.mark.skipif(link_local_address() is None, reason="needs a link-local address")
async def test_a_link_local_address_has_a_zone_which_the_server_is_not_told() -> None:
    host = str(link_local_address())
    async with creche.serving(echo, host) as server:
        address, zone = host.split("%")
        port = server.addresses[0][1]
        assert server.url == f"ws://[{address}%25{zone}]:{port}/"
        for uri in (server.url, f"ws://[{host}]:{port}/"):
            async with creche.connect(uri, local_address=host) as ws:
                assert ws.request.headers["Host"] == f"[{address}]:{port}"
                await ws.send("x")
                assert await ws.receive() == "x"
        async with creche.connect("ws://localhost/", host=host, port=port) as ws:
            assert ws.request.headers["Host"] == "localhost"
