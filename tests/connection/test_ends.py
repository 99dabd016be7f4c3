"""What is told of a connection's end, and to whom."""

from __future__ import annotations

import copy
import pickle
import time
import traceback
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import creche
from creche.exceptions import EndOfMessages, PeerHasClosed
from creche.protocol.closing import Close
from creche.protocol.frames import CLOSE, PONG
from creche.testing import memory_pair
from support import raw_client, raw_server, settle, until

pytestmark = pytest.mark.anyio


async def test_iteration_ends_quietly_when_another_task_closes() -> None:
    seen = []

    async def iterate(ws: creche.WebSocket) -> None:
        async for message in ws:
            seen.append(message)
        seen.append("end")

    async with memory_pair() as (client, server), anyio.create_task_group() as tg:
        tg.start_soon(iterate, client)
        await server.send("x")
        await until(lambda: seen)
        await client.aclose()
    assert seen == ["x", "end"]


async def test_an_own_close_is_a_good_end() -> None:
    async with memory_pair() as (client, _):
        await client.aclose()
        with pytest.raises(creche.ConnectionAlreadyClosed) as caught:
            await client.receive()
        assert isinstance(caught.value, creche.ConnectionClosedOK)
        assert isinstance(caught.value, anyio.ClosedResourceError)


@pytest.mark.parametrize("until_", ["first", "all"])
async def test_run_ends_at_once_after_an_own_close(until_: Any) -> None:
    async def closing(ws: creche.WebSocket) -> None:
        await ws.aclose()
        if until_ == "first":
            await anyio.lowlevel.checkpoint()

    async def waiting(_ws: creche.WebSocket) -> None:
        await anyio.sleep_forever()

    async with memory_pair() as (client, _):
        with anyio.fail_after(1):
            await client.run(closing, waiting, until=until_)


async def test_what_comes_behind_an_own_close_in_its_task_is_not_cancelled() -> None:
    done = []
    async with memory_pair() as (client, _), client.create_task_group() as tg:
        tg.start_soon(anyio.sleep_forever)
        await client.aclose()
        await anyio.lowlevel.checkpoint()
        done.append(True)
    assert done


async def test_a_loss_stays_what_is_told_when_the_block_is_left_later() -> None:
    async with raw_server(close_timeout=0.1) as (ws, peer):
        await peer.send(CLOSE, Close(4000, "mine").payload())
        await until(lambda: ws.close_code is not None)
        await ws.aclose()
        with pytest.raises(creche.ConnectionClosedError, match="4000"):
            await ws.receive()
        with pytest.raises(creche.ConnectionClosedError, match="4000"):
            await ws.send("x")


@pytest.mark.parametrize("form", [EndOfMessages, PeerHasClosed])
def test_what_is_raised_is_called_what_is_caught(form: type[creche.ConnectionClosedOK]) -> None:
    exc = form(Close(1000, "a"), Close(1001, "b"), "why")
    text = traceback.format_exception_only(exc)[0]
    assert text.startswith("creche.exceptions.ConnectionClosedOK: got 1000")
    for twin in (pickle.loads(pickle.dumps(exc)), copy.copy(exc)):
        assert type(twin) is form
        assert (twin.received, twin.sent, twin.detail) == (exc.received, exc.sent, exc.detail)


# Ends on the wire


@pytest.mark.parametrize("code", [1000, 1001, 1011, 4000])
async def test_a_client_ends_a_closing_handshake_with_fin_whatever_the_code(code: int) -> None:
    """A reset would destroy what the server has not read yet."""

    async def handler(ws: creche.WebSocket) -> None:
        ends.append(ws._link)
        await ws.aclose(code)

    ends: list[Any] = []
    async with creche.serving(handler, "127.0.0.1") as server:
        ws = await creche.connect(server.url)
        await until(lambda: ws._link.gone)
        assert ws.close_code == code
        await ws.aclose()
        await until(lambda: not server.connections)
    assert ends[0].connection.eof


