"""What those who run a server need: limits for each client, counts, lifetimes, certificates."""

from __future__ import annotations

import logging
import random
import socket
import ssl
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute

import creche
from creche.connection import answering
from creche.handshake import forwarding
from creche.protocol.states import Side
from creche.server.limits import ClientLimits
from creche.testing import memory_byte_pair
from support import FAKE_TIME, RawPeer, cancelled_once, echo, raw_client, until

LOCAL = ["127.0.0.0/8"]


def forwarded(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}


async def refusal(uri: str, **options: Any) -> creche.Response:
    """The answer to a client that is refused."""
    with pytest.raises(creche.InvalidStatus) as caught:
        async with creche.connect(uri, **options):
            pass
    return caught.value.response


# Who the client is


@pytest.mark.anyio
async def test_the_address_of_a_client() -> None:
    seen = []

    async def handler(ws: creche.WebSocket) -> None:
        seen.append(ws.client_address)

    def process_request(request: creche.Request) -> None:
        seen.append(request.client_address)

    async with creche.serving(handler, "127.0.0.1", process_request=process_request) as server:
        async with creche.connect(server.url, additional_headers=forwarded("1.2.3.4")) as ws:
            await creche.discard(ws)
            assert ws.client_address is None  # it is the client itself
    assert seen == ["127.0.0.1"] * 2


@pytest.mark.anyio
@pytest.mark.feature("trusted_proxies")
async def test_a_trusted_proxy_says_who_the_client_is() -> None:
    seen = []

    async def handler(ws: creche.WebSocket) -> None:
        seen.append(ws.client_address)

    async with creche.serving(handler, "127.0.0.1", trusted_proxies=LOCAL) as server:
        async with creche.connect(server.url, additional_headers=forwarded("1.2.3.4")) as ws:
            await creche.discard(ws)
    assert seen == ["1.2.3.4"]


@pytest.mark.anyio
async def test_where_there_is_no_address_there_is_none() -> None:
    ours, theirs = memory_byte_pair()
    async with anyio.create_task_group() as tg:
        tg.start_soon(RawPeer(theirs, Side.CLIENT).shake_hands)
        async with creche.server_websocket(ours, close_timeout=0.01) as ws:
            assert ws.client_address is None


# Limits


@pytest.mark.anyio
@pytest.mark.feature("client_limits")
async def test_a_client_has_so_many_connections() -> None:
    async with creche.serving(
        echo, "127.0.0.1", trusted_proxies=LOCAL, max_connections_per_client=2
    ) as server:
        mine: Any = {"additional_headers": forwarded("2001:db9::1")}
        also_mine: Any = {"additional_headers": forwarded("2001:db9::2")}
        other: Any = {"additional_headers": forwarded("2001:db9:0:1::1")}
        async with creche.connect(server.url, **mine):
            async with creche.connect(server.url, **also_mine):
                response = await refusal(server.url, **mine)
                assert response.status == 429
                assert response.headers["Retry-After"] == "10"
                assert response.body == b"you have too many connections\n"
                async with creche.connect(server.url, **other):
                    pass
            await until(lambda: server.stats.open == 1)
            async with creche.connect(server.url, **mine):
                pass


@pytest.mark.anyio
async def test_who_hides_behind_a_proxy_counts_as_the_proxy() -> None:
    async with creche.serving(
        echo, "127.0.0.1", trusted_proxies=LOCAL, max_connections_per_client=1
    ) as server:
        hidden: list[Any] = [{"Forwarded": '"'}, {"Forwarded": "for=_x"}, forwarded("unknown")]
        async with creche.connect(server.url, additional_headers=hidden[0]):
            for headers in hidden:
                response = await refusal(server.url, additional_headers=headers)
                assert response.status == 429
            async with creche.connect(server.url, additional_headers=forwarded("1.2.3.4")):
                pass


@pytest.mark.anyio
async def test_who_the_client_is_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str | None] = []
    find = forwarding.find_client

    def find_and_note(*args: Any) -> str | None:
        found.append(find(*args))
        return found[-1]

    monkeypatch.setattr(answering, "find_client", find_and_note)

    async def handler(ws: creche.WebSocket) -> None:
        for _ in range(10):
            assert ws.client_address is None
            ws.logger.debug("again")

    async with creche.serving(handler, "127.0.0.1", trusted_proxies=LOCAL) as server:
        async with creche.connect(server.url, additional_headers={"Forwarded": '"'}) as ws:
            await creche.discard(ws)
    assert found == [None]


