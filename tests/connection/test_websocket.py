from __future__ import annotations

import logging
import pickle
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import ObjectStream
from anyio.lowlevel import checkpoint

import creche
from creche.engine.budget import Budget
from creche.protocol.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from creche.testing import memory_pair
from support import NotedSocket, cancelled_once, raw_client, raw_server, settle, until

pytestmark = pytest.mark.anyio


# Messages


@pytest.mark.parametrize("message", ["", "é☃🐍", "x" * 100_000, b"", b"\xff\x00", b"x" * 100_000])
@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.feature("send")
async def test_messages_go_both_ways(message: str | bytes, compression: Any) -> None:
    async with memory_pair(compression=compression) as (client, server):
        for source, target in ((client, server), (server, client)):
            await source.send(message)
            received = await target.receive()
            assert received == message
            assert type(received) is type(message)


async def test_a_websocket_is_an_object_stream() -> None:
    async with memory_pair() as (client, server):
        assert isinstance(client, ObjectStream)
        await client.send("a")
        await client.send("b")
        await client.send_eof()
        assert [message async for message in server] == ["a", "b"]
        with pytest.raises(anyio.EndOfStream):
            await server.receive()


async def test_a_websocket_takes_attributes_of_the_application_and_needs_no_dict_without() -> None:
    async with memory_pair() as (client, _):
        assert not vars(client)
        client.user = "x"  # type: ignore[attr-defined]
        assert vars(client) == {"user": "x"}


async def test_a_mutable_buffer_is_copied_when_it_is_committed() -> None:
    async with memory_pair() as (client, server):
        data = bytearray(b"before")
        await client.send(data)
        data[:] = b"after!"
        assert await server.receive() == b"before"


@pytest.mark.feature("join_fragments")
async def test_a_message_in_fragments_arrives_whole() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(TEXT, b"a", fin=False)
        await peer.send(CONTINUATION, b"b")
        assert await ws.receive() == "ab"
        await peer.stream.aclose()


async def test_a_message_larger_than_the_inbox_is_received() -> None:
    async with memory_pair(max_queue_bytes=1000, max_size=None) as (client, server):
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.send, b"x" * 1_000_000)
            assert await server.receive() == b"x" * 1_000_000


async def test_messages_pile_up_to_the_bounds_and_none_is_lost() -> None:
    async with memory_pair(max_queue=4, clogged_after=2000, write_limit=1000) as (client, server):
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for i in range(1000):
                await client.send(str(i) * 10)
                sent += 1

        async with anyio.create_task_group() as tg:
            tg.start_soon(flood)
            await settle()
            assert sent < 500  # the sender waits for room
            assert server._link.connection.inbox.messages == 4
            for i in range(1000):
                assert await server.receive() == str(i) * 10


@pytest.mark.feature("cancel_receive")
async def test_a_receive_that_is_cancelled_loses_nothing() -> None:
    async with memory_pair() as (client, server):
        async with cancelled_once() as scope:
            await server.receive()
        assert scope.cancelled_caught
        await client.send("kept")
        assert await server.receive() == "kept"


async def test_two_tasks_cannot_receive_at_once() -> None:
    async with memory_pair() as (client, server), anyio.create_task_group() as tg:
        tg.start_soon(server.receive)
        await settle()
        with pytest.raises(anyio.BusyResourceError):
            await server.receive()
        await client.send("for the first one")


@pytest.mark.feature("cancel_send")
async def test_a_send_that_is_cancelled_while_it_waits_has_sent_nothing() -> None:
    async with memory_pair(write_limit=10, clogged_after=0) as (client, server):
        await client.send("first" * 10)
        async with cancelled_once() as scope:
            await client.send("never")
        assert scope.cancelled_caught
        for stream in (client, server):
            stream._link.transport._stream.clogged_after = None  # type: ignore[attr-defined]
            stream._link.transport._stream._wake()  # type: ignore[attr-defined]
        await client.send("third")
        assert await server.receive() == "first" * 10
        assert await server.receive() == "third"


