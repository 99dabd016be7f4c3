from __future__ import annotations

import contextvars
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup, TaskStatus

import creche
from creche.protocol.frames import CLOSE, TEXT
from creche.testing import memory_pair
from support import raw_server, settle

pytestmark = pytest.mark.anyio

NORMAL = b"\x03\xe8"


@pytest.mark.feature("task_group")
async def test_it_is_an_ordinary_task_group() -> None:
    async with memory_pair() as (client, _):
        done = []

        async def child(value: int) -> int:
            done.append(value)
            return value

        async with client.create_task_group() as tg:
            assert isinstance(tg, TaskGroup)
            handle = tg.start_soon(child, 1)
            tg.create_task(child(2), name="named")
        assert sorted(done) == [1, 2]
        assert handle.return_value == 1


async def test_start_waits_until_the_child_has_started() -> None:
    async with memory_pair() as (client, _):

        async def child(value: int, *, task_status: TaskStatus[int]) -> None:
            task_status.started(value + 1)
            await anyio.sleep_forever()

        async with client.create_task_group() as tg:
            assert await tg.start(child, 1) == 2
            tg.cancel_scope.cancel()


@pytest.mark.parametrize("own", [False, True])
async def test_what_became_of_a_child_is_told_as_by_any_task_group(own: bool) -> None:
    async def child(*, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await anyio.sleep_forever()

    async with memory_pair() as (client, _):
        group = client.create_task_group() if own else anyio.create_task_group()
        async with group as tg:
            handles = [
                tg.start_soon(child),
                tg.create_task(child()),
                await tg.start(child, return_handle=True),
            ]
            await settle()
            for handle in handles:
                handle.cancel()
                with pytest.raises(anyio.TaskCancelled):
                    await handle
                assert handle.status is anyio.TaskHandle.Status.CANCELLED
        await client.send("still open")


async def test_a_child_that_meets_the_end_before_it_has_started_tells_so() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(CLOSE, NORMAL)

        async def child(*, task_status: TaskStatus[None]) -> None:
            await ws.receive()

        async with ws.create_task_group() as tg:
            with pytest.raises(creche.ConnectionClosedOK):
                await tg.start(child)
        await peer.stream.aclose()


async def test_a_child_that_meets_the_end_after_it_has_started_is_finished() -> None:
    async with raw_server() as (ws, peer):

        async def child(*, task_status: TaskStatus[None]) -> None:
            task_status.started()
            await ws.receive()

        async with ws.create_task_group() as tg:
            await tg.start(child)
            await peer.send(CLOSE, NORMAL)
        await peer.stream.aclose()


async def test_the_body_that_meets_the_end_is_spared_and_the_children_are_cancelled() -> None:
    async with raw_server() as (ws, peer):
        cancelled = []
        worked = []

        async def child() -> None:
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                cancelled.append(True)
                raise

        await peer.send(TEXT, b"x")
        await peer.send(CLOSE, NORMAL)
        async with ws.create_task_group() as tg:
            tg.start_soon(child)
            async for _ in ws:
                await settle()
            await settle()
            worked.append(True)
        assert cancelled == worked == [True]
        await peer.stream.aclose()


async def test_the_body_is_cancelled_when_a_child_meets_the_end() -> None:
    async with raw_server() as (ws, peer):
        async with ws.create_task_group() as tg:
            tg.start_soon(creche.discard, ws)
            await peer.send(CLOSE, NORMAL)
            await anyio.sleep_forever()
        await peer.stream.aclose()


async def test_the_body_may_meet_the_end_by_an_exception() -> None:
    async with raw_server() as (ws, peer):
        await peer.send(CLOSE, NORMAL)
        async with ws.create_task_group():
            await ws.receive()
        await peer.stream.aclose()


async def test_groups_inside_groups_are_spared_on_the_way_to_the_one_that_met_the_end() -> None:
    async with raw_server() as (ws, peer):
        log = []

        async def sleeper(name: str) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                log.append(f"{name} cancelled")

        async def inner() -> None:
            async with ws.create_task_group() as tg:
                tg.start_soon(sleeper, "inner sleeper")
                await creche.discard(ws)
                await settle()
                log.append("inner worked")
            await settle()
            log.append("outer child worked")

        await peer.send(CLOSE, NORMAL)
        async with ws.create_task_group() as tg:
            tg.start_soon(sleeper, "outer sleeper")
            tg.start_soon(inner)
        assert sorted(log) == [
            "inner sleeper cancelled",
            "inner worked",
            "outer child worked",
            "outer sleeper cancelled",
        ]
        await peer.stream.aclose()


@pytest.mark.feature("task_group")
async def test_a_loss_cancels_children_and_body_and_is_raised_once() -> None:
    async with raw_server() as (ws, peer):
        with pytest.raises(creche.ConnectionClosedError) as caught:
            async with ws.create_task_group() as tg:
                tg.start_soon(anyio.sleep_forever)
                await peer.stream.aclose()
                await anyio.sleep_forever()
        assert caught.value.code == 1006


async def test_a_group_of_a_connection_that_is_lost_is_cancelled_at_once() -> None:
    async with raw_server() as (ws, peer):
        await peer.stream.aclose()
        with pytest.raises(creche.ConnectionClosedError):
            await ws.receive()
        reached = []
        with pytest.raises(creche.ConnectionClosedError):
            async with ws.create_task_group() as tg:
                tg.start_soon(anyio.sleep_forever)
                await settle()
                reached.append(True)
        assert reached == []


async def test_errors_of_children_win_over_the_loss() -> None:
    async with raw_server() as (ws, peer):

        async def bad() -> None:
            with anyio.CancelScope(shield=True):
                await settle()
            raise KeyError("mine")

        with pytest.raises(ExceptionGroup) as caught:
            async with ws.create_task_group() as tg:
                tg.start_soon(bad)
                await peer.stream.aclose()
                await anyio.sleep_forever()
        assert [type(exc) for exc in caught.value.exceptions] == [KeyError]


async def test_an_error_of_the_body_is_raised_as_any_task_group_would() -> None:
    async with memory_pair() as (client, _):
        with pytest.raises(ExceptionGroup) as caught:
            async with client.create_task_group() as tg:
                tg.start_soon(anyio.sleep_forever)
                raise KeyError("mine")
        assert [type(exc) for exc in caught.value.exceptions] == [KeyError]


async def test_a_cancellation_from_outside_goes_on_outwards() -> None:
    async with memory_pair() as (client, _):
        after: list[Any] = []
        with anyio.CancelScope() as scope:
            async with client.create_task_group() as tg:
                tg.start_soon(anyio.sleep_forever)
                scope.cancel()
                await anyio.sleep_forever()
            after.append("not reached")
        assert scope.cancelled_caught
        assert after == []


async def test_a_cancellation_goes_on_outwards_also_beside_a_loss() -> None:
    async with raw_server() as (ws, peer):
        with anyio.CancelScope() as scope:
            async with ws.create_task_group() as tg:
                tg.start_soon(anyio.sleep_forever)
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await peer.stream.aclose()
                    await settle()
        assert scope.cancelled_caught


async def test_children_run_in_the_context_they_are_given() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    seen = []

    async def child() -> None:
        seen.append(variable.get())

    context = contextvars.copy_context()
    context.run(variable.set, 1)
    async with memory_pair() as (client, _), client.create_task_group() as tg:
        tg.create_task(child(), context=context)
    assert seen == [1]


async def test_a_task_that_was_cancelled_elsewhere_ends_the_group_as_any_task_group(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")
    import asyncio

    async def stray() -> None:
        task = asyncio.create_task(anyio.sleep_forever())
        task.cancel()
        await task

    async with memory_pair() as (client, server):
        async with client.create_task_group() as tg:
            tg.start_soon(stray)
            tg.start_soon(anyio.sleep_forever)
        await client.send("still open")
        assert await server.receive() == "still open"
