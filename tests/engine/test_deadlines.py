from __future__ import annotations

import pytest

from creche.engine.deadlines import NEVER, Deadlines
from support import assert_linear


class Due:
    """Notes when it was called, and has the next deadlines that it was given."""

    def __init__(self, *then: float) -> None:
        self.called: list[float] = []
        self._then = list(then)

    def timeout_due(self, now: float) -> float:
        self.called.append(now)
        return self._then.pop(0) if self._then else NEVER


def fire(deadlines: Deadlines, now: float) -> None:
    """All that are due, in as many turns as it takes."""
    while deadlines.next() <= now:
        deadlines.fire(now)


def test_deadlines_are_kept_in_their_order_and_anew() -> None:
    deadlines = Deadlines()
    first, second = Due(3), Due()
    deadlines.schedule(second, 2)
    deadlines.schedule(first, 1)
    deadlines.schedule(first, NEVER)
    assert deadlines.next() == 1
    fire(deadlines, 1.5)
    fire(deadlines, 2.5)
    fire(deadlines, 3.5)
    assert (first.called, second.called) == ([1.5, 3.5], [2.5])
    assert deadlines.next() == NEVER


def test_a_connection_that_came_and_went_leaves_nothing_for_a_day() -> None:
    deadlines = Deadlines()
    lasting = [deadlines.schedule(Due(), 10) for _ in range(10)]
    for _ in range(10_000):
        for timer in [deadlines.schedule(Due(), 86400) for _ in range(4)]:
            timer.cancel()
            timer.cancel()
    assert len(deadlines) < 150
    fire(deadlines, 10)
    assert [timer.target for timer in lasting if timer.target.called != [10]] == []  # type: ignore[union-attr]


def test_a_cancelled_timer_is_not_called_where_it_stays_for_a_while() -> None:
    deadlines = Deadlines()
    cancelled, lasting = Due(), Due()
    deadlines.schedule(cancelled, 1).cancel()
    deadlines.schedule(lasting, 1)
    never = deadlines.schedule(cancelled, NEVER)
    never.cancel()
    fire(deadlines, 1)
    assert (cancelled.called, lasting.called, len(deadlines)) == ([], [1], 0)


def test_timers_may_be_cancelled_and_made_by_what_they_call() -> None:
    deadlines = Deadlines()

    class Cancelling(Due):
        def timeout_due(self, now: float) -> float:
            for timer in timers:
                timer.cancel()
            deadlines.schedule(after, now + 1)
            return super().timeout_due(now)

    after = Due()
    timers = [deadlines.schedule(Cancelling(5), 1)]
    timers += [deadlines.schedule(Due(), 2) for _ in range(200)]
    fire(deadlines, 1)
    assert len(deadlines) < 100
    fire(deadlines, 3)
    assert after.called == [3]
    assert len(deadlines) == 0


def test_many_that_are_due_at_once_are_spread_over_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creche.engine.polling.LONGEST_SHARE", 0)
    deadlines = Deadlines()
    targets = [Due() for _ in range(3)]
    for target in targets:
        deadlines.schedule(target, 1)
    for done in (1, 2, 3):
        deadlines.fire(1)
        assert sum(len(target.called) for target in targets) == done
    deadlines.clear()


def test_what_cancelling_costs_is_linear() -> None:
    def come_and_go(count: int) -> None:
        deadlines = Deadlines()
        for timer in [deadlines.schedule(Due(), 86400) for _ in range(count)]:
            timer.cancel()

    assert_linear(lambda size: size, come_and_go)
