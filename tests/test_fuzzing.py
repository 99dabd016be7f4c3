"""What fuzzing is made of: `nox -s fuzz`."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzzing.planted import CONCERNED, FAULTS, Fault
from fuzzing.targets import TARGETS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
def test_what_a_planted_fault_replaces_stands_in_the_source_once(fault: Fault) -> None:
    text = (ROOT / "src" / "creche" / fault.file).read_text()
    assert text.count(fault.right) == 1


def test_the_targets_that_a_fault_concerns_exist() -> None:
    for module, names in CONCERNED.items():
        assert set(names) <= set(TARGETS), module
