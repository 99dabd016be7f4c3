"""send_stream() and receive_stream()."""

from __future__ import annotations

import anyio
import pytest

import creche
from creche.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from creche.testing import memory_pair
from support import raw_server, settle, until

pytestmark = pytest.mark.anyio


# Sending


@pytest.mark.feature("send_fragments")
async def test_each_chunk_is_a_frame() -> None:
    async with raw_server() as (ws, peer):
        async with ws.send_stream() as stream:
            await stream.send(b"a")
            await stream.send(bytearray(b"b"))
            await stream.send(memoryview(b"c"))
        async with ws.send_stream(text=True) as stream:
            await stream.send("é")
        async with ws.send_stream(text=True):
            pass  # an empty message
        assert [await peer.receive() for _ in range(7)] == [
            (BINARY, b"a"),
            (CONTINUATION, b"b"),
            (CONTINUATION, b"c"),
            (CONTINUATION, b""),
            (TEXT, "é".encode()),
            (CONTINUATION, b""),
            (TEXT, b""),
        ]
        await peer.stream.aclose()


async def test_a_stream_may_be_finished_early() -> None:
    async with memory_pair() as (client, server):
        async with client.send_stream() as stream:
            await stream.send(b"a")
            await stream.aclose()
            await stream.aclose()
            with pytest.raises(anyio.ClosedResourceError):
                await stream.send(b"b")
            await client.send(b"next")
        assert [await server.receive(), await server.receive()] == [b"a", b"next"]


async def test_a_stream_that_was_not_entered_sends_nothing() -> None:
    async with memory_pair() as (client, server):
        with pytest.raises(anyio.ClosedResourceError):
            await client.send_stream().send(b"a")
        await client.send("next")
        assert await server.receive() == "next"


@pytest.mark.parametrize(("text", "chunk"), [(True, b"a"), (False, "a"), (False, 1)])
async def test_a_chunk_of_another_type_is_not_sent(text: bool, chunk: object) -> None:
    async with memory_pair() as (client, server):
        async with client.send_stream(text=text) as stream:
            with pytest.raises(TypeError, match="must be"):
                await stream.send(chunk)  # type: ignore[arg-type]
        assert not await server.receive()


async def test_others_wait_with_their_messages_but_not_with_pings() -> None:
    async with raw_server() as (ws, peer):
        async with anyio.create_task_group() as tg:
            async with ws.send_stream() as stream:
                await stream.send(b"a")
                tg.start_soon(ws.send, "other")
                tg.start_soon(ws.ping, b"?")
                await ws.pong(b"!")
                await settle()
                with pytest.raises(anyio.WouldBlock):
                    ws.send_nowait("other")
                assert creche.broadcast([ws], "news", slow="close") == [ws]
                await stream.send(b"b")
            frames = [await peer.receive() for _ in range(6)]
            await peer.send(PONG, b"?")
        await peer.stream.aclose()
    assert sorted(frames[1:3]) == [(PING, b"?"), (PONG, b"!")]
    assert [frame for frame in frames if frame[0] not in (PING, PONG)] == [
        (BINARY, b"a"),
        (CONTINUATION, b"b"),
        (CONTINUATION, b""),
        (TEXT, b"other"),
    ]


async def test_one_stream_waits_for_another() -> None:
    async with memory_pair() as (client, server):

        async def send(chunk: bytes) -> None:
            async with client.send_stream() as stream:
                for _ in range(3):
                    await stream.send(chunk)
                    await settle()

        async with anyio.create_task_group() as tg:
            tg.start_soon(send, b"a")
            tg.start_soon(send, b"b")
            assert {await server.receive(), await server.receive()} == {b"aaa", b"bbb"}


async def test_a_stream_waits_for_room() -> None:
    async with raw_server(clogged_after=1000, write_limit=1000) as (ws, peer):
        sent = 0

        async def send() -> None:
            nonlocal sent
            async with ws.send_stream() as stream:
                for _ in range(100):
                    await stream.send(bytes(500))
                    sent += 1

        async with anyio.create_task_group() as tg:
            tg.start_soon(send)
            await settle()
            assert 0 < sent < 20
            frames = [await peer.receive() for _ in range(101)]
        assert sum(len(payload) for _, payload in frames) == 50_000
        await peer.stream.aclose()


