"""When tasks go on, and when the kernel is called: what docs/performance.md says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any

import anyio
import pytest
import trio

import creche
from creche.engine.current import current_engine
from creche.engine.turns import Turns
from creche.engine.waiting import AsyncioWaiter
from creche.protocol.frames import BINARY, TEXT, append_frame
from support import NotedSocket, RawPeer, raw_client, settle, until

pytestmark = pytest.mark.anyio

Calls = list[tuple[Any, ...]]


@asynccontextmanager
async def noted(**options: Any) -> AsyncIterator[tuple[creche.WebSocket, RawPeer, Calls]]:
    """The server's end of a connection, whose socket notes what is asked of it."""
    members: list[creche.WebSocket] = []
    calls: Calls = []

    async def handler(ws: creche.WebSocket) -> None:
        members.append(ws)
        await ws._link.wait_gone()

    async with creche.serving(handler, "127.0.0.1", close_timeout=0.1, **options) as server:
        async with raw_client(server.url) as peer:
            await until(lambda: members)
            NotedSocket.put_under(members[0], lambda _, *call: calls.append(call))
            yield members[0], peer, calls


# Writing


@pytest.fixture
def clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is noticed, and the budget is one of operations alone."""
    monkeypatch.setattr("creche.connection.outgoing._PAUSE", 60)
    monkeypatch.setattr("creche.engine.budget.perf_counter", lambda: 0.0)


@pytest.mark.usefixtures("clock_stands_still")
async def test_a_loop_of_sends_is_written_together() -> None:
    async with noted() as (ws, _, calls):
        for _ in range(96):
            await ws.send(b"1234")
        await settle()
        first, *sizes = [data for name, data in calls if name == "send"]
    assert first == b"\x82\x041234"  # at once
    assert sum(sizes) == 95 * 6
    assert len(sizes) <= 96 // 32


@pytest.mark.usefixtures("clock_stands_still")
async def test_what_follows_in_a_turn_is_written_at_its_end() -> None:
    async with noted() as (ws, _, calls):
        for _ in range(3):
            ws.send_nowait(b"1234")
        assert calls == [("send", b"\x82\x041234")]
        await settle()
        assert calls[1:] == [("send", 12)]
        ws.send_nowait(b"1234")  # in another turn
        assert len(calls) == 3


async def test_a_message_after_a_pause_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creche.connection.outgoing._PAUSE", 0)  # any time at all is one
    async with noted() as (ws, _, calls):
        for count in range(1, 4):
            ws.send_nowait(b"")
            assert len(calls) == count


async def test_a_small_message_to_many_is_one_object_for_all_of_them() -> None:
    async with noted() as (ws, _, calls), noted() as (other, _, others_calls):
        assert creche.broadcast([ws, other], "x" * 100) == []
        [(_, data)], [(_, others_data)] = calls, others_calls
        assert data == b"\x81\x64" + b"x" * 100
        assert data is others_data


async def test_a_large_payload_is_given_to_the_kernel_as_it_is() -> None:
    payload = b"x" * 2**15
    async with noted() as (ws, _, calls):
        ws.send_nowait(payload)
        assert calls[0][0] == "sendmsg"
        assert calls[0][2] is payload


# Reading


async def test_a_payload_that_has_begun_is_read_by_up_to_1_mib_at_once() -> None:
    frame = bytearray()
    append_frame(frame, BINARY, bytes(3 * 2**20), b"abcd")
    async with noted(max_size=None) as (ws, peer, calls):
        await peer.stream.send(bytes(frame))
        assert len(await ws.receive()) == 3 * 2**20
    limits = [size for name, size in calls if name == "recv_into"]
    assert limits[0] == 2**17
    assert max(limits) == 2**20


async def test_on_asyncio_a_task_goes_on_in_the_callback_that_read_its_message(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("a task of trio goes on in the next turn")
    frame = bytearray()
    append_frame(frame, TEXT, b"x", b"abcd")
    received: list[list[str | bytes]] = []

    def read(ws: creche.WebSocket, messages: list[str | bytes]) -> None:
        ws._link.data_received(frame, len(frame))
        received.append(messages[:])
        ws._link.reading_done()
        received.append(messages[:])

    async with noted() as (ws, _, _calls):
        messages: list[str | bytes] = []

        async def receive() -> None:
            messages.append(await ws.receive())

        task = asyncio.create_task(receive())
        await settle()
        asyncio.get_running_loop().call_soon(read, ws, messages)
        await task
    assert received == [[], ["x"]]


# What a task of asyncio takes for a future


class Waiting:
    """A task that waits once."""

    def __init__(self, waiter: AsyncioWaiter | None = None) -> None:
        self.waiter = waiter or AsyncioWaiter(asyncio.get_running_loop())
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> str:
        await self.waiter.wait()
        return "done"


@pytest.fixture
async def waiting(anyio_backend_name: str) -> Waiting:
    if anyio_backend_name != "asyncio":
        pytest.skip("it is asyncio's")
    waiting = Waiting()
    await asyncio.sleep(0)
    return waiting


async def test_a_waiter_is_woken_once(waiting: Waiting) -> None:
    assert waiting.waiter.get_loop() is asyncio.get_running_loop()
    assert waiting.waiter.wake()
    assert not waiting.waiter.wake()
    assert not waiting.waiter.resume()
    assert await waiting.task == "done"


class Interrupting:
    """An event loop in which a signal strikes while something is scheduled."""

    def __init__(self, loop: asyncio.AbstractEventLoop, before: bool) -> None:
        self._loop = loop
        self._before = before
        self.struck = False

    def call_soon(self, *args: Any, **options: Any) -> object:
        if self.struck or not self._before:
            self._loop.call_soon(*args, **options)
        if not self.struck:
            self.struck = True
            raise KeyboardInterrupt
        return None


class InterruptedWaiter(AsyncioWaiter):
    """One whose task takes it for a future of its own loop."""

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()


@pytest.mark.parametrize("cancelled", [True, False])
@pytest.mark.parametrize("before", [True, False])
async def test_a_task_that_a_signal_left_asleep_can_be_woken_and_cancelled(
    anyio_backend_name: str, before: bool, cancelled: bool
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("it is asyncio's")
    loop: Any = Interrupting(asyncio.get_running_loop(), before)
    waiting = Waiting(InterruptedWaiter(loop))
    await asyncio.sleep(0)
    with pytest.raises(KeyboardInterrupt):
        waiting.waiter.wake()
    if cancelled:
        waiting.task.cancel()
    else:
        waiting.waiter.wake()
    done, _ = await asyncio.wait([waiting.task], timeout=20)
    assert done


@pytest.mark.parametrize("before", [True, False])
async def test_a_turn_that_a_signal_has_struck_is_followed_by_another(
    anyio_backend_name: str, before: bool
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("it is asyncio's")
    called: list[int] = []
    loop: Any = Interrupting(asyncio.get_running_loop(), before)
    turns = Turns(loop, None, AsyncioWaiter(asyncio.get_running_loop()))
    with pytest.raises(KeyboardInterrupt):
        turns.run_soon(lambda: called.append(1))
    turns.run_soon(lambda: called.append(2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert called == [1, 2]


async def test_a_waiter_is_cancelled_with_its_task(waiting: Waiting) -> None:
    waiting.task.cancel("why")
    waiting.task.cancel("again")  # before it has noticed
    assert not waiting.waiter.wake()
    with pytest.raises(asyncio.CancelledError, match="why"):
        await waiting.task


async def test_a_task_that_is_woken_and_then_cancelled_is_cancelled(waiting: Waiting) -> None:
    waiting.waiter.wake()
    waiting.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting.task


async def test_a_waiter_answers_as_a_future_does(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("it is asyncio's")
    waiter = AsyncioWaiter(asyncio.get_running_loop())
    called: list[object] = []
    waiter.wait()
    waiter.add_done_callback(called.append, context=Context())
    assert not waiter.done()
    assert not waiter.cancelled()
    assert waiter.remove_done_callback(called.append) == 0
    waiter.wake()
    assert waiter.done()
    assert waiter.exception() is None
    await asyncio.sleep(0)
    assert called == [waiter]
    waiter.wait()
    waiter.add_done_callback(called.append, context=Context())
    waiter.cancel()
    assert waiter.cancelled()
    with pytest.raises(asyncio.CancelledError):
        waiter.exception()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_no_interrupt_strikes_a_task_that_falls_asleep_or_is_woken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = current_engine()
    protected: dict[str, bool] = {}

    def watch(name: str) -> None:
        real = getattr(trio.lowlevel, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if not trio.lowlevel.current_task().name.startswith("creche "):  # which all are
                is_protected = trio.lowlevel.currently_ki_protected()
                protected[name] = is_protected and protected.get(name, True)
            return real(*args, **kwargs)

        monkeypatch.setattr(trio.lowlevel, name, watched)

    names = ("wait_task_rescheduled", "reschedule", "spawn_system_task")
    for name in names:
        watch(name)
    # What an event of Trio's calls.
    monkeypatch.setattr("trio._core.wait_task_rescheduled", trio.lowlevel.wait_task_rescheduled)
    assert not trio.lowlevel.currently_ki_protected()
    waiter, event = engine.new_waiter(), engine.new_event()

    async def sleep() -> None:
        await event.wait()

    async def sleep_deeper() -> None:
        protected.pop("wait_task_rescheduled", None)  # it may be struck there, and bears it
        await waiter.wait()
        protected.pop("wait_task_rescheduled", None)

    async with anyio.create_task_group() as tg:
        tg.start_soon(sleep_deeper)
        await settle()
        assert waiter.wake()
        await settle()
        tg.start_soon(sleep)
        await settle()
        assert not event.is_set()
        event.set()
    engine.start_soon(settle)
    assert event.is_set()
    assert protected == dict.fromkeys(names, True)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_a_task_that_an_interrupt_has_ended_is_not_woken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(_abort: object) -> None:
        raise KeyboardInterrupt

    waiter = current_engine().new_waiter()
    with monkeypatch.context() as patch:
        patch.setattr(trio.lowlevel, "wait_task_rescheduled", interrupt)
        with pytest.raises(KeyboardInterrupt):
            await waiter.wait()
    assert not waiter.wake()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_a_task_that_is_cancelled_is_not_woken_as_well() -> None:
    waiter = current_engine().new_waiter()

    async def sleep() -> None:
        await waiter.wait()

    async with anyio.create_task_group() as tg:
        tg.start_soon(sleep)
        await settle()
        tg.cancel_scope.cancel()
        assert not waiter.wake()  # before it has noticed


async def test_a_pending_cancellation_is_seen_by_who_looks_at_the_task(waiting: Waiting) -> None:
    [info] = [info for info in anyio.get_running_tasks() if info.id == id(waiting.task)]
    assert not info.has_pending_cancellation()
    waiting.task.cancel()
    assert info.has_pending_cancellation()
    with pytest.raises(asyncio.CancelledError):
        await waiting.task
