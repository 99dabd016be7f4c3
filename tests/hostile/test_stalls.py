"""Peers that stall: each wait ends by its deadline, with an error that says which."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

import creche
import sweep
from creche.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, TEXT
from creche.testing import memory_byte_pair, memory_pair
from support import FAKE_TIME, RawPeer, echo, raw_server, until

pytestmark = pytest.mark.anyio

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
LARGE = b"x" * 300_000
# What is far beyond any deadline here, and still notices a wait for ever.
LONG = 20.0


@asynccontextmanager
async def clogged(
    transport: str, tls: Contexts, **options: Any
) -> AsyncIterator[tuple[creche.WebSocket, sweep.Peer]]:
    """A connection to a peer that does not read, over any transport."""
    async with sweep.open_world(transport, tls) as world:
        world.options = {"close_timeout": 0.1, "ping_interval": None, **options}
        async with world.opened() as (ws, peer):
            peer.behave("clogged")
            yield ws, peer
        await world.clean()


# A peer that stops reading


@pytest.mark.parametrize("transport", sweep.TRANSPORTS)
async def test_a_peer_that_stops_reading_while_we_send_ends_by_stall_timeout(
    transport: str, tls: Contexts
) -> None:
    async with clogged(transport, tls, stall_timeout=0.2) as (ws, _):
        with anyio.fail_after(LONG), pytest.raises(creche.ConnectionClosedError) as caught:
            while True:
                await ws.send(LARGE)
    assert "stall timeout: the peer took no byte for 0.2 s" in str(caught.value)
    assert caught.value.code == 1006


async def test_flush_ends_by_stall_timeout(tls: Contexts) -> None:
    async with clogged("tcp", tls, stall_timeout=0.2) as (ws, _):
        ws.send_nowait(LARGE)
        with anyio.fail_after(LONG), pytest.raises(creche.ConnectionClosedError, match="stall"):
            await ws.flush()


async def test_a_ping_to_a_peer_that_stops_reading_ends_by_ping_timeout(tls: Contexts) -> None:
    async with clogged("tcp", tls, ping_timeout=0.2) as (ws, _):
        with anyio.fail_after(LONG), pytest.raises(creche.ConnectionClosedError) as caught:
            await ws.ping()
    assert "keepalive ping timeout" in str(caught.value)


async def test_a_ping_that_cannot_be_written_ends_by_stall_timeout(tls: Contexts) -> None:
    async with clogged("tcp", tls, ping_timeout=0.05, stall_timeout=0.3) as (ws, _):
        ws.send_nowait(LARGE)
        with anyio.fail_after(LONG), pytest.raises(creche.ConnectionClosedError) as caught:
            await ws.ping()
    assert "stall timeout" in str(caught.value)


@pytest.mark.parametrize("transport", sweep.TRANSPORTS)
@pytest.mark.parametrize("behind", [0, len(LARGE)])
async def test_aclose_and_leaving_end_by_close_timeout(
    transport: str, behind: int, tls: Contexts
) -> None:
    async with clogged(transport, tls) as (ws, _):
        if behind:
            ws.send_nowait(LARGE)
        with anyio.fail_after(LONG):
            await ws.aclose()
        assert ws.close_code == 1006
        with pytest.raises(creche.ConnectionAlreadyClosed, match="close timeout"):
            await ws.receive()
    with anyio.fail_after(LONG):
        async with clogged(transport, tls) as (ws, _):
            if behind:
                ws.send_nowait(LARGE)


@pytest.mark.parametrize("backend", FAKE_TIME)
@pytest.mark.parametrize("close_timeout", [0.5, 60])
def test_a_cancelled_scope_ends_within_a_second(backend: str, close_timeout: float) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with raw_server(
                clogged_after=0, close_timeout=close_timeout, ping_interval=None
            ) as (ws, _):
                ws.send_nowait(LARGE)
                start = anyio.current_time()
                scope.cancel()
                await anyio.sleep_forever()
        assert anyio.current_time() - start == pytest.approx(min(close_timeout, 1), abs=0.01)

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


@pytest.mark.parametrize("backend", FAKE_TIME)
def test_a_closing_handshake_that_has_had_its_second_gets_no_other(backend: str) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with raw_server(close_timeout=60, ping_interval=None) as (ws, peer):
                await ws.send_eof()
                await peer.receive()
                await anyio.sleep(5)
                start = anyio.current_time()
                scope.cancel()
                await anyio.sleep_forever()
        assert anyio.current_time() - start < 0.1

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


@pytest.mark.parametrize("transport", ["tcp", "tls", "unix"])
@pytest.mark.parametrize("peer", sweep.PEERS)
async def test_a_shutdown_ends_within_its_grace(transport: str, peer: str, tls: Contexts) -> None:
    async with sweep.open_world(transport, tls) as world:
        world.options = {"close_timeout": 30, "ping_interval": None}
        async with anyio.create_task_group() as tg:
            server = await tg.start(world.serving(sweep.talk))
            client = await world.visit(server)
            await until(lambda: server.connections)
            client.behave(peer)
            start = anyio.current_time()
            await server.shutdown(grace=1)
            assert anyio.current_time() - start < 10  # and not 30
        await world.clean()


# The opening handshake


async def silent_server(task_status: Any) -> None:
    async def hold(stream: SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        task_status.started(listener.extra(anyio.abc.SocketAttribute.local_port))
        await listener.serve(hold)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.feature("open_timeout")
async def test_a_server_that_never_answers_ends_connect_by_open_timeout(scheme: str) -> None:
    async with anyio.create_task_group() as tg:
        port = await tg.start(lambda task_status: silent_server(task_status))
        with anyio.fail_after(LONG):
            with pytest.raises(TimeoutError, match=r"opening .* took over 0.1 s"):
                async with creche.connect(f"{scheme}://127.0.0.1:{port}/", open_timeout=0.1):
                    raise AssertionError
        tg.cancel_scope.cancel()


async def test_a_server_that_stalls_within_its_answer_ends_connect_by_open_timeout() -> None:
    ours, theirs = memory_byte_pair()
    await theirs.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: ")
    with anyio.fail_after(LONG), pytest.raises(TimeoutError, match="took over"):
        async with creche.client_websocket(ours, "ws://localhost/", open_timeout=0.1):
            raise AssertionError


def drip(peer: Any, data: bytes, between: float) -> Callable[[], Coroutine[Any, Any, None]]:
    async def send() -> None:
        try:
            for byte in data:
                await peer.send(bytes([byte]))
                await anyio.sleep(between)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass

    return send


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 10_000


@pytest.mark.feature("open_timeout")
async def test_slowloris_is_closed_after_open_timeout() -> None:
    async with creche.serving(echo, "127.0.0.1", open_timeout=0.2) as server:
        async with await anyio.connect_tcp(*server.addresses[0]) as stream:
            async with anyio.create_task_group() as tg:
                tg.start_soon(drip(stream, REQUEST, 0.001))
                with anyio.fail_after(LONG):
                    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                        await stream.receive()
                tg.cancel_scope.cancel()
        assert server.stats.refused == 1


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
async def test_a_client_that_stalls_within_tls_is_closed_after_open_timeout(
    sent: bytes, server_tls: ssl.SSLContext
) -> None:
    async with creche.serving(echo, "127.0.0.1", ssl=server_tls, open_timeout=0.1) as server:
        async with await anyio.connect_tcp(*server.addresses[0]) as stream:
            await stream.send(sent)
            with anyio.fail_after(LONG):
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()


async def test_a_refused_client_that_reads_nothing_is_left_after_open_timeout() -> None:
    large = creche.Response(200, body=b"x" * 2**24)

    async with creche.serving(
        echo, "127.0.0.1", process_request=lambda _: large, open_timeout=0.2
    ) as server:
        with socket.create_connection(server.addresses[0]) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await until(lambda: server.stats.accepted)
            with anyio.fail_after(LONG):
                await until(lambda: not server._register.guests)


# A message that is never finished


@asynccontextmanager
async def reading(**options: Any) -> AsyncIterator[tuple[creche.WebSocket, RawPeer]]:
    """A client that receives from a raw peer, in memory."""
    async with raw_server(ping_interval=None, **options) as (ws, peer):
        yield ws, peer


UNFINISHED: dict[str, tuple[int, bytes]] = {
    # how many bytes of the frame are sent, and the frame
    "a header": (1, b""),
    "a payload": (100, b"x" * 1000),
    "a fragment": (0, b""),
}


@pytest.mark.parametrize("backend", FAKE_TIME)
@pytest.mark.parametrize("kind", UNFINISHED)
def test_a_message_that_is_never_finished_ends_by_message_timeout(backend: str, kind: str) -> None:
    size, payload = UNFINISHED[kind]

    async def main() -> None:
        async with reading() as (ws, peer):
            await peer.send(TEXT, b"whole")
            if size:
                await peer.stream.send(peer.frame(BINARY, payload)[:size])
            else:
                await peer.send(BINARY, b"x", fin=False)
            start = anyio.current_time()
            assert await ws.receive() == "whole"
            with pytest.raises(creche.ConnectionClosedError) as caught:
                await ws.receive()
            assert anyio.current_time() - start == pytest.approx(60)
            assert isinstance(caught.value.__cause__, creche.ProtocolError)
            assert "message timeout: a message was not finished in 60 s" in str(caught.value)
            opcode, close = await peer.receive()
            assert (opcode, close[:2]) == (CLOSE, (1008).to_bytes(2, "big"))

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


@pytest.mark.parametrize("backend", FAKE_TIME)
def test_bytes_that_go_on_to_come_do_not_put_off_message_timeout(backend: str) -> None:
    async def main() -> None:
        async with reading() as (ws, peer), anyio.create_task_group() as tg:
            await peer.send(BINARY, b"", fin=False)

            async def trickle() -> None:
                while True:
                    await anyio.sleep(10)
                    await peer.send(CONTINUATION, b"x", fin=False)

            tg.start_soon(trickle)
            start = anyio.current_time()
            with pytest.raises(creche.ConnectionClosedError, match="message timeout"):
                await ws.receive()
            assert anyio.current_time() - start == pytest.approx(60)
            tg.cancel_scope.cancel()

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


@pytest.mark.parametrize("backend", FAKE_TIME)
def test_each_message_has_its_own_message_timeout(backend: str) -> None:
    async def main() -> None:
        async with reading() as (ws, peer):
            for _ in range(3):
                await peer.send(BINARY, b"a", fin=False)
                await anyio.sleep(50)
                await peer.send(CONTINUATION, b"b")
                assert await ws.receive() == b"ab"
            assert ws.close_code is None
            await anyio.sleep(1000)  # nothing is unfinished
            assert ws.close_code is None

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


@pytest.mark.parametrize("backend", FAKE_TIME)
def test_while_the_application_is_slow_message_timeout_stands_still(backend: str) -> None:
    async def main() -> None:
        async with reading(max_queue=1) as (ws, peer):
            await peer.send(TEXT, b"one")
            await peer.send(TEXT, b"two")
            await peer.send(BINARY, b"three", fin=False)
            await anyio.sleep(1000)
            assert await ws.receive() == "one"
            await anyio.sleep(1000)
            assert await ws.receive() == "two"
            await anyio.sleep(30)
            await peer.send(CONTINUATION, b"!")
            assert await ws.receive() == b"three!"

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


# A creche peer whose application is slow

# Little fits between the two, and pings are due much sooner than a stall is told.
narrow_pair = partial(
    memory_pair,
    clogged_after=1000,
    ping_interval=5,
    ping_timeout=8,  # the other's pings come within it
    stall_timeout=40,
    write_limit=1000,
)


@pytest.mark.parametrize("backend", FAKE_TIME)
def test_a_sender_gives_a_slow_creche_peer_up_after_stall_timeout(backend: str) -> None:
    """The peer's own side does not drop anybody; keepalive does not cut the time short."""

    async def main() -> None:
        async with narrow_pair() as (sender, slow):
            start = anyio.current_time()
            with pytest.raises(creche.ConnectionClosedError, match="stall timeout"):
                while True:
                    await sender.send(b"x" * 500)
            assert anyio.current_time() - start == pytest.approx(40, abs=11)
            assert sender.close_code == 1006
            # What had arrived can still be received.
            assert await slow.receive() == b"x" * 500

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


