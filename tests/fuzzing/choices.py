"""What a scenario is made by: choices, of a fuzzer's bytes or of anything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Protocol, TypeVar

T = TypeVar("T")


class Choices(Protocol):
    def number(self, least: int, most: int) -> int:
        """One of least to most."""

    def octets(self, size: int) -> bytes:
        """So many bytes."""


class Fuzzed:
    """Choices of bytes; where they end, chance goes on, and is the same for the same bytes.

    So the shortest input is a whole one, and an empty corpus reaches everything at once. The first
    bytes are the seed of that chance: where a later one changes, what comes by chance does not.
    """

    def __init__(self, data: bytes) -> None:
        self._chance = Random(data[:4])
        self._data = data[4:]
        self._place = 0

    def octets(self, size: int) -> bytes:
        start = self._place
        stop = self._place = start + size
        if stop > len(self._data):
            self._data += self._chance.randbytes(size + 500)
        return self._data[start:stop]

    def number(self, least: int, most: int) -> int:
        count = most - least + 1
        if count <= 2**8:
            return least + self.octets(1)[0] % count
        return least + int.from_bytes(self.octets(2 if count <= 2**16 else 8), "little") % count


def one_of(choices: Choices, values: Sequence[T]) -> T:
    return values[choices.number(0, len(values) - 1)]


def rarely(choices: Choices, times: int) -> bool:
    """Whether something happens that happens once in so many times."""
    return choices.number(1, times) == times


def pieces(data: bytes) -> Iterator[bytes]:
    """The bytes, cut where the first one says."""
    size = data[0] if data else 0
    rest = data[1:]
    step = size or len(rest) or 1
    for start in range(0, len(rest), step):
        yield rest[start : start + step]