async def test_leaving_by_an_exception_closes_with_1011() -> None:
    async with raw_server(close_timeout=0.1) as (ws, peer):
        with pytest.raises(KeyError):
            async with ws.send_stream() as stream:
                await stream.send(b"a")
                raise KeyError
        assert await peer.receive() == (BINARY, b"a")
        opcode, payload = await peer.receive()
        assert (opcode, payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
        with pytest.raises(creche.ConnectionClosed):
            await ws.send("next")
        await peer.stream.aclose()


async def test_a_cancelled_stream_closes_with_1011() -> None:
    async with memory_pair() as (client, server):
        with anyio.CancelScope() as scope:
            async with client.send_stream() as stream:
                await stream.send(b"a")
                scope.cancel()
                await anyio.sleep_forever()
        with pytest.raises(creche.ConnectionClosedError) as caught:
            await server.receive()
    assert caught.value.code == 1011


async def test_leaving_by_an_exception_before_anything_was_sent_harms_nothing() -> None:
    async with memory_pair() as (client, server):
        with pytest.raises(KeyError):
            async with client.send_stream():
                raise KeyError
        await client.send("next")
        assert await server.receive() == "next"


async def test_a_message_that_cannot_be_finished_is_told() -> None:
    async with memory_pair() as (client, server):
        with pytest.raises(creche.ConnectionAlreadyClosed):
            async with client.send_stream() as stream:
                await stream.send(b"a")
                async with anyio.create_task_group() as tg:
                    tg.start_soon(creche.discard, server)
                    await client.aclose()


# Receiving


@pytest.mark.feature("receive_fragments")
async def test_a_message_is_received_as_it_arrives() -> None:
    async with raw_server(max_size=3) as (ws, peer):
        await peer.send(TEXT, b"a\xc3", fin=False)
        async with ws.receive_stream() as stream:
            assert stream.text
            assert await stream.receive() == "a"
            await peer.send(CONTINUATION, b"\xa9" + b"b" * 10)
            assert [chunk async for chunk in stream] == ["é" + "b" * 10]
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
        await peer.stream.aclose()


async def test_an_empty_last_frame_ends_the_message() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(BINARY, b"a", fin=False)
        async with ws.receive_stream() as stream:
            assert await stream.receive() == b"a"
            await peer.send(CONTINUATION, b"")
            assert [chunk async for chunk in stream] == []
        await peer.stream.aclose()


@pytest.mark.feature("streams")
async def test_messages_larger_than_the_limits_go_both_ways() -> None:
    async with memory_pair(max_size=1000, max_queue_bytes=1000) as (client, server):

        async def send() -> None:
            for text in (True, False):
                async with client.send_stream(text=text) as stream:
                    for _ in range(300):
                        await stream.send("é" * 100 if text else b"x" * 100)

        async with anyio.create_task_group() as tg:
            tg.start_soon(send)
            for expected in ("é" * 30_000, b"x" * 30_000):
                async with server.receive_stream() as stream:
                    chunks = [chunk async for chunk in stream]
                assert type(expected)().join(chunks) == expected  # type: ignore[arg-type]
                assert len(chunks) > 1


@pytest.mark.parametrize("message", ["", b"", "a", b"x" * 300_000])
async def test_a_message_that_was_sent_whole_can_be_received_so(message: str | bytes) -> None:
    async with memory_pair(max_size=10) as (client, server):
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.send, message)
            async with server.receive_stream() as stream:
                assert stream.text is isinstance(message, str)
                chunks = [chunk async for chunk in stream]
            assert type(message)().join(chunks) == message  # type: ignore[arg-type]
        await client.send("next")
        assert await server.receive() == "next"


async def test_a_cancelled_receive_leaves_all_of_the_message_to_a_stream() -> None:
    async with raw_server(max_queue_bytes=10) as (ws, peer):
        await peer.send(BINARY, b"x" * 50, fin=False)
        async with anyio.create_task_group() as tg:
            tg.start_soon(ws.receive)
            await until(lambda: ws._link.connection.inbox.kept() >= 50)
            await settle()
            tg.cancel_scope.cancel()
        await peer.send(CONTINUATION, b"y")
        async with ws.receive_stream() as stream:
            assert b"".join([bytes(c) async for c in stream]) == b"x" * 50 + b"y"  # type: ignore[arg-type]
        await peer.stream.aclose()


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize("arrived", ["all", "some", "later"])
async def test_leaving_early_drops_the_rest_of_the_message(text: bool, arrived: str) -> None:
    async with raw_server(max_size=None) as (ws, peer):
        rest = [b"b" * 100] * 3
        await peer.send(TEXT if text else BINARY, b"a", fin=False)
        async with ws.receive_stream() as stream:
            if arrived == "all":
                for data in rest:
                    await peer.send(CONTINUATION, data, fin=False)
                await peer.send(CONTINUATION, b"")
            elif arrived == "some":
                await peer.send(CONTINUATION, rest[0], fin=False)
            await settle()
            assert await stream.receive() in ("a", b"a")
        if arrived != "all":
            for data in rest:
                await peer.send(CONTINUATION, data, fin=False)
            await peer.send(CONTINUATION, b"c")
        await peer.send(TEXT, b"next")
        assert await ws.receive() == "next"
        assert ws._link.connection.kept() == 0
        await peer.stream.aclose()


