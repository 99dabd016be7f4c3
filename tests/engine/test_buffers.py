"""What all connections of a server keep together, and who has to go when it is too much."""

from __future__ import annotations

import weakref

import pytest

from creche.engine.buffers import COUNTED_FROM, BufferLimit
from support import assert_linear


class Holder:
    def __init__(self) -> None:
        self.limits: list[int] = []

    def shed(self, limit: int) -> None:
        self.limits.append(limit)


def test_one_with_the_most_has_to_go() -> None:
    buffers = BufferLimit(100_000)
    small, large, last = Holder(), Holder(), Holder()
    assert buffers.count(large, 60_000) == 60_000
    assert buffers.count(small, 30_000) == 30_000
    assert buffers.count(last, 20_000) == 20_000
    assert (small.limits, large.limits, last.limits) == ([], [100_000], [])
    assert buffers.total == 50_000


def test_who_has_just_grown_too_large_goes_itself() -> None:
    buffers = BufferLimit(100_000)
    first, second = Holder(), Holder()
    buffers.count(first, 60_000)
    assert buffers.count(second, 80_000) == 0
    assert (first.limits, second.limits) == ([], [100_000])
    assert buffers.count(second, 0) == 0
    assert buffers.total == 60_000


def test_as_many_go_as_must() -> None:
    buffers = BufferLimit(100_000)
    holders = [Holder() for _ in range(10)]
    for holder in holders:
        buffers.count(holder, 10_000)
    assert buffers.count(Holder(), 55_000) == 0
    assert buffers.count(Holder(), 9_000) == 9_000
    assert [len(holder.limits) for holder in holders] == [1] + [0] * 9  # the one unchanged longest
    assert buffers.total == 99_000


def test_of_those_with_the_same_size_the_one_goes_that_has_not_changed() -> None:
    buffers = BufferLimit(3 * COUNTED_FROM)
    holders = [Holder() for _ in range(3)]
    for holder in [*holders, holders[0]]:
        buffers.count(holder, COUNTED_FROM)
    buffers.count(Holder(), COUNTED_FROM)
    assert [len(holder.limits) for holder in holders] == [0, 1, 0]


def test_what_has_gone_leaves_nothing_behind() -> None:
    buffers = BufferLimit(2**40)
    holder, other = Holder(), Holder()
    buffers.count(other, 10_000)
    for i in range(1000):
        buffers.count(holder, 10_000 + i)
    assert len(buffers._heap) < 100
    reference = weakref.ref(holder)
    buffers.count(holder, 0)
    del holder
    assert reference() is None  # not kept until the heap is made anew


def test_a_shared_payload_counts_once_and_with_the_last_who_keeps_it() -> None:
    buffers = BufferLimit(None)
    payload = bytes(50_000)
    holders = [Holder() for _ in range(3)]
    for holder in holders:
        buffers.count(holder, 1000, [payload])
    assert buffers.total == 53_000
    for holder in holders:
        buffers.count(holder, 0)
    assert buffers.total == 0
    assert not buffers._held
    assert not buffers._sharers
    assert not buffers._heap


@pytest.mark.parametrize("same_size", [True, False])
def test_shedding_load_costs_the_same_however_many_there_are(same_size: bool) -> None:
    """Each new one drives another out; there are so many that no look at all of them would do."""

    def make(size: int) -> list[int]:
        return [10_000 if same_size else 10_000 + 1000 * (i % 50) for i in range(size)]

    def run(sizes: list[int]) -> None:
        buffers = BufferLimit(sum(sizes))
        holders = [Holder() for _ in sizes]
        for _ in range(2):
            for holder, size in zip(holders, sizes, strict=True):
                buffers.count(holder, size)
        for size in sizes:
            buffers.count(Holder(), size)

    assert_linear(make, run)
