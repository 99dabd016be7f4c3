"""The targets that know the structure of what a peer sends, and of what we do.

`python -m fuzzing.sequences FILE` shows the scenario that a file stands for.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fuzzing import builds
from fuzzing.choices import Fuzzed
from fuzzing.playing import Play, compare, judge
from fuzzing.scenarios import Scenario, make_scenario, make_sending


def play(scenario: Scenario) -> None:
    """Play a scenario with both builds."""
    ours = Play(builds.installed(), scenario, guarded=True)
    judge(ours)
    compare(ours, Play(builds.pure(), scenario, guarded=False))


def fuzz_sequences(data: bytes) -> None:
    """Frames of a peer, whole and broken, with all that is done in between."""
    play(make_scenario(Fuzzed(data)))


def fuzz_sending(data: bytes) -> None:
    """Messages of ours, sent in every way, one after the other."""
    play(make_sending(Fuzzed(data)))


if __name__ == "__main__":
    print(make_scenario(Fuzzed(Path(sys.argv[1]).read_bytes())))