async def test_senders_that_wait_get_their_turn_in_order() -> None:
    async with memory_pair(write_limit=10, clogged_after=100) as (client, server):
        order = []

        async def send(i: int) -> None:
            await client.send(f"{i:08}" * 4)
            order.append(i)

        async with anyio.create_task_group() as tg:
            for i in range(20):
                tg.start_soon(send, i)
                await settle()
            scope = anyio.CancelScope()

            async def cancelled() -> None:
                with scope:
                    await client.send("never")

            tg.start_soon(cancelled)
            await settle()
            scope.cancel()
            received = [await server.receive() for _ in range(20)]
        assert order == list(range(20))
        assert received == [f"{i:08}" * 4 for i in range(20)]


async def test_a_sender_that_is_woken_and_cancelled_at_once_wakes_the_next(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only native cancellation strikes a task that has been woken")
    import asyncio

    async with raw_server(write_limit=10, clogged_after=0, close_timeout=0.02) as (ws, _):
        await ws.send("x" * 20)
        first = asyncio.create_task(ws.send("never"))
        await settle()
        second = asyncio.create_task(ws.send("next"))
        await settle()
        ws._link.transport.outbox.clear()
        ws._link.output_left()
        first.cancel()
        await asyncio.wait_for(second, 5)
        assert first.cancelled()


async def test_send_nowait_sends_or_would_block() -> None:
    async with memory_pair(write_limit=10, clogged_after=0) as (client, server):
        client.send_nowait("x" * 20)
        assert client.buffered_amount > 0
        with pytest.raises(anyio.WouldBlock):
            client.send_nowait("y")
        for end in (client, server):
            end._link.transport._stream.clogged_after = None  # type: ignore[attr-defined]
            end._link.transport._stream._wake()  # type: ignore[attr-defined]
        assert await server.receive() == "x" * 20
        await client.aclose()
        with pytest.raises(creche.ConnectionAlreadyClosed):
            client.send_nowait("z")


async def test_flush_returns_when_the_kernel_has_everything() -> None:
    async with raw_server(clogged_after=100) as (ws, peer):
        await ws.send(b"x" * 500)
        flushed = anyio.Event()

        async def flush() -> None:
            await ws.flush()
            flushed.set()

        async with anyio.create_task_group() as tg:
            tg.start_soon(flush)
            await settle()
            assert not flushed.is_set()
            assert await peer.receive() == (BINARY, b"x" * 500)
            await flushed.wait()
        assert ws.buffered_amount == 0
        await peer.stream.aclose()
        with pytest.raises(creche.ConnectionClosedError):
            await ws.receive()
        with pytest.raises(creche.ConnectionClosedError):
            await ws.flush()


async def test_flush_tells_of_a_loss() -> None:
    async with raw_server(clogged_after=10) as (ws, _):
        await ws.send(b"x" * 500)
        async with anyio.create_task_group() as tg:

            async def flush() -> None:
                with pytest.raises(creche.ConnectionClosedError, match="no more"):
                    await ws.flush()

            tg.start_soon(flush)
            await settle()
            ws._link.abort("no more")


async def test_much_in_one_turn_does_not_wait_for_its_end() -> None:
    async with raw_server(write_limit=2**20) as (ws, peer):
        for text in (b"1", b"x" * 2**16, b"3"):
            ws.send_nowait(text)
        assert [await peer.receive() for _ in range(3)] == [
            (BINARY, b"1"),
            (BINARY, b"x" * 2**16),
            (BINARY, b"3"),
        ]
        await peer.stream.aclose()


# Fairness


@asynccontextmanager
async def counting_turns() -> AsyncIterator[list[None]]:
    """A list that grows with each turn of another task."""
    turns: list[None] = []

    async def other() -> None:
        while True:
            turns.append(None)
            await checkpoint()

    async with anyio.create_task_group() as tg:
        tg.start_soon(other)
        yield turns
        tg.cancel_scope.cancel()


async def test_a_loop_of_sends_gives_others_their_turn_and_can_be_cancelled() -> None:
    async with memory_pair(max_queue=None, max_queue_bytes=None, write_limit=2**30) as (client, _):
        async with counting_turns() as turns:
            for _ in range(Budget.OPERATIONS * 10):
                await client.send("x")
            assert len(turns) >= 5
        with anyio.CancelScope() as scope:
            scope.cancel()
            for _ in range(Budget.OPERATIONS + 1):
                await client.send("x")
        assert scope.cancelled_caught


async def test_a_loop_of_receives_gives_others_their_turn() -> None:
    async with memory_pair(max_queue=None) as (client, server):
        for _ in range(Budget.OPERATIONS * 4):
            await client.send("x")
        await until(lambda: server._link.connection.inbox.messages == Budget.OPERATIONS * 4)
        async with counting_turns() as turns:
            for _ in range(Budget.OPERATIONS * 4):
                await server.receive()
            assert len(turns) >= 2


# Pings


@pytest.mark.feature("ping", "latency")
async def test_a_ping_returns_the_seconds_until_its_pong() -> None:
    async with memory_pair() as (client, _):
        assert client.latency is None
        seconds = await client.ping()
        assert seconds >= 0
        assert client.latency == seconds
        assert await client.ping("data") >= 0
        assert await client.ping(b"data") >= 0


async def test_a_pong_answers_all_earlier_pings() -> None:
    async with raw_server() as (ws, peer):
        async with anyio.create_task_group() as tg:
            for data in ("a", "b"):
                tg.start_soon(ws.ping, data)
                await settle()
            assert [await peer.receive() for _ in range(2)] == [(PING, b"a"), (PING, b"b")]
            await peer.send(PONG, b"b")
        await peer.stream.aclose()


async def test_a_pong_answers_no_later_ping() -> None:
    async with raw_server() as (ws, peer):
        answered: list[str] = []

        async def ping(data: str) -> None:
            await ws.ping(data)
            answered.append(data)

        async with anyio.create_task_group() as tg:
            for data in ("a", "b"):
                tg.start_soon(ping, data)
                await settle()
            await peer.send(PONG, b"a")
            await until(lambda: answered)
            await settle()
            assert answered == ["a"]
            await peer.send(PONG, b"b")
        assert answered == ["a", "b"]
        await peer.stream.aclose()


async def test_a_ping_that_is_cancelled_is_forgotten() -> None:
    async with raw_server() as (ws, peer):
        async with cancelled_once():
            await ws.ping("a")
        await peer.send(PONG, b"a")
        async with cancelled_once():
            await ws.ping("a")  # the payload is free again
        await peer.stream.aclose()


async def test_a_ping_without_an_answer_ends_with_the_connection() -> None:
    async with raw_server(ping_interval=None, ping_timeout=0.03) as (ws, _):
        with pytest.raises(creche.ConnectionClosedError, match="keepalive ping timeout"):
            await ws.ping()
    async with raw_server() as (ws, peer):
        async with anyio.create_task_group() as tg:

            async def ping() -> None:
                with pytest.raises(creche.ConnectionClosedOK):
                    await ws.ping()

            tg.start_soon(ping)
            await settle()
            await peer.send(CLOSE, b"\x03\xe8")
        await peer.stream.aclose()


@pytest.mark.feature("pong")
async def test_a_pong_can_be_sent_unasked() -> None:
    async with raw_server() as (ws, peer):
        await ws.pong()
        await ws.pong("beat")
        assert [await peer.receive() for _ in range(2)] == [(PONG, b""), (PONG, b"beat")]
        await peer.stream.aclose()


async def test_a_ping_above_the_write_limit_is_answered_once_there_is_room() -> None:
    async with raw_server(write_limit=10, clogged_after=0) as (ws, peer):
        await ws.send("x" * 20)
        for data in (b"1", b"2"):
            frame = bytearray(peer.frame(PING, data))
            ws._link.data_received(frame, len(frame))
        ws._link.transport._stream.clogged_after = None  # type: ignore[attr-defined]
        ws._link.transport._stream._wake()  # type: ignore[attr-defined]
        assert [await peer.receive() for _ in range(2)] == [(TEXT, b"x" * 20), (PONG, b"2")]
        await peer.stream.aclose()

    # The kernel may also take it all at once, so that nobody waits for room.
    async with creche.serving(creche.discard, "127.0.0.1", write_limit=10) as server:
        async with raw_client(server.url) as raw:
            await until(lambda: server.connections)
            link = next(iter(server.connections))._link
            link.connection.send_message(TEXT, b"x" * 20)
            link.connection.receive_data(raw.frame(PING, b"3"), 0)
            link.flush_now()
            await raw.send(CLOSE)
            frames = [await raw.receive() for _ in range(3)]
        assert frames[1:] == [(PONG, b"3"), (CLOSE, b"")]


@pytest.mark.parametrize("method", ["ping", "pong"])
async def test_bad_control_payloads_are_refused(method: str) -> None:
    async with memory_pair() as (client, _):
        for data, kind, message in (
            (b"x" * 126, ValueError, "data is 126 bytes long"),
            (1, TypeError, "data must be str or bytes-like, not int"),
        ):
            with pytest.raises(kind, match=message):
                await getattr(client, method)(data)


# Closing


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4000, "é"), (3000, "x" * 123)])
@pytest.mark.feature("close_codes", "closing")
async def test_a_close_tells_code_and_reason(code: int, reason: str) -> None:
    async with memory_pair() as (client, server):
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.aclose, code, reason)
            with pytest.raises(creche.ConnectionClosed) as caught:
                await server.receive()
        assert caught.value.received == creche.Close(code, reason)
        for end in (client, server):
            assert (end.close_code, end.close_reason) == (code, reason)


