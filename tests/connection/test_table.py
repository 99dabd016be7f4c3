"""Every row of the table in docs/structure.md: what both sides see of an end."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import creche
from creche.protocol.frames import BINARY, CLOSE, PING, PONG, TEXT
from creche.testing import memory_pair
from support import echo, raw_client, raw_server, said, settle, two_ends, until

pytestmark = pytest.mark.anyio


class Cancelled:
    """Remembers whether a handler was cancelled."""

    def __init__(self) -> None:
        self.started = anyio.Event()
        self.cancelled = False
        self.returned = False

    async def __call__(self, ws: creche.WebSocket) -> None:
        self.started.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.cancelled = True
            raise
        self.returned = True


async def wait_for_end(ws: creche.WebSocket) -> None:
    async for _ in ws:
        pass


# A handler of run() returns


@pytest.mark.feature("run")
async def test_a_handler_that_returns_ends_the_others_and_run_returns() -> None:
    other = Cancelled()

    async def one(ws: creche.WebSocket) -> None:
        await other.started.wait()

    async def client(ws: creche.WebSocket) -> None:
        await ws.run(one, other)
        assert other.cancelled
        assert ws.close_code is None  # the connection goes on
        await ws.send("still open")

    async def server(ws: creche.WebSocket) -> None:
        assert await ws.receive() == "still open"
        await wait_for_end(ws)

    ends = await two_ends(client, server)
    assert [end.error for end in ends] == [None, None]
    assert [end.close_code for end in ends] == [1000, 1000]


async def test_until_all_waits_for_every_handler() -> None:
    finished = []
    first_done = anyio.Event()

    async def first(ws: creche.WebSocket) -> None:
        finished.append("first")
        first_done.set()

    async def second(ws: creche.WebSocket) -> None:
        await first_done.wait()
        await settle()
        finished.append("second")

    async with memory_pair() as (client, _):
        await client.run(first, second, until="all")
    assert finished == ["first", "second"]


# The peer closes well


@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_a_peer_that_closes_well_ends_the_stream_and_the_rest(code: int | None) -> None:
    other = Cancelled()
    received = []

    async def consumer(ws: creche.WebSocket) -> None:
        async for message in ws:
            received.append(message)
            await other.started.wait()
        await settle()  # the one that met the end is not cancelled at its work
        received.append("done")

    async with raw_server() as (ws, peer):
        payload = b"" if code is None else code.to_bytes(2, "big")
        await peer.send(TEXT, b"1")
        await peer.send(TEXT, b"2")
        await peer.send(CLOSE, payload)
        await ws.run(consumer, other, until="all")
        assert received == ["1", "2", "done"]
        assert other.cancelled
        assert await peer.receive() == (CLOSE, payload)
        assert ws.close_code == (code or 1005)
        with pytest.raises(creche.ConnectionClosedOK):
            await ws.receive()
        with pytest.raises(creche.ConnectionClosedOK) as caught:
            await ws.send("x")
        assert isinstance(caught.value, anyio.BrokenResourceError)
        await peer.stream.aclose()


async def test_a_handler_that_meets_the_end_in_send_ends_nothing_else() -> None:
    received = []
    told = anyio.Event()

    async def producer(ws: creche.WebSocket) -> None:
        try:
            while True:
                await ws.send("x")
                await checkpoint()
        finally:
            told.set()

    async def consumer(ws: creche.WebSocket) -> None:
        await told.wait()
        async for message in ws:
            received.append(message)

    async with raw_server() as (ws, peer):
        await peer.send(TEXT, b"1")
        await peer.send(TEXT, b"2")
        await peer.send(CLOSE, b"\x03\xe8")
        await ws.run(producer, consumer)
        assert received == ["1", "2"]
        await peer.stream.aclose()


async def test_if_nobody_receives_the_handlers_are_cancelled_after_close_timeout() -> None:
    other = Cancelled()
    async with raw_server(close_timeout=0.05) as (ws, peer):
        await peer.send(TEXT, b"unread")
        await peer.send(CLOSE, b"\x03\xe8")
        await ws.run(other)
        assert other.cancelled
        assert ws.close_code == 1000
        assert await peer.receive() == (CLOSE, b"\x03\xe8")


# The peer closes otherwise, or is lost


@pytest.mark.parametrize("code", [1002, 1011, 4000])
async def test_a_peer_that_closes_otherwise_ends_all_handlers_at_once(code: int) -> None:
    others = Cancelled(), Cancelled()

    async def client(ws: creche.WebSocket) -> None:
        await ws.run(*others)

    async def server(ws: creche.WebSocket) -> None:
        await ws.send("unread")
        await ws.aclose(code, "why")

    ends = await two_ends(client, server)
    assert all(other.cancelled for other in others)
    error = ends[0].error
    assert type(error) is creche.ConnectionClosedError
    assert error.received == error.sent == creche.Close(code, "why")
    assert (error.code, error.reason) == (code, "why")
    assert ends[1].error is None
    assert ends[1].close_code == code


async def test_the_end_of_the_bytes_ends_all_handlers_at_once() -> None:
    other = Cancelled()
    async with raw_server() as (ws, peer):
        await peer.stream.aclose()
        with pytest.raises(creche.ConnectionClosedError, match="without a closing") as caught:
            await ws.run(other, wait_for_end)
        assert other.cancelled
        assert (caught.value.code, caught.value.received, caught.value.sent) == (1006, None, None)
        assert "without a closing handshake" in caught.value.reason


async def test_a_reset_ends_all_handlers_at_once_with_its_cause() -> None:
    other = Cancelled()
    caught: list[creche.ConnectionClosedError] = []

    async def handler(ws: creche.WebSocket) -> None:
        try:
            await ws.run(other, wait_for_end)
        except creche.ConnectionClosedError as exc:
            caught.append(exc)
            raise

    async with creche.serving(handler, "127.0.0.1") as server:
        async with creche.connect(server.url) as ws:
            await other.started.wait()
            ws._link.transport.abort()  # a reset on the wire
            ws._link.abort("gone")
        await until(lambda: caught)
    assert caught[0].code == 1006
    assert isinstance(caught[0].__cause__, ConnectionResetError)
    assert other.cancelled


# Protocol errors


async def test_what_arrived_before_a_protocol_error_can_be_received_and_answered() -> None:
    other = Cancelled()

    async def answer(ws: creche.WebSocket) -> None:
        await echo(ws)

    async with raw_server() as (ws, peer):
        await peer.stream.send(peer.frame(TEXT, b"1") + peer.frame(TEXT, b"2") + b"\xff\xff")
        with pytest.raises(creche.ConnectionClosedError) as caught:
            await ws.run(answer, other)
        assert other.cancelled
        assert isinstance(caught.value.__cause__, creche.ProtocolError)
        assert caught.value.sent is not None
        assert caught.value.sent.code == 1002
        assert caught.value.code == 1006
        assert [await peer.receive() for _ in range(2)] == [(TEXT, b"1"), (TEXT, b"2")]
        opcode, payload = await peer.receive()
        assert (opcode, payload[:2]) == (CLOSE, b"\x03\xea")
        await peer.stream.aclose()


async def test_a_protocol_error_ends_handlers_that_do_not_receive_after_close_timeout() -> None:
    other = Cancelled()
    async with raw_server(close_timeout=0.05) as (ws, peer):
        await peer.send(TEXT, b"\xff")
        with pytest.raises(creche.ConnectionClosedError) as caught:
            await ws.run(other)
        assert isinstance(caught.value.__cause__, creche.ProtocolError)
        opcode, payload = await peer.receive()
        assert (opcode, payload[:2]) == (CLOSE, b"\x03\xef")


@pytest.mark.feature("limits")
async def test_a_message_too_big_is_told_with_1009() -> None:
    async def client(ws: creche.WebSocket) -> None:
        await ws.send("12345")
        await wait_for_end(ws)

    async def server(ws: creche.WebSocket) -> None:
        await ws.receive()

    ends = await two_ends(client, server, max_size=4)
    assert isinstance(ends[1].error, creche.ConnectionClosedError)
    assert isinstance(ends[1].error.__cause__, creche.PayloadTooBig)
    assert isinstance(ends[0].error, creche.ConnectionClosedError)
    assert ends[0].close_code == 1009


# Timeouts


@pytest.mark.feature("keepalive")
async def test_a_keepalive_timeout_ends_all_handlers_at_once() -> None:
    other = Cancelled()
    async with raw_server(ping_interval=0.02, ping_timeout=0.03) as (ws, peer):
        with pytest.raises(creche.ConnectionClosedError, match="keepalive ping timeout") as caught:
            await ws.run(other, wait_for_end)
        assert other.cancelled
        assert (caught.value.code, caught.value.sent) == (1006, None)
        assert (await peer.receive())[0] == PING
        await peer.receive_eof()


async def test_a_stalled_peer_ends_all_handlers_at_once() -> None:
    async def flood(ws: creche.WebSocket) -> None:
        while True:
            await ws.send(b"x" * 1000)

    async with raw_server(
        clogged_after=10_000, ping_interval=None, stall_timeout=0.05, write_limit=5000
    ) as (ws, peer):
        with pytest.raises(creche.ConnectionClosedError, match="stall timeout") as caught:
            await ws.run(flood, wait_for_end)
        assert (caught.value.code, caught.value.sent) == (1006, None)
        await peer.receive_eof()


async def test_a_closing_handshake_that_is_not_answered_ends_the_handlers() -> None:
    other = Cancelled()
    async with raw_server(close_timeout=0.05) as (ws, peer):
        await ws.send_eof()
        with pytest.raises(creche.ConnectionClosedError, match="close timeout") as caught:
            await ws.run(other, wait_for_end)
        assert other.cancelled
        assert caught.value.code == 1006
        assert (await peer.receive())[0] == CLOSE


# A handler raises


async def test_a_handler_that_raises_ends_the_others_and_raises_a_group() -> None:
    other = Cancelled()

    async def bad(ws: creche.WebSocket) -> None:
        await other.started.wait()
        raise KeyError("mine")

    async def client(ws: creche.WebSocket) -> None:
        await ws.run(bad, other)

    ends = await two_ends(client, wait_for_end)
    error = ends[0].error
    assert isinstance(error, ExceptionGroup)
    assert [type(exc) for exc in error.exceptions] == [KeyError]
    assert other.cancelled
    assert ends[1].close_code == 1011
    assert isinstance(ends[1].error, creche.ConnectionClosedError)


async def test_a_handler_that_raises_beside_a_cancellation_is_not_lost() -> None:
    async def bad(ws: creche.WebSocket) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("mine")

    async def client(ws: creche.WebSocket) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ws.run(bad, wait_for_end)

    ends = await two_ends(client, wait_for_end)
    error = ends[0].error
    assert isinstance(error, ExceptionGroup)
    assert [type(exc) for exc in error.exceptions] == [KeyError]
    assert ends[1].close_code == 1011


async def test_a_handler_that_raises_beside_the_loss_is_not_lost() -> None:
    async def bad(ws: creche.WebSocket) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("mine")

    async with raw_server() as (ws, peer):
        await peer.stream.aclose()
        with pytest.raises(ExceptionGroup) as caught:
            await ws.run(bad, wait_for_end)
        assert [type(exc) for exc in caught.value.exceptions] == [KeyError]


async def test_the_end_of_another_connection_is_a_users_error() -> None:
    async with memory_pair() as (other, _), memory_pair() as (client, _):
        await other.aclose()

        async def use_other(ws: creche.WebSocket) -> None:
            await other.send("x")

        with pytest.raises(ExceptionGroup) as caught:
            await client.run(use_other)
        assert [type(exc) for exc in caught.value.exceptions] == [creche.ConnectionAlreadyClosed]


async def test_the_end_of_another_connection_closes_this_one_with_1011() -> None:
    async with memory_pair() as (other, _):
        await other.aclose()

        async def client(ws: creche.WebSocket) -> None:
            await other.send("x")

        ends = await two_ends(client, wait_for_end)
    assert isinstance(ends[0].error, creche.ConnectionAlreadyClosed)
    assert ends[1].close_code == 1011


async def test_the_end_inside_a_group_of_the_users_is_not_an_error() -> None:
    async def with_own_group(ws: creche.WebSocket) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(ws.receive)

    async with raw_server() as (ws, peer):
        await peer.send(CLOSE, b"\x03\xe8")
        await ws.run(with_own_group)
        await peer.stream.aclose()


async def test_of_a_group_only_the_users_errors_are_left() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(CLOSE, b"\x03\xe8")

        async def both(ws: creche.WebSocket) -> None:
            try:
                await ws.receive()
            except creche.ConnectionClosed as exc:
                raise ExceptionGroup("both", [exc, KeyError("mine")]) from None

        with pytest.raises(ExceptionGroup) as caught:
            await ws.run(both)
        inner = caught.value.exceptions[0]
        assert isinstance(inner, ExceptionGroup)
        assert [type(exc) for exc in inner.exceptions] == [KeyError]
        await peer.stream.aclose()


# The body and the surroundings


@pytest.mark.parametrize("kind", [ValueError, ExceptionGroup, KeyboardInterrupt, SystemExit])
@pytest.mark.feature("client_exit")
async def test_what_the_body_raises_leaves_as_the_very_object(kind: Any) -> None:
    error = kind("group", [ValueError()]) if kind is ExceptionGroup else kind("mine")

    async def client(ws: creche.WebSocket) -> None:
        raise error

    ends = await two_ends(client, wait_for_end)
    assert ends[0].error is error
    assert ends[1].close_code == (1011 if isinstance(error, Exception) else 1001)


async def test_what_the_body_raises_wins_over_a_cancellation() -> None:
    error = ValueError("mine")
    client_stream, server_stream = creche.testing.memory_byte_pair()
    async with anyio.create_task_group() as tg:

        async def server() -> None:
            with pytest.raises(creche.ConnectionClosedError) as told:
                async with creche.server_websocket(server_stream) as ws:
                    await wait_for_end(ws)
            assert told.value.code == 1011

        tg.start_soon(server)
        with anyio.CancelScope() as scope:
            with pytest.raises(ValueError, match="mine") as caught:
                async with creche.client_websocket(client_stream, "ws://localhost/"):
                    scope.cancel()
                    raise error
            assert caught.value is error


async def test_a_cancelled_scope_closes_with_1001_and_the_cancellation_goes_on() -> None:
    other = Cancelled()
    after: list[str] = []

    async def client(ws: creche.WebSocket) -> None:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tg:

                async def cancel() -> None:
                    await other.started.wait()
                    scope.cancel()

                tg.start_soon(cancel)
                await ws.run(other)
                after.append("not reached")
        raise AssertionError("the scope is inside: this end closes with 1011")

    ends = await two_ends(client, wait_for_end)
    assert other.cancelled
    assert after == []
    assert ends[1].close_code == 1011

    codes = []

    async def handler(ws: creche.WebSocket) -> None:
        await wait_for_end(ws)
        codes.append(ws.close_code)

    async with creche.serving(handler, "127.0.0.1") as server:
        with anyio.CancelScope() as scope:
            async with creche.connect(server.url) as ws:
                scope.cancel()
                await ws.run(Cancelled())
        assert scope.cancelled_caught
        await until(lambda: codes)
    assert codes == [1001]


# Our own aclose


async def test_our_own_aclose_is_told_to_those_who_receive_and_send() -> None:
    errors = []

    async def receive(ws: creche.WebSocket) -> None:
        try:
            await ws.receive()
        except creche.ConnectionClosed as exc:
            errors.append(exc)

    async def send(ws: creche.WebSocket) -> None:
        try:
            while True:
                await ws.send(b"x" * 1000)
        except creche.ConnectionClosed as exc:
            errors.append(exc)

    async with raw_server(clogged_after=5000, write_limit=1000, close_timeout=0.05) as (ws, peer):
        async with anyio.create_task_group() as tg:
            tg.start_soon(receive, ws)
            tg.start_soon(send, ws)
            await settle()
            await ws.aclose(3000, "bye")
        assert (await peer.receive())[0] == BINARY  # what was committed goes first
        assert [type(exc) for exc in errors] == [creche.ConnectionAlreadyClosed] * 2
        assert all(isinstance(exc, anyio.ClosedResourceError) for exc in errors)
        assert errors[0].sent == creche.Close(3000, "bye")
        with pytest.raises(creche.ConnectionAlreadyClosed):
            await ws.receive()


async def test_run_returns_when_a_handler_has_closed_the_connection() -> None:
    async def closer(ws: creche.WebSocket) -> None:
        await ws.aclose(4001)

    async def client(ws: creche.WebSocket) -> None:
        await ws.run(closer, wait_for_end, until="all")

    ends = await two_ends(client, wait_for_end)
    assert ends[0].error is None
    assert ends[1].close_code == 4001


# Servers


async def test_a_handler_that_raises_ends_its_connection_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handler(ws: creche.WebSocket) -> None:
        if await ws.receive() == "raise":
            raise KeyError("mine")
        await ws.send("fine")

    async with creche.serving(handler, "127.0.0.1") as server:
        async with creche.connect(server.url) as good:
            async with creche.connect(server.url) as bad:
                await bad.send("raise")
                with pytest.raises(creche.ConnectionClosedError) as caught:
                    await bad.receive()
                assert caught.value.code == 1011
            await good.send("go on")
            assert await good.receive() == "fine"
        assert server.stats.failed == 1
    records = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert [record.levelname for record in records] == ["ERROR"]
    assert records[0].exc_info is not None


async def test_a_loss_that_leaves_a_handler_is_one_line_without_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with creche.serving(echo, "127.0.0.1") as server:
        async with raw_client(server.url) as peer:
            await peer.send(TEXT, b"x")
            assert await peer.receive() == (TEXT, b"x")
        await until(lambda: not server.connections)
        assert server.stats.failed == 0
    lines = said(caplog)
    assert [record.levelname for record in lines] == ["INFO"]
    assert lines[0].exc_info is None
    assert "without a closing handshake" in lines[0].getMessage()


@pytest.mark.feature("shutdown")
async def test_a_shutdown_sends_1001_to_all_and_handlers_see_the_end() -> None:
    said = []

    async def handler(ws: creche.WebSocket) -> None:
        await ws.send("hello")
        async for _ in ws:
            pass
        said.append("goodbye")

    async with anyio.create_task_group() as tg:
        server = await tg.start(creche.serve, handler, "127.0.0.1")
        async with creche.connect(server.url) as one, creche.connect(server.url) as two:
            for ws in (one, two):
                assert await ws.receive() == "hello"
            await server.shutdown(reason="maintenance")
            for ws in (one, two):
                with pytest.raises(creche.ConnectionClosedOK) as caught:
                    await ws.receive()
                assert caught.value.received == creche.Close(1001, "maintenance")
    assert said == ["goodbye", "goodbye"]
    assert not server.connections


async def test_a_shutdown_cancels_handlers_after_the_grace() -> None:
    other = Cancelled()
    async with anyio.create_task_group() as tg:
        server = await tg.start(creche.serve, other, "127.0.0.1")
        async with creche.connect(server.url) as ws:
            await other.started.wait()
            await server.shutdown(4001, grace=0.02)
            assert other.cancelled
            with pytest.raises(creche.ConnectionClosedError):
                await ws.receive()
            assert ws.close_code == 4001


async def test_a_server_that_is_cancelled_sends_1001_to_all_and_leaves_nothing() -> None:
    others = []

    async def handler(ws: creche.WebSocket) -> None:
        other = Cancelled()
        others.append(other)
        await other(ws)

    async with anyio.create_task_group() as tg:
        server = await tg.start(creche.serve, handler, "127.0.0.1")
        async with creche.connect(server.url) as one, creche.connect(server.url) as two:
            await until(lambda: len(others) == 2)
            tg.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for ws in (one, two):
                    with pytest.raises(creche.ConnectionClosedOK) as caught:
                        await ws.receive()
                    assert caught.value.code == 1001
    assert all(other.cancelled for other in others)
    assert not server.connections


@pytest.mark.feature("answer_pings")
async def test_pings_are_answered_while_nobody_receives() -> None:
    async with raw_server() as (_, peer):
        await peer.send(PING, b"there?")
        assert await peer.receive() == (PONG, b"there?")
        await peer.stream.aclose()