@pytest.mark.parametrize("backend", FAKE_TIME)
def test_a_sender_waits_for_a_slow_creche_peer_that_goes_on(backend: str) -> None:
    async def main() -> None:
        async with narrow_pair() as (sender, slow):
            received = 0

            async def consume() -> None:
                nonlocal received
                while received < 100:
                    await anyio.sleep(2)
                    assert await slow.receive() == b"x" * 500
                    received += 1

            async with anyio.create_task_group() as tg:
                tg.start_soon(consume)
                for _ in range(100):
                    await sender.send(b"x" * 500)
            assert received == 100

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


@pytest.mark.parametrize("backend", FAKE_TIME)
@pytest.mark.feature("set_keepalive")
def test_keepalive_is_each_connections_own(backend: str) -> None:
    async def main() -> None:
        async with raw_server(ping_interval=None, close_timeout=0.1) as (ws, peer):
            await anyio.sleep(1000)
            with pytest.raises(ValueError, match="ping_interval must be a positive number"):
                ws.set_keepalive(0)
            with pytest.raises(ValueError, match="ping_timeout"):
                ws.set_keepalive(1, 0)
            ws.set_keepalive(3, 2)
            start = anyio.current_time()
            opcode, _ = await peer.receive()
            assert opcode == PING
            with pytest.raises(creche.ConnectionClosedError, match="for 2 s"):
                await ws.receive()
            assert anyio.current_time() - start == pytest.approx(2, abs=0.01)
            ws.set_keepalive(1)  # too late, and harmless

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())