@pytest.mark.anyio
@pytest.mark.feature("client_limits")
async def test_a_client_asks_so_often() -> None:
    async with creche.serving(echo, "127.0.0.1", handshake_rate=0.2) as server:
        for _ in range(2):
            async with creche.connect(server.url):
                pass
        response = await refusal(server.url)
        assert response.status == 429
        assert 1 <= int(response.headers["Retry-After"]) <= 5
        await until(lambda: server.stats.refused_by_status == {429: 1})


@pytest.mark.anyio
async def test_a_client_without_an_address_has_no_limit() -> None:
    ours, theirs = memory_byte_pair()

    class Once(anyio.abc.Listener[anyio.abc.ByteStream]):
        async def serve(self, handler: Any, task_group: Any = None) -> None:
            await handler(theirs)

        async def aclose(self) -> None:
            pass

        @property
        def extra_attributes(self) -> Any:
            return {}

    async with anyio.create_task_group() as tg:

        async def serve(*, task_status: Any) -> None:
            await creche.serve_listener(echo, Once(), handshake_rate=0.001, task_status=task_status)

        server = await tg.start(serve)
        async with creche.client_websocket(ours, "ws://localhost/") as ws:
            await ws.send("x")
            assert await ws.receive() == "x"
        await server.shutdown()


ASKED_BEHIND_A_PROXY = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"X-Forwarded-For: 1.2.3.4\r\n\r\n"
)


def ask_and_reset(address: Any) -> None:
    """Ask for a WebSocket, and reset the connection before anybody looks."""
    with socket.create_connection(address) as sock:
        sock.sendall(ASKED_BEHIND_A_PROXY)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.anyio
@pytest.mark.parametrize("by_anyio", [False, True])
async def test_a_client_that_resets_after_it_has_asked_counts(
    by_anyio: bool, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str | None] = []

    def process_request(request: creche.Request) -> None:
        seen.append(request.client_address)

    options: Any = {
        "process_request": process_request,
        "handshake_rate": 0.01,
        "trusted_proxies": ["unix"],
    }
    async with anyio.create_task_group() as tg:

        async def serve(*, task_status: Any) -> None:
            if by_anyio:
                await creche.serve_listener(echo, listener, task_status=task_status, **options)
            else:
                await creche.serve(echo, sockets=[sock], task_status=task_status, **options)

        if by_anyio:
            listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
            address = listener.extra(SocketAttribute.local_address)
        else:
            sock = socket.create_server(("127.0.0.1", 0))
            address = sock.getsockname()
        for _ in range(5):
            ask_and_reset(address)
        server = await tg.start(serve)
        await until(lambda: server.stats.opened + server.stats.refused == 5)
        await server.shutdown()
    # Over TCP nobody is the peer of a Unix socket whose header would be believed.
    assert seen in ([["127.0.0.1"], [None], []] if by_anyio else [["127.0.0.1"]])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.anyio
async def test_the_address_of_a_client_is_known_after_it_has_gone() -> None:
    seen: list[Any] = []

    def process_request(request: creche.Request) -> None:
        seen.append(request.client_address)
        seen.append(request.extra(SocketAttribute.remote_address)[0])

    with socket.create_server(("127.0.0.1", 0)) as sock:
        ask_and_reset(sock.getsockname())
        async with creche.serving(echo, sockets=[sock], process_request=process_request) as server:
            await until(lambda: server.stats.opened + server.stats.refused)
    assert seen == ["127.0.0.1"] * 2


@pytest.mark.anyio
async def test_a_proxy_on_a_unix_socket_says_who_the_client_is(unix_path: Path) -> None:
    async def handler(ws: creche.WebSocket) -> None:
        await ws.send(str(ws.client_address))

    async with anyio.create_task_group() as tg:

        async def serve(*, task_status: Any) -> None:
            await creche.serve_unix(
                handler, unix_path, trusted_proxies=["unix"], task_status=task_status
            )

        server = await tg.start(serve)
        headers = forwarded("1.2.3.4")
        async with creche.connect_unix(unix_path, additional_headers=headers) as ws:
            assert await ws.receive() == "1.2.3.4"
        await server.shutdown()


