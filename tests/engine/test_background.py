from __future__ import annotations

import itertools

import anyio
import pytest
from anyio.lowlevel import checkpoint

from creche.engine.background import Background
from creche.engine.deadlines import NEVER
from support import settle, until

pytestmark = pytest.mark.anyio


class Clock:
    """Something with deadlines: it says when the next one is."""

    def __init__(self, background: Background, *delays: float) -> None:
        self.background = background
        self.delays = list(delays)
        self.fired = 0

    def timeout_due(self, now: float) -> float:
        self.fired += 1
        return now + self.delays.pop(0) if self.delays else NEVER


async def test_deadlines_are_kept_in_order_and_may_come_sooner_than_known() -> None:
    async with Background() as background:
        now = background.now()
        late, soon, never = Clock(background), Clock(background, 0.01, 0.01), Clock(background)
        background.schedule(late, now + 60)
        await settle()
        background.schedule(soon, now + 0.01)
        assert background.schedule(never, NEVER).deadline == NEVER
        await until(lambda: soon.fired == 3)
        assert (late.fired, never.fired) == (0, 0)


async def test_phases_that_follow_each_other_lie_far_apart() -> None:
    async with Background() as background:
        phases = [background.next_phase() for _ in range(20)]
    assert phases[0] == 0
    gaps = [later - sooner for sooner, later in itertools.pairwise(sorted([*phases, 1]))]
    assert min(gaps) > 0.02
    assert max(gaps) < 0.1


async def test_a_cancelled_timer_does_not_fire_nor_keep_its_target() -> None:
    async with Background() as background:
        clock, other = Clock(background), Clock(background)
        timer = background.schedule(clock, background.now() + 0.01)
        background.schedule(other, background.now() + 0.02)
        timer.cancel()
        assert timer.target is None
        await until(lambda: other.fired)
        assert clock.fired == 0


async def test_a_timer_that_is_cancelled_as_it_fires_is_not_kept() -> None:
    async with Background() as background:

        class Suicidal(Clock):
            def timeout_due(self, now: float) -> float:
                timer.cancel()
                return super().timeout_due(now)

        clock = Suicidal(background, 0.001, 0.001)
        timer = background.schedule(clock, background.now() + 0.01)
        await until(lambda: clock.fired)
        await settle()
        assert len(background._deadlines) == 0


async def test_what_is_asked_for_in_a_turn_is_run_at_its_end_in_order() -> None:
    calls: list[str] = []
    async with Background() as background:
        await settle()
        background.turns.run_soon(lambda: calls.append("first"))
        background.turns.run_soon(lambda: calls.append("second"))
        assert not calls
        await settle()
        assert calls == ["first", "second"]


async def test_much_work_at_the_end_of_a_turn_is_spread_over_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("creche.engine.polling.LONGEST_SHARE", 0)
    calls: list[str | int] = []

    async def other() -> None:
        for _ in range(9):
            calls.append("other")
            await checkpoint()

    async with Background() as background, anyio.create_task_group() as tg:
        await settle()
        tg.start_soon(other)
        for number in range(9):
            background.turns.run_soon(lambda number=number: calls.append(number))  # type: ignore[misc]
        await settle()
    assert [call for call in calls if call != "other"] == list(range(9))
    # One a turn; within its turn, trio runs either task first.
    assert all("other" in calls[i : i + 3] for i in range(len(calls) - 2))


async def test_what_is_run_at_the_end_of_a_turn_may_ask_for_more() -> None:
    calls: list[int] = []

    def again() -> None:
        calls.append(len(calls))
        if len(calls) < 3:
            background.turns.run_soon(again)

    async with Background() as background:
        background.turns.run_soon(again)
        await until(lambda: len(calls) == 3)
        await settle()
    assert calls == [0, 1, 2]


async def test_children_outlive_a_cancellation_and_end_with_the_background() -> None:
    ended = []

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    with anyio.CancelScope() as scope:
        async with Background() as background:
            background.start_soon(child)
            await settle()
            scope.cancel()
            with anyio.CancelScope(shield=True):
                await settle()
            assert ended == []
            background.start_soon(child)  # may start as late as this
    assert ended == [True, True]


async def test_a_child_that_is_started_at_the_very_end_ends_too() -> None:
    ended = []

    async def last() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(True)

    async def child() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            background.start_soon(last)

    async with Background() as background:
        background.start_soon(child)
        await settle()
    assert ended == [True]


async def test_one_that_fails_at_its_deadline_or_flush_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Bad:
        def timeout_due(self, now: float) -> float:
            raise KeyError("a bug")

        def flush_now(self) -> None:
            raise KeyError("a bug")

    class Good:
        flushes = fired = 0

        def timeout_due(self, now: float) -> float:
            self.fired += 1
            return NEVER

        def flush_now(self) -> None:
            self.flushes += 1

    async with Background() as background:
        bad, good = Bad(), Good()
        background.schedule(bad, background.now())
        background.schedule(good, background.now())
        background.turns.run_soon(bad.flush_now)
        background.turns.run_soon(good.flush_now)
        await until(lambda: good.fired and good.flushes)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


async def test_a_child_that_fails_is_logged_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bad() -> None:
        raise KeyError("a bug")

    async with Background() as background:
        background.start_soon(bad)
        await settle()
    assert "please report it" in caplog.text
    assert caplog.records[0].exc_info


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_an_interrupt_in_a_child_passes_and_ends_the_others(anyio_backend: str) -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(BaseExceptionGroup) as caught:
        async with Background() as background:
            background.start_soon(anyio.sleep_forever)
            await settle()
            background.start_soon(interrupted)
            await anyio.sleep_forever()
    assert caught.value.split(KeyboardInterrupt)[1] is None


async def test_the_bodys_exception_leaves_as_it_was() -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with Background():
            raise error
    assert caught.value is error


async def test_the_bodys_exception_wins_over_a_cancellation() -> None:
    error = ValueError("mine")
    with anyio.CancelScope() as scope:
        with pytest.raises(ValueError, match="mine") as caught:
            async with Background():
                scope.cancel()
                raise error
        assert caught.value is error


async def test_the_bodys_exception_wins_over_a_native_cancellation(
    anyio_backend_name: str,
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has native cancellation")
    import asyncio

    async def main() -> None:
        async with Background():
            task.cancel()
            raise ValueError("mine")

    task = asyncio.create_task(main())
    with pytest.raises(ValueError, match="mine"):
        await task


async def test_a_cancellation_at_the_exit_goes_on_outwards() -> None:
    after = []
    with anyio.CancelScope() as scope:
        async with Background():
            scope.cancel()
        await anyio.lowlevel.checkpoint()
        after.append(True)
    assert scope.cancelled_caught
    assert after == []
