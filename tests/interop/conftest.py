"""Prints the matrix, when all its tests have run."""

from __future__ import annotations

from collections import defaultdict

import pytest

from interop.peer import SCENARIOS
from support import BACKENDS


@pytest.fixture(params=[name for name in BACKENDS if name != "uvloop"])
def backend_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One row for a peer in a role, one column for a scenario, for both backends together."""
    rows: dict[str, dict[str, str]] = defaultdict(dict)
    skipped: dict[str, str] = {}
    for outcome in ("skipped", "passed", "failed", "error"):  # the worst comes last, and stays
        for report in terminalreporter.stats.get(outcome, ()):
            for name, value in report.user_properties:
                if name == "cell":
                    row, column = value
                    rows[row][column] = {"passed": "ok", "skipped": "-"}.get(outcome, "FAILED")
                    if outcome == "skipped":
                        skipped[f"{row}, {column}"] = report.longrepr[2].removeprefix("Skipped: ")
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("interoperation")
    width = max(map(len, rows))
    write(" " * width + "".join(f"  {column}" for column in SCENARIOS))
    for row in sorted(rows):
        cells = "".join(f"  {rows[row].get(column, ''):{len(column)}}" for column in SCENARIOS)
        write(f"{row:{width}}{cells}")
    for cell, reason in sorted(skipped.items()):
        write(f"- {cell}: {reason}")
