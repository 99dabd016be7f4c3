from __future__ import annotations

import random
import sys
import tracemalloc
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

import creche
from creche.protocol.frames import BINARY, CLOSE, TEXT
from creche.testing import memory_pair
from support import RawPeer, cancelled_once, raw_client, raw_server, settle, until

pytestmark = pytest.mark.anyio


async def test_a_message_reaches_every_connection_of_either_side() -> None:
    async with memory_pair() as (client, server):
        assert creche.broadcast([client, server], "héllo") == []
        assert creche.broadcast({client}, b"\xff") == []
        assert await server.receive() == "héllo"
        assert await server.receive() == b"\xff"
        assert await client.receive() == "héllo"


async def test_many_connections_are_left_to_the_end_of_the_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules["creche.connection.broadcast"], "_WRITTEN_AT_ONCE", 2)
    async with AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(memory_pair()) for _ in range(6)]
        servers = [server for _, server in pairs]
        creche.broadcast(servers, "1")
        creche.broadcast(servers, "2")
        for client, _ in pairs:
            assert [await client.receive() for _ in range(2)] == ["1", "2"]


async def test_a_slow_peer_is_passed_over_and_misses_nothing_in_the_middle() -> None:
    async with raw_server(clogged_after=0, write_limit=10, close_timeout=0.02) as (slow, _):
        async with memory_pair() as (client, server):
            everyone = [slow, server]
            assert creche.broadcast(everyone, "x" * 20) == []
            assert creche.broadcast(everyone, "y") == [slow]
            assert creche.broadcast(everyone, "z", slow="skip") == [slow]
            assert [await client.receive() for _ in range(3)] == ["x" * 20, "y", "z"]


@pytest.mark.feature("broadcast")
async def test_peers_that_do_not_read_share_one_payload() -> None:
    payload = random.randbytes(2**24)  # more than the kernel takes
    async with (
        creche.serving(creche.discard, "127.0.0.1", max_buffered_bytes=2**25) as server,
        AsyncExitStack() as stack,
    ):
        peers = [await stack.enter_async_context(raw_client(server.url)) for _ in range(10)]
        await until(lambda: server.stats.open == 10)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        assert creche.broadcast(server.connections, payload) == []
        assert tracemalloc.get_traced_memory()[0] - before < 2**20
        tracemalloc.stop()
        assert len(payload) <= server.stats.buffered < len(payload) + 10_000
        assert set(creche.broadcast(server.connections, "passed over")) == server.connections
        for ws in server.connections:
            ws._link.connection.send_message(TEXT, b"what is appended meanwhile comes after it")
        for peer in peers:
            assert await peer.receive() == (BINARY, payload)
            assert (await peer.receive())[0] == TEXT
        await until(lambda: server.stats.buffered == 0)


async def test_payloads_of_their_own_are_counted_one_by_one() -> None:
    ended: list[creche.ConnectionClosed] = []

    async def handler(ws: creche.WebSocket) -> None:
        try:
            await creche.discard(ws)
        except creche.ConnectionClosedError as exc:
            ended.append(exc)
            raise

    payload = random.randbytes(2**24)
    async with (
        creche.serving(handler, "127.0.0.1", max_buffered_bytes=2**25 + 2**20) as server,
        AsyncExitStack() as stack,
    ):
        for _ in range(4):
            await stack.enter_async_context(raw_client(server.url))
        await until(lambda: server.stats.open == 4)
        one, two, three, four = server.connections
        creche.broadcast([one, two], payload)
        three.send_nowait(bytearray(payload))
        assert server.stats.buffered < 2**25 + 10_000
        assert not ended
        four.send_nowait(payload + payload[: 2**22])  # the largest
        await until(lambda: ended)
        assert "max_buffered_bytes" in str(ended[0])
        assert four.close_code == 1006
        assert server.stats.buffered < 2**25 + 10_000


async def test_a_slow_peer_may_be_closed() -> None:
    async with raw_server(clogged_after=0, write_limit=10, close_timeout=5) as (slow, peer):
        creche.broadcast([slow], "x" * 20)
        assert creche.broadcast([slow], "y", slow="close") == [slow]
        assert creche.broadcast([slow], "z", slow="close") == [slow]
        with pytest.raises(creche.ConnectionAlreadyClosed):
            await slow.send("z")
        unclog(slow, peer)
        assert await peer.receive() == (TEXT, b"x" * 20)
        opcode, payload = await peer.receive()
        assert (opcode, payload[:2]) == (CLOSE, b"\x03\xf0")  # 1008
        await peer.send(CLOSE, payload)
        await peer.stream.aclose()


def unclog(ws: creche.WebSocket, peer: RawPeer) -> None:
    for stream in (ws._link.transport._stream, peer.stream):  # type: ignore[attr-defined]
        stream.clogged_after = None
        stream._wake()


async def test_a_connection_that_is_not_open_is_passed_over() -> None:
    async with memory_pair() as (client, server):
        await client.aclose()
        assert creche.broadcast([client, server], "x") == [client, server]


@pytest.mark.feature("broadcast")
async def test_a_broadcast_reaches_real_sockets() -> None:
    async def handler(ws: creche.WebSocket) -> None:
        await creche.discard(ws)

    async with creche.serving(handler, "127.0.0.1") as server:
        async with raw_client(server.url) as one, raw_client(server.url) as two:
            await until(lambda: len(server.connections) == 2)
            creche.broadcast(server.connections, "x")
            for peer in (one, two):
                assert await peer.receive() == (TEXT, b"x")
                await peer.send(CLOSE, b"")


async def test_wrong_use_is_told_before_anything_is_sent() -> None:
    async with memory_pair() as (client, server):
        bad: Any = 123
        how: Any = "wait"
        with pytest.raises(TypeError, match="message must be str or bytes-like, not int"):
            creche.broadcast([server], bad)
        with pytest.raises(ValueError, match='slow must be "skip" or "close"'):
            creche.broadcast([server], "x", slow=how)
        await settle()
        async with cancelled_once() as scope:
            await client.receive()
        assert scope.cancelled_caught


async def test_of_very_many_payloads_that_wait_not_each_is_looked_at() -> None:
    async with creche.serving(
        lambda ws: ws._link.wait_gone(), "127.0.0.1", write_limit=2**30, stall_timeout=None
    ) as server:
        async with raw_client(server.url):
            await until(lambda: server.connections)
            (ws,) = server.connections
            while len(ws._link.transport.payloads(2**30)) < 40:
                ws.send_nowait(bytes(2**17))
            assert ws._link.transport.payloads(32) == []
            assert server.stats.buffered >= 18 * 2**17  # beside each stands its header
            await anyio.aclose_forcefully(ws)
