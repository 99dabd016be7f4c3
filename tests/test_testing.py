from __future__ import annotations

import anyio
import pytest

import creche
from creche.testing import memory_byte_pair, memory_pair
from support import settle

pytestmark = pytest.mark.anyio


async def test_a_handler_can_be_tested_without_a_socket() -> None:
    async def shout(ws: creche.WebSocket) -> None:
        async for message in ws:
            assert isinstance(message, str)
            await ws.send(message.upper())

    async with memory_pair() as (client, server), anyio.create_task_group() as tg:
        tg.start_soon(shout, server)
        await client.send("hello")
        assert await client.receive() == "HELLO"
        await client.aclose()


async def test_options_hold_for_both() -> None:
    async with memory_pair(max_size=3) as pair:
        assert [end._link.connection.inbox.max_size for end in pair] == [3, 3]
    with pytest.raises(TypeError, match="unknown option"):
        async with memory_pair(wrong=1):  # type: ignore[call-arg]
            pass


async def test_what_the_body_raises_leaves_as_it_was() -> None:
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with memory_pair():
            raise error
    assert caught.value is error


async def test_bytes_go_both_ways_up_to_the_clog() -> None:
    one, two = memory_byte_pair(clogged_after=4)
    assert one.clogged_after == two.clogged_after == 4
    await one.send(b"1234")
    async with anyio.create_task_group() as tg:
        tg.start_soon(one.send, b"5678")
        await settle()
        assert await two.receive(2) == b"12"
        await settle()
        assert await two.receive() == b"3456"
        assert await two.receive() == b"78"
    await two.send(b"back")
    assert await one.receive() == b"back"


async def test_ends_are_told_as_any_byte_stream_tells_them() -> None:
    one, two = memory_byte_pair()
    await one.send(b"x")
    await one.send_eof()
    assert await two.receive() == b"x"
    with pytest.raises(anyio.EndOfStream):
        await two.receive()
    await two.send(b"y")
    await two.aclose()
    assert await one.receive() == b"y"
    with pytest.raises(anyio.EndOfStream):
        await one.receive()
    with pytest.raises(anyio.BrokenResourceError):
        await one.send(b"z")
    for call in (two.receive(), two.send(b"z")):
        with pytest.raises(anyio.ClosedResourceError):
            await call


async def test_whoever_waits_is_told_of_the_end() -> None:
    one, two = memory_byte_pair(clogged_after=0)

    async def send() -> None:
        with pytest.raises(anyio.BrokenResourceError):
            await one.send(b"x")

    async def receive() -> None:
        with pytest.raises(anyio.EndOfStream):
            await one.receive()

    async with anyio.create_task_group() as tg:
        tg.start_soon(send)
        tg.start_soon(receive)
        await settle()
        await two.aclose()


async def test_a_negative_clog_is_refused() -> None:
    with pytest.raises(ValueError, match="clogged_after must not be negative"):
        memory_byte_pair(clogged_after=-1)