async def test_an_open_connection_has_no_close_code() -> None:
    async with memory_pair() as (client, _):
        assert client.close_code is None
        assert client.close_reason is None


async def test_a_close_drops_what_was_not_received_and_completes_with_a_full_inbox() -> None:
    async with memory_pair(max_queue=2, clogged_after=1000) as (client, server):
        async with anyio.create_task_group() as tg:

            async def flood() -> None:
                with pytest.raises(creche.ConnectionClosedOK):
                    while True:
                        await client.send("x" * 100)

            tg.start_soon(flood)
            await settle()
            assert server._link._paused
            await server.aclose()
        assert server.close_code == client.close_code == 1000


async def test_closing_twice_is_closing_once() -> None:
    async with memory_pair() as (client, server):
        await client.aclose(4000)
        await client.aclose(4001)
        assert server.close_code == 4000


async def test_a_close_that_is_cancelled_ends_the_connection_at_once() -> None:
    async with raw_server() as (ws, peer):
        async with cancelled_once() as scope:
            await ws.aclose()
        assert scope.cancelled_caught
        assert ws.close_code == 1006
        assert (await peer.receive())[0] == CLOSE
        await peer.receive_eof()
    async with raw_server() as (ws, peer):
        await anyio.aclose_forcefully(ws)
        await peer.receive_eof()


