from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

import creche
from creche.testing import memory_pair

pytestmark = pytest.mark.anyio


def to_bytes(item: Any) -> bytes:
    return json.dumps(item).encode()


@pytest.mark.feature("codec")
async def test_objects_go_both_ways() -> None:
    async with memory_pair() as (client, server):
        ours = creche.codec(client, json.dumps, json.loads)
        theirs = creche.codec(server, json.dumps, json.loads)
        for source, target in ((ours, theirs), (theirs, ours)):
            await source.send({"a": [1, None]})
            assert await target.receive() == {"a": [1, None]}
        await ours.send_eof()
        assert [item async for item in theirs] == []
        assert theirs.extra_attributes == server.extra_attributes


@pytest.mark.parametrize(("text", "kind"), [(None, bytes), (True, str), (False, bytes)])
async def test_bytes_can_be_sent_as_text(text: bool | None, kind: type) -> None:
    async with memory_pair() as (client, server):
        await creche.codec(client, to_bytes, json.loads, text=text).send(1)
        assert type(await server.receive()) is kind


async def test_what_cannot_be_encoded_is_not_sent_and_what_cannot_be_decoded_is_taken() -> None:
    async with memory_pair() as (client, server):
        ours = creche.codec(client, json.dumps, json.loads)
        theirs = creche.codec(server, json.dumps, json.loads)
        with pytest.raises(TypeError):
            await ours.send(object())
        await client.send("{")
        await ours.send(2)
        with pytest.raises(json.JSONDecodeError):
            await theirs.receive()
        assert await theirs.receive() == 2


async def test_closing_the_stream_closes_the_websocket() -> None:
    async with memory_pair() as (client, server):
        async with anyio.create_task_group() as tg:
            tg.start_soon(creche.discard, server)
            await creche.codec(client, json.dumps, json.loads).aclose()
        assert client.close_code == 1000