# Streams


async def test_a_stream_that_is_closed_tells_the_task_that_waits_in_it() -> None:
    told = []

    async def read(stream: creche.ReceiveStream) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
        told.append(True)

    async with memory_pair() as (client, server):
        async with anyio.create_task_group() as tg:
            sending = server.send_stream()
            await sending.__aenter__()
            await sending.send(b"one")
            stream = await client.receive_stream().__aenter__()
            assert await stream.receive() == b"one"
            tg.start_soon(read, stream)
            await settle()
            await stream.aclose()
        await sending.send(b"rest")
        await sending.aclose()
        await server.send(b"another message" * 1000)
        assert await client.receive() == b"another message" * 1000
    assert told


async def test_a_stream_is_entered_once() -> None:
    async with memory_pair() as (client, server):
        async with client.send_stream() as sending:
            with pytest.raises(RuntimeError, match="one message"):
                await sending.__aenter__()
            await sending.send(b"x")
        with pytest.raises(RuntimeError, match="one message"):
            await sending.__aenter__()
        async with server.receive_stream() as receiving:
            with pytest.raises(RuntimeError, match="one message"):
                await receiving.__aenter__()
            assert await receiving.receive() == b"x"
        with pytest.raises(RuntimeError, match="one message"):
            await receiving.__aenter__()
        await client.send("y")
        assert await server.receive() == "y"


async def test_a_stream_whose_beginning_was_cancelled_may_be_entered_again() -> None:
    async with memory_pair() as (client, server):
        stream = server.receive_stream()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.__aenter__()
        await client.send(b"x")
        async with stream:
            assert await stream.receive() == b"x"


async def test_a_stream_whose_turn_never_came_may_be_entered_again() -> None:
    async with memory_pair() as (client, server):
        stream = client.send_stream()
        async with client.send_stream() as first:
            await first.send(b"1")
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stream.__aenter__()
        async with stream:
            await stream.send(b"2")
        assert [await server.receive(), await server.receive()] == [b"1", b"2"]


# Groups


async def test_a_group_that_was_not_entered_says_so() -> None:
    async with memory_pair() as (client, _):
        group = client.create_task_group()
        with pytest.raises(RuntimeError, match="has not been entered"):
            group.start_soon(anyio.sleep, 1)


async def test_tasks_are_named_after_the_handlers() -> None:
    names = []

    async def handler(_ws: creche.WebSocket) -> None:
        names.append(anyio.get_current_task().name)

    async with memory_pair() as (client, _):
        await client.run(handler)
    assert names == [f"{__name__}.{handler.__qualname__}"]


# asyncio's own tools


async def test_a_task_that_waits_for_a_message_is_seen_by_anyio() -> None:
    async with memory_pair() as (client, _), anyio.create_task_group() as tg:
        tg.start_soon(client.receive)
        await anyio.wait_all_tasks_blocked()
        tg.cancel_scope.cancel()


async def test_a_deadline_is_judged_when_what_has_arrived_was_read() -> None:
    async def handler(ws: creche.WebSocket) -> None:
        ws.set_keepalive(0.05, 0.2)
        opened.append(ws)
        await creche.discard(ws)

    opened: list[creche.WebSocket] = []
    async with creche.serving(handler, "127.0.0.1") as server:
        async with raw_client(server.url) as peer:
            await until(lambda: opened)
            _, payload = await peer.receive()
            await peer.send(PONG, payload)  # it lies in the kernel
            time.sleep(0.5)  # noqa: ASYNC251 - as if the loop were held up, or the process stopped
            await settle()
            assert opened[0].state == "open"


async def test_why_a_connection_has_no_close_code_of_the_peers_is_told() -> None:
    async with raw_server(close_timeout=60) as (ws, _):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await ws.aclose()
        with pytest.raises(creche.ConnectionAlreadyClosed, match="closing was cancelled"):
            await ws.receive()
