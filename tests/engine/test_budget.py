"""How long the tasks of an event loop may keep the others waiting, by a clock that work moves."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Generator
from functools import partial

import anyio
import pytest
from anyio.lowlevel import checkpoint

import creche
from creche.engine.budget import _TURNS_IN_VAIN, Budget, current_budget
from creche.engine.waiting import Waiter
from creche.testing import memory_pair
from support import settle

# A piece of work takes so many seconds of this clock, and nothing else takes any.
MS = 0.001


class Clock:
    def __init__(self) -> None:
        self.now = 1.0
        self.longest = 0.0  # between two turns of those who do nothing
        self.turns = 0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds

    async def count_turns(self) -> None:
        """The others: in each turn they note how long they have waited for it."""
        while True:
            turned_at = self.now
            self.turns += 1
            await checkpoint()
            self.longest = max(self.longest, self.now - turned_at)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("creche.engine.budget.perf_counter", clock)
    return clock


class Step:
    """A wait that ends with the next step of its coroutine, if it does not end at once."""

    def __init__(self, ends: bool) -> None:
        self._ends = ends

    def __await__(self) -> Generator[None, None, None]:
        if not self._ends:
            yield


class Stopped(Waiter):
    def turn(self) -> Step:
        return Step(True)


class Ever(Waiter):
    def turn(self) -> Step:
        return Step(False)


@pytest.mark.anyio
async def test_32_operations_go_on_in_a_row_and_then_others_have_their_turn(clock: Clock) -> None:
    async with memory_pair(max_queue=None) as (client, server):
        for _ in range(100):
            await client.send("x")
        await settle()
        async with anyio.create_task_group() as tg:
            tg.start_soon(clock.count_turns)
            await checkpoint()
            current_budget().seen(current_budget().seen(0))
            counts = []
            for _ in range(100):
                await server.receive()
                counts.append(clock.turns)
            tg.cancel_scope.cancel()
    assert counts[0] == counts[31]
    assert counts[-1] > counts[31]  # on trio not at once: it mixes those who are ready


@pytest.mark.anyio
@pytest.mark.parametrize("seconds", [0.6 * MS, 20 * MS])
async def test_the_first_operation_after_a_millisecond_lets_others_have_their_turn(
    clock: Clock, seconds: float
) -> None:
    async with memory_pair() as (client, server):
        for _ in range(20):
            await client.send("x")
        await settle()
        async with anyio.create_task_group() as tg:
            tg.start_soon(clock.count_turns)
            for _ in range(20):
                await server.receive()
                clock.work(seconds)
            await settle()
            tg.cancel_scope.cancel()
    # The time is up with the operation that notices it.
    assert clock.longest <= max(MS, seconds) + seconds + MS / 10


@contextlib.asynccontextmanager
async def flooded(clock: Clock, peers: int, seconds: float, answering: bool) -> AsyncIterator[None]:
    """Handlers that work for each message, of which there are always more."""

    async def flood(ws: creche.WebSocket) -> None:
        while True:
            await ws.send("x")

    async def handle(ws: creche.WebSocket) -> None:
        async for message in ws:
            clock.work(seconds)
            if answering:
                await ws.send(message)

    async with contextlib.AsyncExitStack() as stack:
        tg = await stack.enter_async_context(anyio.create_task_group())
        for _ in range(peers):
            client, server = await stack.enter_async_context(memory_pair(compression=None))
            tg.start_soon(flood, client)
            tg.start_soon(creche.discard, client)
            tg.start_soon(handle, server)
        await settle()
        yield
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("answering", [True, False])
@pytest.mark.parametrize(
    ("peers", "seconds", "longest"), [(1, 20 * MS, 40 * MS), (100, MS, 150 * MS)]
)
@pytest.mark.anyio
async def test_flooding_peers_do_not_keep_others_waiting(
    clock: Clock, peers: int, seconds: float, longest: float, answering: bool
) -> None:
    async with flooded(clock, peers, seconds, answering), anyio.create_task_group() as tg:
        tg.start_soon(clock.count_turns)
        begun = clock.now
        while clock.now < begun + 1:
            await checkpoint()
        tg.cancel_scope.cancel()
    assert 0 < clock.longest <= longest + MS


@pytest.mark.parametrize("answering", [True, False])
@pytest.mark.anyio
async def test_a_peer_that_sends_one_message_is_answered_beside_a_hundred_that_flood(
    clock: Clock, answering: bool
) -> None:
    async with (
        flooded(clock, 100, MS, answering),
        memory_pair() as (client, server),
        anyio.create_task_group() as tg,
    ):

        async def echo() -> None:
            async for message in server:
                await server.send(message)

        tg.start_soon(echo)
        await settle()
        for _ in range(5):
            asked = clock.now
            await client.send("x")
            await client.receive()
            # A stream in memory takes some turns each way, and each one its 20 ms.
            assert clock.now - asked < 0.3
        tg.cancel_scope.cancel()


@pytest.mark.anyio
async def test_of_many_that_are_woken_together_those_that_come_late_stand_in_the_line(
    clock: Clock,
) -> None:
    done: list[int] = []
    async with contextlib.AsyncExitStack() as stack:
        tg = await stack.enter_async_context(anyio.create_task_group())
        pairs = [await stack.enter_async_context(memory_pair()) for _ in range(100)]

        async def handle(number: int, ws: creche.WebSocket) -> None:
            async for _ in ws:
                clock.work(MS)
                done.append(number)

        for number, (_, server) in enumerate(pairs):
            tg.start_soon(handle, number, server)
        await settle()
        tg.start_soon(clock.count_turns)
        for client, _ in pairs:
            await client.send("x")
        while len(done) < 100:
            await checkpoint()
        tg.cancel_scope.cancel()
    assert sorted(done) == list(range(100))
    assert clock.longest <= 80 * MS


@pytest.mark.anyio
async def test_nothing_is_lost_by_who_is_cancelled_in_the_line(clock: Clock) -> None:
    async with memory_pair() as (client, server):
        for number in range(3):
            await client.send(f"{number}")
        await settle()
        for operation in (server.receive, partial(server.send, "never")):
            with anyio.CancelScope() as scope:
                scope.cancel()
                current_budget().exhaust()
                await operation()
            assert scope.cancelled_caught
        assert [await server.receive() for _ in range(3)] == ["0", "1", "2"]
        await server.send("sent")
        assert await client.receive() == "sent"


# The budget itself


def test_it_is_renewed_when_the_loop_has_turned_and_not_before(clock: Clock) -> None:
    budget = Budget()
    assert not budget.spend()
    clock.work(MS)
    assert budget.spend()
    assert budget.spend()  # whoever asks
    budget.seen(budget.seen(0))
    assert not budget.spend()


def test_it_is_renewed_once_in_a_turn_however_many_go_on_in_it(clock: Clock) -> None:
    budget = Budget()
    seen = [budget.seen(0) for _ in range(100)]
    for _ in range(10):
        seen = [budget.seen(turn) for turn in seen]
        assert len(set(seen)) == 1
        assert not budget.spend()
        clock.work(MS)
        assert budget.spend()


def test_operations_are_counted_from_the_last_turn_that_is_known(clock: Clock) -> None:
    budget = Budget()
    turn = budget.seen(0)
    for _ in range(3):
        assert [budget.spend() for _ in range(33)].index(True) == 32
        turn = budget.seen(turn)


def test_the_first_of_the_line_is_passed_over_if_its_task_is_no_more(clock: Clock) -> None:
    """An interrupt may strike between any two lines; nobody waits for ever for that."""
    budget = Budget()
    waiting = budget.wait_in_line(Stopped())
    with pytest.raises(StopIteration):
        waiting.send(None)
    left_behind = budget.wait_in_line(Ever())
    left_behind.send(None)
    second = budget.wait_in_line(Ever())
    second.send(None)
    for _ in range(_TURNS_IN_VAIN):
        second.send(None)
        clock.work(MS)
    with pytest.raises(StopIteration):
        second.send(None)
    with pytest.raises(StopIteration):
        left_behind.send(None)  # if it is there after all, it need not stand in the line again


@pytest.mark.anyio
async def test_a_sender_that_is_woken_late_in_a_turn_stands_in_the_line(clock: Clock) -> None:
    async with memory_pair(write_limit=10, clogged_after=0) as (client, server):
        sent = []

        async def send() -> None:
            await client.send("second")
            sent.append(clock.now)

        client.send_nowait("x" * 20)
        async with anyio.create_task_group() as tg:
            tg.start_soon(send)
            await settle()
            clock.work(1)
            client._link.transport._stream.clogged_after = None  # type: ignore[attr-defined]
            assert [await server.receive() for _ in range(2)] == ["x" * 20, "second"]
    assert sent