def test_handshakes_are_saved_for_ten_seconds() -> None:
    limits = ClientLimits(None, 2)
    assert [limits.handshake("a", 100) for _ in range(20)] == [0] * 20
    assert limits.handshake("a", 100) == 1
    assert limits.handshake("b", 100) == 0
    assert limits.handshake("a", 100.5) == 0
    assert limits.handshake("a", 100.5) == 1
    assert [limits.handshake("a", 1000) for _ in range(21)].count(0) == 20


def test_a_rate_below_one_in_ten_seconds_lets_one_in() -> None:
    limits = ClientLimits(None, 0.01)
    assert limits.handshake("a", 0) == 0
    assert limits.handshake("a", 0) == 100
    assert limits.handshake("a", 99.5) == 1
    assert limits.handshake("a", 100) == 0


def test_clients_that_have_been_quiet_are_forgotten() -> None:
    limits = ClientLimits(None, 1)
    for now in range(100):
        for client in range(1000):
            assert limits.handshake(f"{now} {client}", float(now)) == 0
    assert len(limits._full_at) < 10_000


def test_where_none_can_be_forgotten_that_is_found_out_rarely() -> None:
    looks = 0

    class Clock(float):
        def __lt__(self, other: float) -> bool:
            nonlocal looks
            looks += 1
            return float(self) < float(other)

    limits = ClientLimits(None, 1)
    for client in range(10_000):
        assert limits.handshake(f"{client}", Clock(0.0)) == 0
    assert 2 * 4096 <= len(limits._full_at) == 10_000
    assert looks < 30_000


@pytest.mark.anyio
async def test_servers_may_share_a_port() -> None:
    async with creche.serving(echo, "127.0.0.1", reuse_port=True) as one:
        port = one.addresses[0][1]
        async with creche.serving(echo, "127.0.0.1", port, reuse_port=True) as other:
            assert one.addresses == other.addresses
        with pytest.raises(OSError, match="cannot listen"):
            async with creche.serving(echo, "127.0.0.1", port):
                raise AssertionError


# Counts


@pytest.mark.anyio
@pytest.mark.feature("stats")
async def test_what_a_server_counts() -> None:
    async def handler(ws: creche.WebSocket) -> None:
        if ws.request.path == "/fail":
            raise RuntimeError
        await echo(ws)

    refuse = creche.Response(404)
    async with creche.serving(
        handler, "127.0.0.1", process_request=lambda r: refuse if r.path == "/404" else None
    ) as server:
        assert server.stats == creche.ServerStats()
        async with creche.connect(server.url, compression=None) as ws:
            await ws.send("x" * 100)
            await ws.receive()
            async with ws.send_stream() as stream:
                await stream.send(b"y")
                await stream.send(b"z")
            await ws.receive()
            stats = server.stats
            assert (stats.open, stats.opened, stats.accepted, stats.handshakes) == (1, 1, 1, 0)
            assert (stats.messages_received, stats.messages_sent) == (2, 2)
            # Frames: masked from the client, and the stream's in pieces.
            assert stats.bytes_received == 6 + 100 + 3 * 6 + 2
            assert stats.bytes_sent == 2 + 100 + 2 + 2
        await refusal(f"{server.url}404")
        async with creche.connect(f"{server.url}fail") as failing:
            with pytest.raises(creche.ConnectionClosedError):
                await failing.receive()
        with socket.create_connection(server.addresses[0]):
            await until(lambda: server.stats.handshakes == 1)
        await until(lambda: not server.stats.handshakes and not server.stats.open)
        stats = server.stats
        assert stats.accepted == 4
        assert stats.opened == 2
        assert stats.refused == 2
        assert stats.refused_by_status == {404: 1}
        assert stats.closed_by_code == {1000: 1, 1011: 1}
        assert stats.failed == 1


@pytest.mark.anyio
@pytest.mark.parametrize("limit", [None, 2**28])
async def test_what_is_kept_and_what_is_passed_over_is_counted(limit: int | None) -> None:
    async def handler(ws: creche.WebSocket) -> None:
        await ws.receive()
        creche.broadcast([ws], b"x" * 20_000_000)
        creche.broadcast([ws], b"y")
        await creche.discard(ws)

    async with creche.serving(
        handler, "127.0.0.1", close_timeout=0.1, max_buffered_bytes=limit
    ) as server:
        async with raw_client(server.url) as client:
            await client.send(1, b"go")
            await until(lambda: server.stats.skipped)
            stats = server.stats
            assert stats.skipped == 1
            assert 1_000_000 < stats.buffered < 20_000_100
            assert stats.messages_sent == 1
        await until(lambda: not server.stats.open)
        assert server.stats.buffered == 0


