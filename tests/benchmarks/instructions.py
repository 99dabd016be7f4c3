"""Instructions and system calls of each operation, by callgrind: `nox -s instructions`.

A server, or a client, runs under callgrind. Its other side runs outside, and goes on only when the
first one waits: how busy the machine is changes no count. Those of creche are kept in
instructions.json, and one whose instructions have grown by over 3 % is an error.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import (
    HERE,
    Missing,
    Row,
    Running,
    certificate,
    markdown,
    progress,
    running,
    running_client,
)
from creche.protocol import COMPILED
from scenarios import SCENARIOS, More
from support import pin

FILE = HERE / "instructions.json"
OURS: list[Row] = [("creche", "asyncio"), ("creche", "trio")]
PEER: Row = ("picows.websockets", "asyncio")
# How many turns of each scenario are counted.
TURNS = {
    "ping-pong 128 B": 500,
    "text 128 B": 500,
    "burst": 50,
    "feed": 20,
    "100 connections": 20,
    "64 KiB": 100,
    "1 MiB": 30,
    "broadcast": 20,
    "permessage-deflate": 50,
    "context takeover": 64,
    "opening and closing": 200,
    "TLS ping-pong 128 B": 300,
    "TLS burst": 50,
    "TLS 64 KiB": 100,
    "TLS opening and closing": 100,
    "client ping-pong 128 B": 500,
    "client burst": 50,
    "client opening and closing": 100,
}
# Without these variables the environment of the process is empty: some code reads all of it.
ENVIRONMENT = {
    "PATH": os.environ.get("PATH", os.defpath),
    "PYTHONPATH": str(HERE.parent),
    "PYTHONHASHSEED": "0",
    # Whether a large block of memory is copied when it grows would depend on its neighbours.
    "MALLOC_MMAP_THRESHOLD_": "131072",
}

INSTRUCTIONS, CALLS = "instructions", "system calls"
# How much a figure may grow. The calls of opening and closing depend a little on when what comes.
LIMITS = {INSTRUCTIONS: 0.03, CALLS: 0.1}
Count = dict[str, float]  # of these two
Figures = dict[str, dict[str, Count]]  # by scenario and event loop
Table = dict[str, dict[Row, Count]]


class Callgrind:
    """Runs Python under callgrind, and asks it what it has counted.

    Args:
        directory: for what callgrind writes.
    """

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._prefix = f"--vgdb-prefix={directory}/vgdb"

    def command(self) -> list[object]:
        """What stands before the name of a program in this folder."""
        return [
            *("env", "-i", *(f"{name}={value}" for name, value in ENVIRONMENT.items())),
            *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--collect-systime=yes"),
            self._prefix,
            *(f"--callgrind-out-file={self._directory}/out", sys.executable, HERE / "counted.py"),
        ]

    def start(self, pid: int) -> None:
        self._tell(pid, "instrumentation", "on")

    def dump(self, pid: int) -> Count:
        """What there was since the last dump."""
        before = set(self._directory.glob("out.*"))
        self._tell(pid, "dump")
        [new] = set(self._directory.glob("out.*")) - before
        return total(new.read_text())

    def _tell(self, pid: int, *command: str) -> None:
        command = ("vgdb", self._prefix, f"--pid={pid}", *command)
        subprocess.run(command, check=True, capture_output=True, timeout=60)


def total(dump: str) -> Count:
    """What a dump of callgrind's has counted in all."""
    lines = dict(line.split(": ", 1) for line in dump.splitlines() if ": " in line)
    events = dict(zip(lines["events"].split(), map(int, lines["summary"].split()), strict=True))
    return {INSTRUCTIONS: events["Ir"], CALLS: events["sysCount"]}


def wait_until_idle(pid: int) -> None:
    """Wait until the main thread of a process waits, and still does a moment later."""
    waiting = 0
    while waiting < 2:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        waiting = waiting + 1 if state == "S" else 0
        time.sleep(0.0002)


def in_step(pid: int, turns: int) -> More:
    """For so many turns, each when the process waits."""
    left = iter(range(turns))

    def more() -> bool:
        wait_until_idle(pid)
        return next(left, None) is not None

    return more


