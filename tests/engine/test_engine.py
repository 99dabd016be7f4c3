from __future__ import annotations

import itertools
import logging
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

import creche
from creche.engine import current
from creche.engine.current import current_engine
from creche.engine.deadlines import NEVER, Deadlines
from creche.engine.engine import Engine
from creche.engine.on_trio import _is_handled
from creche.testing import memory_pair
from support import BACKENDS, settle, until

pytestmark = pytest.mark.anyio


class Clock:
    """Something with deadlines: it says when the next one is."""

    def __init__(self, engine: Engine, *delays: float) -> None:
        self.engine = engine
        self.delays = list(delays)
        self.fired = 0

    def timeout_due(self, now: float) -> float:
        self.fired += 1
        return now + self.delays.pop(0) if self.delays else NEVER


async def test_deadlines_are_kept_in_order_and_may_come_sooner_than_known() -> None:
    engine = current_engine()
    now = engine.now()
    late, soon, never = Clock(engine), Clock(engine, 0.01, 0.01), Clock(engine)
    engine.schedule(late, now + 60)
    await settle()
    engine.schedule(soon, now + 0.01)
    assert engine.schedule(never, NEVER).deadline == NEVER
    await until(lambda: soon.fired == 3)
    assert (late.fired, never.fired) == (0, 0)


async def test_phases_that_follow_each_other_lie_far_apart() -> None:
    engine = current_engine()
    phases = [engine.next_phase() for _ in range(20)]
    assert phases[0] == 0
    gaps = [later - sooner for sooner, later in itertools.pairwise(sorted([*phases, 1]))]
    assert min(gaps) > 0.02
    assert max(gaps) < 0.1


async def test_a_cancelled_timer_does_not_fire_nor_keep_its_target() -> None:
    engine = current_engine()
    clock, other = Clock(engine), Clock(engine)
    timer = engine.schedule(clock, engine.now() + 0.01)
    engine.schedule(other, engine.now() + 0.02)
    timer.cancel()
    assert timer.target is None
    await until(lambda: other.fired)
    assert clock.fired == 0


async def test_a_timer_that_is_cancelled_as_it_fires_is_not_kept() -> None:
    engine = current_engine()

    class Suicidal(Clock):
        def timeout_due(self, now: float) -> float:
            timer.cancel()
            return super().timeout_due(now)

    clock = Suicidal(engine, 0.001, 0.001)
    timer = engine.schedule(clock, engine.now() + 0.01)
    await until(lambda: clock.fired)
    await settle()
    assert len(engine._deadlines) == 0


async def test_what_is_asked_for_in_a_turn_is_run_at_its_end_in_order() -> None:
    calls: list[str] = []
    engine = current_engine()
    await settle()
    engine.turns.run_soon(lambda: calls.append("first"))
    engine.turns.run_soon(lambda: calls.append("second"))
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

    engine = current_engine()
    async with anyio.create_task_group() as tg:
        await settle()
        tg.start_soon(other)
        for number in range(9):
            engine.turns.run_soon(lambda number=number: calls.append(number))  # type: ignore[misc]
        await settle()
    assert [call for call in calls if call != "other"] == list(range(9))
    # One a turn; within its turn, trio runs either task first.
    assert all("other" in calls[i : i + 3] for i in range(len(calls) - 2))


async def test_what_is_run_at_the_end_of_a_turn_may_ask_for_more() -> None:
    calls: list[int] = []

    def again() -> None:
        calls.append(len(calls))
        if len(calls) < 3:
            engine.turns.run_soon(again)

    engine = current_engine()
    engine.turns.run_soon(again)
    await until(lambda: len(calls) == 3)
    await settle()
    assert calls == [0, 1, 2]


async def test_children_outlive_what_they_were_started_in() -> None:
    ended = []
    go = anyio.Event()

    async def child() -> None:
        await go.wait()
        ended.append(True)

    with anyio.CancelScope() as scope:
        current_engine().start_soon(child)
        await settle()
        scope.cancel()
        await checkpoint()
    await settle()
    assert ended == []
    go.set()
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

    engine = current_engine()
    bad, good = Bad(), Good()
    engine.schedule(bad, engine.now())
    engine.schedule(good, engine.now())
    engine.turns.run_soon(bad.flush_now)
    engine.turns.run_soon(good.flush_now)
    await until(lambda: good.fired and good.flushes)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


async def test_a_child_that_fails_is_logged_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bad() -> None:
        raise KeyError("a bug")

    engine = current_engine()
    engine.start_soon(bad)
    await settle()
    assert "please report it" in caplog.text
    assert caplog.records[0].exc_info


# One connection's mistakes


def broken(*_args: object) -> Any:
    raise KeyError("a bug")


