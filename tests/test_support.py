"""The gauges that other tests rely on, tried on what they must tell apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from support import assert_linear, count_cost


def add_up(items: list[int]) -> int:
    return sum([item + 1 for item in items])


def join(items: list[int]) -> bytes:
    return b"".join([b"x" * 1000 for _ in items])


def extend(items: list[int]) -> bytearray:
    data = bytearray()
    for _ in items:
        data += b"x" * 1000
    return data


def constant(_: list[int]) -> int:
    return 1


def look_back(items: list[int]) -> int:
    return sum([1 for i in range(len(items)) for _ in items[:i]])


def concatenate(items: list[int]) -> bytes:
    data = b""
    for _ in items:
        data = data + b"x" * 10
    return data


def copy_rest(items: list[int]) -> None:
    data = bytes(10 * len(items))
    while data:
        data = data[10:]


def make(size: int) -> list[int]:
    return list(range(size))


@pytest.mark.parametrize("run", [add_up, join, extend, constant])
def test_what_is_linear_passes(run: Callable[[list[int]], object]) -> None:
    assert_linear(make, run)


@pytest.mark.parametrize(
    ("run", "what"),
    [(look_back, "instructions"), (concatenate, "allocated"), (copy_rest, "allocated")],
)
def test_a_square_is_found(run: Callable[[list[int]], object], what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        assert_linear(make, run, 100)


def test_a_cost_is_the_same_each_time() -> None:
    first, second = (count_cost(lambda: add_up(make(100))) for _ in range(2))
    assert first.instructions == second.instructions > 100