@pytest.mark.feature("close_timeout")
async def test_a_close_without_an_answer_takes_close_timeout() -> None:
    async with raw_server(close_timeout=0.03) as (ws, peer):
        await ws.aclose()
        assert ws.close_code == 1006
        assert "close timeout" in str(ws.close_reason)
        await peer.receive_eof()


async def test_what_has_not_left_when_close_timeout_ends_is_dropped() -> None:
    async with raw_server(clogged_after=10, close_timeout=0.03) as (ws, peer):
        await ws.send(b"x" * 500)
        await ws.aclose()
        assert ws.buffered_amount == 0
        received = await peer.stream.receive()
        assert (len(received), received[:4]) == (10, b"\x82\xfe\x01\xf4")
        await peer.receive_eof()


async def test_send_eof_closes_our_direction_only() -> None:
    async with raw_server() as (ws, peer):
        await ws.send_eof()
        assert await peer.receive() == (CLOSE, b"\x03\xe8")
        await peer.send(TEXT, b"late")
        assert await ws.receive() == "late"
        for call in (ws.send("x"), ws.send_eof(), ws.ping()):
            with pytest.raises(creche.ConnectionAlreadyClosed):
                await call
        await peer.send(CLOSE, b"\x03\xe8")
        with pytest.raises(creche.ConnectionClosedOK):
            await ws.receive()
        await peer.stream.aclose()