# Lifetimes


@pytest.mark.parametrize("backend", FAKE_TIME)
@pytest.mark.feature("max_lifetime")
def test_a_connection_lives_so_long(backend: str) -> None:
    async def main() -> list[float]:
        lives: list[float] = []

        async def live(uri: str) -> None:
            async with creche.connect(uri) as ws:
                started = anyio.current_time()
                await creche.discard(ws)
                assert (ws.close_code, ws.close_reason) == (1001, "max_lifetime")
                lives.append(anyio.current_time() - started)

        async with creche.serving(creche.discard, "127.0.0.1", max_lifetime=1000) as server:
            async with anyio.create_task_group() as tg:
                for _ in range(20):
                    tg.start_soon(live, server.url)
        return lives

    random.seed(1)
    lives = anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())
    assert all(900 <= life <= 1000 for life in lives)
    assert max(lives) - min(lives) > 50


@pytest.mark.parametrize("backend", FAKE_TIME)
@pytest.mark.feature("spread")
def test_a_shutdown_can_be_spread(backend: str) -> None:
    async def main() -> list[float]:
        ends: list[float] = []

        async def live(uri: str, seconds: float) -> None:
            async with creche.connect(uri) as ws:
                with anyio.move_on_after(seconds):
                    await creche.discard(ws)
                    assert ws.close_code == 1001
                    ends.append(anyio.current_time())

        async with creche.serving(creche.discard, "127.0.0.1") as server:
            async with anyio.create_task_group() as tg:
                for _ in range(10):
                    tg.start_soon(live, server.url, 1000)
                tg.start_soon(live, server.url, 0.5)  # leaves by itself meanwhile
                await until(lambda: server.stats.open == 11)
                start = anyio.current_time()
                await server.shutdown(spread=60)
        return [end - start for end in ends]

    ends = sorted(anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]()))
    assert ends[-1] < 61
    assert all(5 < later - earlier < 12 for earlier, later in pairwise(ends))
    assert len(ends) >= 9  # the one that left may have been the first in the row


@pytest.mark.anyio
async def test_cancelling_a_spread_shutdown_ends_it_now() -> None:
    async with creche.serving(echo, "127.0.0.1") as server:
        async with creche.connect(server.url) as one, creche.connect(server.url) as two:
            await until(lambda: server.stats.open == 2)
            async with cancelled_once():
                await server.shutdown(spread=1000)
            await creche.discard(one)
            await creche.discard(two)
            assert (one.close_code, two.close_code) == (1001, 1001)


# TLS


@pytest.mark.anyio
@pytest.mark.feature("certificates")
async def test_a_new_certificate_is_loaded_into_the_live_context(tmp_path: Any) -> None:
    old, new = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    old.issue_cert("localhost").configure_cert(context)
    clients = []
    for ca in (old, new):
        client = ssl.create_default_context()
        ca.configure_trust(client)
        clients.append(client)
    async with creche.serving(echo, "localhost", ssl=context) as server:
        async with creche.connect(server.url, ssl=clients[0]) as ws:
            new.issue_cert("localhost").configure_cert(context)
            async with creche.connect(server.url, ssl=clients[1]):
                pass
            with pytest.raises(ssl.SSLCertVerificationError):
                async with creche.connect(server.url, ssl=clients[0]):
                    pass
            await ws.send("still here")
            assert await ws.receive() == "still here"


@pytest.mark.anyio
@pytest.mark.feature("client_certificates")
async def test_the_handler_sees_the_clients_certificate() -> None:
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    ca.issue_cert("localhost").configure_cert(context)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    subjects = []

    def process_request(request: creche.Request) -> None:
        subjects.append(request.extra(TLSAttribute.peer_certificate)["subjectAltName"])

    async def handler(ws: creche.WebSocket) -> None:
        certificate: Any = ws.extra(TLSAttribute.peer_certificate)
        subjects.append(certificate["subjectAltName"])

    async with creche.serving(
        handler, "localhost", ssl=context, process_request=process_request
    ) as server:
        with pytest.raises((OSError, creche.HandshakeError)):
            async with creche.connect(server.url, ssl=client):
                pass
        ca.issue_cert("device-7.example").configure_cert(client)
        async with creche.connect(server.url, ssl=client) as ws:
            await creche.discard(ws)
    assert subjects == [(("DNS", "device-7.example"),)] * 2
