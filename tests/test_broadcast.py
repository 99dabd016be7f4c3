from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest

import creche
from creche.protocol.frames import CLOSE, TEXT
from creche.testing import memory_pair
from support import RawPeer, raw_client, raw_server, settle, until

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
    monkeypatch.setattr(sys.modules["creche.broadcast"], "_WRITTEN_AT_ONCE", 2)
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
        with anyio.move_on_after(0.01) as scope:
            await client.receive()
        assert scope.cancelled_caught