async def test_a_failed_write_is_told_by_the_next_send_and_what_arrived_is_received() -> None:
    async with raw_server() as (ws, peer):
        link = ws._link
        link.write_failed(OSError("broken"))
        link.write_failed(OSError("again"))
        await peer.send(TEXT, b"last words")
        with pytest.raises(creche.ConnectionClosedError, match="connection lost: broken") as caught:
            await ws.send("x")
        assert isinstance(caught.value.__cause__, OSError)
        assert await ws.receive() == "last words"
        await peer.send(CLOSE, b"\x03\xe8")
        with pytest.raises(creche.ConnectionClosedOK):
            await ws.receive()
        await peer.stream.aclose()


async def test_a_failed_read_ends_the_connection_with_its_cause() -> None:
    async with raw_server() as (ws, _):
        ws._link.read_failed(OSError("broken"))
        with pytest.raises(creche.ConnectionClosedError, match="connection lost: broken"):
            await ws.receive()


async def test_ends_of_both_kinds_can_be_pickled() -> None:
    error = creche.ConnectionClosedError(creche.Close(1011, "x"), None, "detail")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert (copy.code, copy.reason) == (1011, "x")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (creche.ConnectionClosedOK(), "no close frame received; none sent"),
        (
            creche.ConnectionClosedError(None, creche.Close(1000), "why"),
            "no close frame received; sent 1000 (normal closure); why",
        ),
        (
            creche.ConnectionClosedOK(creche.Close(1001), creche.Close(1001)),
            "got 1001 (going away); sent 1001 (going away)",
        ),
    ],
)
async def test_an_end_says_what_was_received_and_sent(
    error: creche.ConnectionClosed, text: str
) -> None:
    assert str(error) == text


# What is known of it


async def test_each_connection_has_a_name_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    async with memory_pair() as (client, server):
        assert isinstance(client.id, uuid.UUID)
        assert client.id == client.id
        assert client.id != server.id
        assert str(client.id) in repr(client)
        assert "open" in repr(client)
        with caplog.at_level(logging.INFO):
            client.logger.info("hello %s", "there")
        assert caplog.messages == [f"[{client.id}] hello there"]
        assert caplog.records[0].websocket is client  # type: ignore[attr-defined]


@pytest.mark.feature("opening")
async def test_request_and_response_are_kept() -> None:
    async with memory_pair("ws://localhost/path") as (client, server):
        for end in (client, server):
            assert end.request.path == "/path"
            assert end.response.status == 101
            assert end.subprotocol is None
        server.request.state["user"] = "me"
        assert server.request.state == {"user": "me"}


# Handlers


async def test_wrong_use_of_run_is_told() -> None:
    async with memory_pair() as (client, _):
        bad: Any = 1
        until_what: Any = "some"
        with pytest.raises(TypeError, match="at least one handler"):
            await client.run()
        with pytest.raises(TypeError, match="handler must be callable, not int"):
            await client.run(bad)
        with pytest.raises(ValueError, match='until must be "first" or "all"'):
            await client.run(creche.discard, until=until_what)


@pytest.mark.feature("iterate")
async def test_discard_receives_until_the_end() -> None:
    async with memory_pair() as (client, server):
        await client.send("a")
        await client.send_eof()
        await creche.discard(server)
        assert server.close_code == 1000


async def test_fragments_of_binary_are_joined() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(BINARY, b"\xff", fin=False)
        await peer.send(PING)
        await peer.send(CONTINUATION, b"\xfe")
        assert await ws.receive() == b"\xff\xfe"
        await peer.stream.aclose()


# Bytes as text


@pytest.mark.feature("text")
async def test_bytes_can_be_sent_as_text_and_text_as_bytes() -> None:
    async with memory_pair() as (client, server):
        for data in (b"caf\xc3\xa9", bytearray(b"caf\xc3\xa9"), memoryview(b"caf\xc3\xa9")):
            await client.send(data, text=True)
            assert await server.receive() == "café"
            client.send_nowait(data, text=True)
            assert await server.receive() == "café"
        await client.send("café", text=False)
        assert await server.receive() == b"caf\xc3\xa9"
        assert creche.broadcast([client], b"caf\xc3\xa9", text=True) == []
        assert await server.receive() == "café"


