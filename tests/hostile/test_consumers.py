"""Slow consumers lose nothing and are not dropped; slow readers hold up no broadcast."""

from __future__ import annotations

import ssl
import sys
from contextlib import AsyncExitStack

import anyio
import pytest
import websockets
from anyio.lowlevel import checkpoint

import creche
from creche.protocol.messages import PART_OVERHEAD
from creche.testing import memory_pair
from peers import in_thread, websockets_server
from support import FAKE_TIME, NotedSocket, cancelled_once, raw_client, settle, until

pytestmark = pytest.mark.anyio

MESSAGES = 3000


@pytest.mark.parametrize("backend", FAKE_TIME)
def test_a_consumer_slower_than_keepalive_receives_3000_messages(backend: str) -> None:
    """50 s a message, with a ping_interval of 20 and a ping_timeout of 25 s, on both sides."""

    async def main() -> None:
        received = []
        async with memory_pair(ping_interval=20, ping_timeout=25) as (client, server):

            async def produce() -> None:
                for number in range(MESSAGES):
                    await server.send(f"{number}")

            async with anyio.create_task_group() as tg:
                tg.start_soon(produce)
                for _ in range(MESSAGES):
                    await anyio.sleep(50)
                    received.append(await client.receive())
            assert client.close_code is None
        assert received == [f"{number}" for number in range(MESSAGES)]

    anyio.run(main, backend=backend, backend_options=FAKE_TIME[backend]())


async def talk(ws: websockets.ServerConnection) -> None:
    """3,000 messages at once."""
    for number in range(MESSAGES):
        await ws.send(f"{number} " + "x" * 100)
    await ws.wait_closed()


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
async def test_a_slow_consumer_of_a_peer_of_websockets_is_not_killed_by_its_own_keepalive(
    secure: bool, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Over TLS all the rest is decrypted already when reading pauses."""
    received = []
    with in_thread(websockets_server(talk), server_tls if secure else None) as port:
        uri = f"{'wss' if secure else 'ws'}://localhost:{port}/"
        async with creche.connect(
            uri, ssl=client_tls if secure else None, ping_interval=0.1, ping_timeout=0.4
        ) as ws:
            for number in range(MESSAGES):
                if number < 2:
                    await anyio.sleep(0.6)  # longer than both together
                received.append(await ws.receive())
            assert ws.close_code is None
    assert received == [f"{number} " + "x" * 100 for number in range(MESSAGES)]


@pytest.mark.parametrize(
    ("options", "messages", "size"),
    [({"max_queue": 5}, 5, 10), ({"max_queue_bytes": 2501}, 10, 100)],
)
async def test_parsing_stops_at_the_mark_in_messages_and_in_bytes(
    options: dict[str, int], messages: int, size: int
) -> None:
    async with memory_pair(**options) as (client, server):  # type: ignore[arg-type]
        for _ in range(50):
            await server.send(b"x" * size)
        await until(lambda: client._link.connection.inbox.full)
        await settle()
        inbox = client._link.connection.inbox
        assert inbox.messages == messages
        assert inbox.bytes == messages * (PART_OVERHEAD + sys.getsizeof(b"x" * size))
        for _ in range(50):
            assert await client.receive() == b"x" * size


async def test_a_pause_of_reading_holds_the_peer_up_and_not_memory() -> None:
    """What a peer can make us keep is bounded, whatever it sends."""
    async with memory_pair(
        max_queue=4, write_limit=2**16, clogged_after=2**16, compression=None
    ) as (client, server):
        sent = 0
        async with cancelled_once(lambda: server.buffered_amount >= 2**16):
            while True:
                await server.send(b"x" * 10_000)
                sent += 1
        assert sent < 40
        assert client._link.connection.kept() < 2**16 + 5 * 10_000
        for _ in range(sent):
            assert await client.receive() == b"x" * 10_000


# Broadcasts


async def test_a_broadcast_returns_at_once_whatever_slow_readers_do() -> None:
    members: list[creche.WebSocket] = []

    async def member(ws: creche.WebSocket) -> None:
        members.append(ws)
        await creche.discard(ws)

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            creche.serving(member, "127.0.0.1", close_timeout=0.1, stall_timeout=60)
        )
        for _ in range(5):
            await stack.enter_async_context(raw_client(server.url))  # that never reads
        quick = await stack.enter_async_context(creche.connect(server.url, max_size=None))
        await until(lambda: len(members) == 6)
        received: list[str | bytes] = []

        async def consume() -> None:
            async for message in quick:
                received.append(message)

        async with anyio.create_task_group() as tg:
            tg.start_soon(consume)
            skipped: set[creche.WebSocket] = set()
            while len(skipped) < 5:
                received.clear()
                skipped |= set(creche.broadcast(members, b"x" * 100_000))
                await until(lambda: received)
            tg.cancel_scope.cancel()
        # Every slow one is over its limit by one message at most.
        assert all(ws.buffered_amount < 2**16 + 100_010 for ws in skipped)


async def test_a_broadcast_is_one_pass_and_its_writing_is_spread_over_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("creche.engine.polling.LONGEST_SHARE", 0)
    monkeypatch.setattr(sys.modules["creche.connection.broadcast"], "_WRITTEN_AT_ONCE", 2)
    members: list[creche.WebSocket] = []
    writes: list[object] = []

    async def member(ws: creche.WebSocket) -> None:
        members.append(ws)
        await creche.discard(ws)

    async def other() -> None:
        while True:
            writes.append("other")
            await checkpoint()

    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(creche.serving(member, "127.0.0.1"))
        clients = [await stack.enter_async_context(creche.connect(server.url)) for _ in range(20)]
        await until(lambda: len(members) == 20)
        for ws in members:
            NotedSocket.put_under(ws, lambda ws, *_: writes.append(ws))
        assert creche.broadcast(members, "news") == []
        assert writes == members[:2]
        async with anyio.create_task_group() as tg:
            tg.start_soon(other)
            for client in clients:
                assert await client.receive() == "news"
            tg.cancel_scope.cancel()
        spread = writes[2:]
    assert {ws for ws in spread if ws != "other"} == set(members[2:])
    # One a turn; within its turn, trio runs either task first.
    assert all("other" in spread[i : i + 3] for i in range(len(members) - 2))
