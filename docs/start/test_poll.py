"""The tutorial's tests of its poll."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from poll import Poll

import creche
from creche.testing import memory_pair

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def voter(poll: Poll) -> AsyncIterator[creche.WebSocket]:
    """Somebody who votes; nothing but memory is between."""
    async with memory_pair() as (client, server), anyio.create_task_group() as tg:
        tg.start_soon(poll.handler, server)
        yield client
        await client.aclose()


async def test_everybody_sees_a_vote() -> None:
    poll = Poll("coffee", "tea")
    async with voter(poll) as ada, voter(poll) as bob:
        for ws in (ada, bob):
            assert json.loads(await ws.receive()) == {"coffee": 0, "tea": 0}
        await ada.send("tea")
        for ws in (ada, bob):
            assert json.loads(await ws.receive()) == {"coffee": 0, "tea": 1}
    assert not poll.watchers


async def test_what_is_no_choice_ends_the_connection() -> None:
    async with voter(Poll("coffee")) as ws:
        await ws.receive()
        await ws.send("beer")
        with pytest.raises(creche.ConnectionClosedError) as caught:
            await ws.receive()
        assert (caught.value.code, caught.value.reason) == (1008, "no such choice")


async def test_after_its_end_a_poll_counts_no_votes() -> None:
    poll = Poll("coffee")
    async with voter(poll) as ws:
        await ws.receive()
        await poll.close_after(0)
        await ws.send("coffee")
        assert json.loads(await ws.receive()) == {"coffee": 0}