async def test_a_paused_peer_goes_on_when_the_rest_is_dropped() -> None:
    async with memory_pair(max_queue_bytes=100, clogged_after=1000, compression=None) as (
        client,
        server,
    ):
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.send, b"x" * 10_000)
            async with server.receive_stream() as stream:
                await stream.receive()
                await until(lambda: server._link._paused)
            tg.start_soon(client.send, "next")
            assert await server.receive() == "next"


async def test_the_end_of_the_connection_is_not_that_of_a_message() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(BINARY, b"a", fin=False)
        async with ws.receive_stream() as stream:
            assert await stream.receive() == b"a"
            await peer.send(CLOSE, b"\x03\xe8")
            with pytest.raises(creche.ConnectionClosedOK) as caught:
                await stream.receive()
            assert not isinstance(caught.value, anyio.EndOfStream)
        await peer.stream.aclose()


async def test_what_the_peer_does_wrong_within_a_message_is_told_after_what_arrived() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(BINARY, b"a", fin=False)
        await peer.send(TEXT, b"b")
        async with ws.receive_stream() as stream:
            assert await stream.receive() == b"a"
            with pytest.raises(creche.ConnectionClosedError) as caught:
                await stream.receive()
        assert caught.value.sent is not None
        assert caught.value.sent.code == 1002
        await peer.stream.aclose()


async def test_the_end_before_a_message_is_that_of_the_messages() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(CLOSE, b"\x03\xe8")
        with pytest.raises(anyio.EndOfStream):
            async with ws.receive_stream():
                pass
        with pytest.raises(anyio.EndOfStream):
            await ws.receive()
        await peer.stream.aclose()


async def test_only_one_task_receives() -> None:
    async with memory_pair() as (client, server):
        async with anyio.create_task_group() as tg:
            tg.start_soon(server.receive)
            await settle()
            with pytest.raises(anyio.BusyResourceError):
                async with server.receive_stream():
                    pass
            await client.send("1")
        await client.send("2")
        async with server.receive_stream() as stream:
            with pytest.raises(anyio.BusyResourceError):
                await server.receive()
            with pytest.raises(anyio.BusyResourceError):
                async with server.receive_stream():
                    pass
            async with anyio.create_task_group() as tg:
                assert await stream.receive() == "2"
        async with client.send_stream() as sending:
            await sending.send(b"a")
            async with server.receive_stream() as stream, anyio.create_task_group() as tg:
                assert await stream.receive() == b"a"
                tg.start_soon(stream.receive)
                await settle()
                with pytest.raises(anyio.BusyResourceError):
                    await stream.receive()
                await sending.send(b"b")


async def test_a_compressed_message_can_be_received_bit_by_bit() -> None:
    async with memory_pair(max_size=1000) as (client, server):
        for message in ("é" * 100_000, b"x" * 1_000_000):
            async with anyio.create_task_group() as tg:
                tg.start_soon(client.send, message)
                async with server.receive_stream() as stream:
                    chunks = [chunk async for chunk in stream]
            assert type(message)().join(chunks) == message  # type: ignore[arg-type]
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.send, b"x" * 10_000_000)
            async with server.receive_stream() as stream:
                pass
        await client.send("next")
        assert await server.receive() == "next"


async def test_a_ping_that_waited_with_others_goes_out_within_the_message() -> None:
    async with raw_server(clogged_after=0, write_limit=10) as (ws, peer):
        begun = anyio.Event()

        async def stream() -> None:
            async with ws.send_stream() as sending:
                begun.set()
                await anyio.sleep_forever()
                await sending.send(b"")

        async with anyio.create_task_group() as tg:
            ws.send_nowait(b"x" * 20)
            tg.start_soon(stream)
            await settle()
            tg.start_soon(ws.send, "other")
            await settle()
            tg.start_soon(ws.ping, b"?")
            await settle()
            peer.stream._peer.clogged_after = None
            assert (await peer.receive())[0] == BINARY
            assert await peer.receive() == (PING, b"?")
            await begun.wait()
            tg.cancel_scope.cancel()
        await peer.stream.aclose()
