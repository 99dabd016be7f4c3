"""What `nox -s instructions` makes of its counts."""

from __future__ import annotations

import json

import instructions
from bench import Row
from instructions import CALLS, INSTRUCTIONS, OURS, TURNS, Count

DUMP = """\
# callgrind format
version: 1
part: 3

desc: Trigger: Program termination
positions: line
events: Ir sysCount sysTime
summary: 7577734 801 123456

fn=(1) main
1 5000 1 1000
calls=1 2
1 7000000

totals: 7577735 802 123457
"""


def counts(number: float, calls: float = 4.0) -> Count:
    return {INSTRUCTIONS: number, CALLS: calls}


def test_a_dump_says_how_many_instructions_and_system_calls_there_were() -> None:
    assert instructions.total(DUMP) == {INSTRUCTIONS: 7577734, CALLS: 801}


def test_instructions_may_grow_by_3_per_cent_and_system_calls_by_10() -> None:
    committed = {"burst": {"asyncio": counts(1000), "trio": counts(1000)}}
    same = {"burst": {"asyncio": counts(1030, 4.4), "trio": counts(500)}}
    assert instructions.grown(committed, same) == []
    more = {"burst": {"asyncio": counts(1031), "trio": counts(1000, 5)}}
    assert instructions.grown(committed, more) == [
        "burst on asyncio: 1,000 -> 1,031 instructions (+3.1%)",
        "burst on trio: 4.0 -> 5 system calls (+25.0%)",
    ]


def test_what_has_no_committed_figure_has_not_grown() -> None:
    assert instructions.grown({}, {"burst": {"asyncio": counts(1000)}}) == []
    assert (
        instructions.grown({"burst": {"trio": counts(1)}}, {"burst": {"asyncio": counts(2)}}) == []
    )


def test_other_versions_are_named() -> None:
    there = {"Python": "3.11.7", "trio": "0.35.0", "h11": "0.16.0"}
    here = {"Python": "3.11.7", "trio": "0.36.0", "anyio": "4.16.0"}
    assert instructions.other_versions(there, here) == [
        "anyio: None there, 4.16.0 here",
        "h11: 0.16.0 there, None here",
        "trio: 0.35.0 there, 0.36.0 here",
    ]
    assert instructions.other_versions(there, dict(there)) == []


def test_an_update_of_some_figures_keeps_the_others() -> None:
    committed = {"burst": {"asyncio": counts(1), "trio": counts(2)}, "feed": {"trio": counts(3)}}
    assert instructions.merged(committed, {"burst": {"trio": counts(9)}}) == {
        "burst": {"asyncio": counts(1), "trio": counts(9)},
        "feed": {"trio": counts(3)},
    }


def test_the_table_shows_the_change_and_the_ratio_to_the_peer() -> None:
    creche, peer = OURS[0], instructions.PEER
    cells: dict[Row, Count] = {creche: counts(1100), peer: counts(2200, 8)}
    table = instructions.report({"feed": cells}, {"feed": {"asyncio": counts(1000)}})
    assert (
        table.splitlines()[-1] == "| feed | 1,100, 4.00 (+10.0%) |  | 2,200, 8.00 | 0.50 | 0.50 |"
    )


def test_every_scenario_has_committed_figures_of_both_event_loops() -> None:
    figures = json.loads(instructions.FILE.read_text())["figures"]
    assert {name: set(loops) for name, loops in figures.items()} == {
        name: {loop for _, loop in OURS} for name in TURNS
    }