@pytest.mark.parametrize("what", ["unsent", "flush", "resume_reading"])
async def test_a_mistake_in_a_callback_ends_its_connection_and_no_other(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_pair(stall_timeout=0.1, max_queue=1000) as (client, server):
        link = client._link
        with patched(link.transport, what, broken):
            if what == "unsent":
                link.timeout_due(link.engine.now())
            elif what == "flush":
                link.transport.outbox += b"x"
                link.end_turn()
            else:
                link._continue()
        with pytest.raises(creche.ConnectionClosedError, match="a bug"):
            await client.receive()
        with pytest.raises(creche.ConnectionClosedError):
            await server.receive()
    assert "please report it" in caplog.text


@contextmanager
def patched(target: Any, name: str, value: object) -> Iterator[None]:
    setattr(target, name, value)
    try:
        yield
    finally:
        delattr(target, name)


async def test_a_connection_that_cannot_say_goodbye_keeps_no_other_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Resident:
        def __init__(self, bad: bool) -> None:
            self.bad = bad
            self.ended = False

        def loop_ends(self) -> None:
            self.ended = True
            if self.bad:
                raise KeyError("a bug")

    engine = type(current_engine()).__new__(type(current_engine()))
    engine.turns = current_engine().turns
    engine._deadlines = Deadlines()
    engine.residents = {Resident(True), Resident(False)}
    residents = set(engine.residents)
    engine._end()
    assert all(resident.ended for resident in residents)  # type: ignore[attr-defined]
    assert not engine.residents
    assert "please report it" in caplog.text


# From elsewhere


async def test_a_callback_from_another_thread_is_called_in_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = current_engine()
    called = []

    def callback() -> None:
        called.append(engine.is_current())

    def outside() -> tuple[bool, bool]:
        return engine.is_current(), engine.call_from_anywhere(callback)

    assert await anyio.to_thread.run_sync(outside) == (False, True)
    await until(lambda: called)
    assert called == [True]
    assert not engine.is_over()


def test_after_the_end_of_its_loop_nothing_is_begun(backend_name: str) -> None:
    engines: list[Engine] = []

    async def main() -> None:
        engines.append(current_engine())

    anyio.run(main, **BACKENDS[backend_name])
    [engine] = engines
    assert engine.is_over()
    assert not engine.is_current()
    assert not engine.call_from_anywhere(lambda: None)
    with pytest.raises(RuntimeError, match="another event loop"):
        engine.check_current("this")
    if backend_name != "trio":
        engine.start_soon(anyio.sleep, 1)
        engine.schedule(Clock(engine), engine.now())
        assert engine.readiness is not None
        engine.readiness.add_reader(0, lambda: None)
        engine.readiness.add_writer(0, lambda: None)
        engine.readiness.remove_reader(0)
        engine.readiness.remove_writer(0)
        engine.readiness.call_soon(lambda: None)


def test_no_connection_begins_when_trio_has_ended_its_tasks() -> None:
    errors = []

    async def generator() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            try:
                current_engine()
            except RuntimeError as exc:
                errors.append(str(exc))

    held: list[Any] = []

    async def main() -> None:
        current_engine()
        held.append(generator())
        await anext(held[0])

    anyio.run(main, backend="trio")
    assert errors == ["the event loop is about to end: no connection can be opened any more"]


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio_no_child_can_end_the_program(caplog: pytest.LogCaptureFixture) -> None:
    async def bad() -> None:
        raise SystemExit(3)

    def callback() -> None:
        raise KeyError("a bug")

    current_engine().start_soon(bad)
    current_engine().call_from_anywhere(callback)
    await settle()
    await until(lambda: len(caplog.records) == 2)


@pytest.mark.parametrize("anyio_backend", ["trio"])
@pytest.mark.parametrize(
    ("exc", "leads"),
    [
        (KeyboardInterrupt(), True),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), True),
        (BaseExceptionGroup("", [KeyboardInterrupt(), SystemExit()]), False),
        (SystemExit(), False),
    ],
)
async def test_on_trio_an_interrupt_is_led_to_the_main_task(
    exc: BaseException, leads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[int] = []
    monkeypatch.setattr("signal.raise_signal", raised.append)
    monkeypatch.setattr("creche.engine.on_trio._is_handled", lambda: True)
    engine = current_engine()
    led = []

    async def child() -> None:
        led.append(engine.lead_interrupt(exc))

    engine.start_soon(child)
    await until(lambda: led)
    assert led == [leads]
    assert len(raised) == leads
    assert not engine.lead_interrupt(exc)  # here it may strike by itself


@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals need the main thread"
)
def test_an_interrupt_is_led_where_trio_handles_it_and_nowhere_else() -> None:
    def handler(number: int, frame: object) -> None:
        pass

    seen: list[bool] = []
    before = signal.getsignal(signal.SIGINT)
    try:
        for module in ("trio._core._ki", "trionics", None):
            handler.__module__ = module  # type: ignore[assignment]
            signal.signal(signal.SIGINT, handler)
            seen.append(_is_handled())
        handler.__module__ = "trio._core._ki"
        thread = threading.Thread(target=lambda: seen.append(_is_handled()))
        thread.start()
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [True, False, False, False]


@pytest.mark.parametrize("compiled", [False, True])
async def test_the_pure_build_says_once_what_it_is(
    compiled: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(current, "COMPILED", compiled)
    caplog.set_level(logging.INFO)
    current._tell_build.cache_clear()
    for _ in range(2):
        current_engine()
    assert sum("build in pure Python" in message for message in caplog.messages) == (not compiled)