async def test_bytes_that_are_not_utf8_are_not_sent_as_text() -> None:
    async with memory_pair() as (client, server):
        for send in (
            client.send_nowait,
            lambda data, text: creche.broadcast([client], data, text=text),
        ):
            with pytest.raises(ValueError, match="utf-8"):
                send(b"\xff", text=True)
        with pytest.raises(ValueError, match="utf-8"):
            await client.send(b"\xc3", text=True)
        await client.send("next")
        assert await server.receive() == "next"


async def test_a_message_can_be_received_as_the_type_one_wants() -> None:
    async with memory_pair() as (client, server):
        for message in ("café", b"caf\xc3\xa9"):
            for _ in range(3):
                await client.send(message)
            assert await server.receive(decode=True) == "café"
            assert await server.receive(decode=False) == b"caf\xc3\xa9"
            assert await server.receive(decode=None) == message
        await client.send(b"\xff")
        with pytest.raises(UnicodeDecodeError):
            await server.receive(decode=True)
        await client.send(b"next")
        assert await server.receive() == b"next"


# What is known of the connection


async def test_the_state_tells_where_the_connection_stands() -> None:
    async with raw_server() as (ws, peer):
        assert ws.state == "open"
        await ws.send_eof()
        assert ws.state == "closing"
        await peer.send(CLOSE, b"\x03\xe8")
        await until(lambda: ws.state == "closed")
        await peer.stream.aclose()


async def test_while_a_broken_peer_can_be_answered_the_state_is_open() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(TEXT, b"a question")
        await peer.send(CONTINUATION, b"of nothing")
        await until(lambda: ws._link.connection.failure)
        assert ws.state == "open"
        await ws.send("an answer")
        assert await ws.receive() == "a question"
        with pytest.raises(creche.ConnectionClosedError):
            await ws.receive()
        assert ws.state == "closed"


async def test_the_addresses_of_both_ends() -> None:
    async def handler(ws: creche.WebSocket) -> None:
        await ws.send(repr((ws.local_address, ws.remote_address)))

    async with creche.serving(handler, "127.0.0.1") as server, creche.connect(server.url) as ws:
        assert ws.remote_address == server.addresses[0]
        assert await ws.receive() == repr((ws.remote_address, ws.local_address))
    async with memory_pair() as (client, _):
        assert client.remote_address is client.local_address is None


async def test_any_number_of_tasks_may_wait_for_the_end_and_receive_nothing() -> None:
    ended: list[creche.WebSocket] = []

    async def wait(ws: creche.WebSocket) -> None:
        await ws.wait_closed()
        ended.append(ws)

    async with memory_pair() as (client, server), anyio.create_task_group() as tg:
        for ws in (client, client, server, server):
            tg.start_soon(wait, ws)
        await client.send("still here")
        await settle()
        assert ended == []
        await client.send_eof()
        with anyio.fail_after(20):
            await until(lambda: len(ended) == 4)
            await client.wait_closed()
        assert await server.receive() == "still here"


class FailingSocket(NotedSocket):
    """A socket for which there is no memory left."""

    def send(self, data: bytes | bytearray) -> int:
        raise MemoryError

    def sendmsg(self, buffers: list[Any]) -> int:
        raise MemoryError


@pytest.mark.parametrize("size", [10, 2**16])
async def test_what_could_not_be_written_whole_ends_the_connection(size: int) -> None:
    members: list[creche.WebSocket] = []

    async def handler(ws: creche.WebSocket) -> None:
        members.append(ws)
        await ws._link.wait_gone()

    async with creche.serving(handler, "127.0.0.1", compression=None) as server:
        async with raw_client(server.url):
            await until(lambda: members)
            FailingSocket.put_under(members[0], lambda *_: None)
            with pytest.raises(MemoryError):
                members[0].send_nowait(b"x" * size)
            assert members[0].close_code == 1006
            assert "written to its end" in str(members[0].close_reason)