def count(callgrind: Callgrind, process: Running, name: str) -> Count:
    """What each operation of a scenario takes, without the first ones and the end."""
    pid, turns = process.pid, TURNS[name]
    opened: Any = SCENARIOS[name].open(process.target)
    with opened as load:
        load(in_step(pid, max(20, turns // 5)))
        callgrind.start(pid)
        load(in_step(pid, 2))
        callgrind.dump(pid)
        operations: int = load(in_step(pid, turns))
        found = callgrind.dump(pid)
    return {
        INSTRUCTIONS: round(found[INSTRUCTIONS] / operations),
        CALLS: round(found[CALLS] / operations, 3),
    }


def count_row(row: Row, name: str, tls: tuple[str, ssl.SSLContext]) -> Count:
    scenario = SCENARIOS[name]
    with tempfile.TemporaryDirectory() as directory:
        callgrind = Callgrind(directory)
        python = callgrind.command()
        with (
            running_client(row, python)
            if scenario.client
            else running(row, tls if scenario.tls else None, python)
        ) as process:
            return count(callgrind, process, name)


def count_all(rows: Sequence[Row], names: Iterable[str]) -> Table:
    """Every scenario of every row; a peer that is not installed, or cannot, is left out."""
    table: Table = {}
    with tempfile.TemporaryDirectory() as directory:
        tls = certificate(Path(directory))
        for name in names:
            table[name] = {}
            for row in rows:
                progress(f"{name}: {row[0]} on {row[1]}")
                try:
                    table[name][row] = count_row(row, name, tls)
                except (Missing, OSError) as exc:
                    if row in OURS:
                        raise
                    progress(f"{row[0]} is left out: {exc}")
    return table


# Comparing


def ours(table: Table) -> Figures:
    """The figures that are kept."""
    return {
        name: {row[1]: found for row, found in cells.items() if row in OURS}
        for name, cells in table.items()
    }


def grown(committed: Figures, counted: Figures) -> list[str]:
    """Which have grown by more than they may, each as a line."""
    return [
        f"{name} on {loop}: {before:,} -> {now:,} {unit} ({now / before - 1:+.1%})"
        for name, loops in counted.items()
        for loop, found in loops.items()
        for unit, now in found.items()
        if (before := committed.get(name, {}).get(loop, {}).get(unit))
        and now > before * (1 + LIMITS[unit])
    ]


def merged(committed: Figures, counted: Figures) -> Figures:
    """The committed figures, those that were counted in their place."""
    return {
        name: committed.get(name, {}) | counted.get(name, {})
        for name in TURNS
        if name in committed or name in counted
    }


def other_versions(committed: dict[str, str], here: dict[str, str]) -> list[str]:
    """What the committed figures were made with, where it is not what is here, each as a line."""
    return [
        f"{name}: {committed.get(name)} there, {here.get(name)} here"
        for name in sorted(committed.keys() | here)
        if committed.get(name) != here.get(name)
    ]


def versions() -> dict[str, str]:
    """What the counts depend on, besides creche."""
    return {
        "Python": f"{platform.python_version()}, {platform.python_compiler()}",
        "Cython": cython_version(),
        "compiler": first_line(*shlex.split(sysconfig.get_config_var("CC") or "cc"), "--version"),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "OpenSSL": ssl.OPENSSL_VERSION,
        "valgrind": first_line("valgrind", "--version"),
        **{package: importlib.metadata.version(package) for package in ("anyio", "h11", "trio")},
    }


def first_line(*command: str) -> str:
    return subprocess.check_output(command, text=True).partition("\n")[0]


def cython_version() -> str:
    """That of the Cython which compiled creche: its modules share one that is named after it."""
    [name] = [name for name in sys.modules if name.startswith("_cython_")]
    return name.removeprefix("_cython_").replace("_", ".")


def report(table: Table, committed: Figures) -> str:
    """The counts; behind those of creche, how the instructions differ from the committed ones."""
    lines = []
    for name, cells in table.items():
        line = [name]
        for row in [*OURS, PEER]:
            before = committed.get(name, {}).get(row[1]) if row in OURS else None
            line.append(cell(cells[row], before) if row in cells else "")
        for unit in (INSTRUCTIONS, CALLS):
            both = OURS[0] in cells and PEER in cells
            line.append(f"{cells[OURS[0]][unit] / cells[PEER][unit]:.2f}" if both else "")
        lines.append(line)
    header = [f"{name} ({loop})" for name, loop in [*OURS, PEER]]
    return markdown(["scenario", *header, f"ratio of {INSTRUCTIONS}", f"of {CALLS}"], lines)


def cell(found: Count, before: Count | None) -> str:
    text = f"{found[INSTRUCTIONS]:,}, {found[CALLS]:.2f}"
    return f"{text} ({found[INSTRUCTIONS] / before[INSTRUCTIONS] - 1:+.1%})" if before else text


def main() -> int:
    parser = argparse.ArgumentParser(description="Count what each operation takes.")
    parser.add_argument("--only", action="append", choices=TURNS, metavar="SCENARIO")
    parser.add_argument("--backend", action="append", choices=[loop for _, loop in OURS])
    parser.add_argument("--update", action="store_true", help=f"write {FILE.name}")
    given = parser.parse_args()
    if not COMPILED:
        parser.error("creche is not compiled")
    kept = json.loads(FILE.read_text()) if FILE.exists() else {"versions": {}, "figures": {}}
    committed: Figures = kept["figures"]
    here = versions()
    others = other_versions(kept["versions"], here)
    if others and given.update and (given.only or given.backend):
        parser.error("--update: other versions need figures of everything:\n" + "\n".join(others))
    pin(1)
    rows = [row for row in [*OURS, PEER] if not given.backend or row[1] in given.backend]
    table = count_all(rows, given.only or TURNS)
    if others:
        committed = {}
    print(f"{INSTRUCTIONS}, {CALLS}:\n\n{report(table, committed)}")
    figures = ours(table)
    if given.update:
        kept = {"versions": here, "figures": merged(committed, figures)}
        FILE.write_text(json.dumps(kept, indent=2) + "\n")
        return 0
    if others:
        print(
            *("The committed figures were made with other versions, and do not compare:", *others),
            "Count once more, with --update, on the code as it was before your change.",
            sep="\n",
        )
        return 2
    worse = grown(committed, figures)
    if worse:
        print("These have grown by more than they may:", *worse, sep="\n")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
