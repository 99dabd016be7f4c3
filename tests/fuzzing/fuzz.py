"""Fuzzing by atheris: `nox -s fuzz`. It wants creche as Python source.

`--seconds` says how long each target is fuzzed, `--only` which, and `--planted` that known bugs are
to be found. It tries the same inputs in the same order each time, so that what it says of a change
is about that change; `--seed 0` tries others each time. What was found is in a file whose name is
printed; `python fuzz.py TARGET FILE` runs it once more.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["creche.protocol"]):
    from creche.protocol import COMPILED
    from fuzzing.targets import TARGETS

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src"

# Bugs that no seed shows: the target that has to find each, the module of protocol/, what stands
# there, and what is put in its place.
PLANTED = [
    # Reads behind the end where a length of 64 bits is cut before its last byte.
    ("frames", "frames", "if start + 8 > end:", "if start + 7 > end:"),
    # Forgets that a peer may break the protocol after our close frame.
    ("frames", "states", "Event.VIOLATION: State.CLOSED,", "Event.CLOSE_SENT: State.CLOSED,"),
    # Goes round and round behind a newline at the end of the header.
    ("extensions", "extensions", r"[ \t]*(?:,|\Z)", r"[ \t]*(?:,|$)"),
]


def fuzz(
    name: str, seconds: int, directory: Path, seed: int, source: Path = SOURCE
) -> tuple[bool, str]:
    """Fuzz one target in a process of its own; returns whether it held, and what was printed."""
    corpus = directory / name
    corpus.mkdir(parents=True, exist_ok=True)
    for begin in TARGETS[name][1]:
        (corpus / hashlib.sha1(begin).hexdigest()).write_bytes(begin)
    command = [
        *(sys.executable, __file__, name, str(corpus), f"-max_total_time={seconds}"),
        *("-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1", f"-seed={seed}"),
        f"-artifact_prefix={directory}/{name}-",
    ]
    environment = os.environ | {"PYTHONPATH": f"{source}{os.pathsep}{TESTS}"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    return result.returncode == 0, result.stdout + result.stderr


def report(name: str, good: bool, output: str) -> None:
    executions = re.findall(r"number_of_executed_units: (\d+)", output)
    coverage = re.findall(r" cov: (\d+)", output)
    print(
        f"{name}: {''.join(executions[-1:])} executions, {''.join(coverage[-1:])} branches covered",
        "" if good else f"\n{output[-5000:]}",
        flush=True,
    )


def find_planted(seconds: int, directory: Path, seed: int) -> bool:
    """Whether each bug is found, planted in a copy of the source."""
    found = []
    for number, (name, module, right, wrong) in enumerate(PLANTED):
        source = directory / f"planted-{number}"
        shutil.copytree(SOURCE, source)
        path = source / "creche" / "protocol" / f"{module}.py"
        text = path.read_text()
        assert text.count(right) == 1, (module, right)
        path.write_text(text.replace(right, wrong))
        started = time.monotonic()
        good, _ = fuzz(name, seconds, directory / f"corpus-{number}", seed, source)
        found.append(not good)
        print(f"{wrong} in {module}.py: {'NOT FOUND' if good else 'found'}", end=" ")
        print(f"after {time.monotonic() - started:.0f} s", flush=True)
    return all(found)


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in TARGETS:
        name = sys.argv.pop(1)
        atheris.Setup(sys.argv, TARGETS[name][0])
        atheris.Fuzz()
        return
    parser = argparse.ArgumentParser(description="Fuzz the protocol.")
    parser.add_argument("--only", action="append", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=20, help="for each target")
    parser.add_argument("--seed", type=int, default=1, help="0 for another one each time")
    parser.add_argument("--corpus", type=Path, help="a folder to go on from, and to fill")
    parser.add_argument("--planted", action="store_true", help="whether planted bugs are found")
    given = parser.parse_args()
    if COMPILED:
        sys.exit("atheris sees no branches of the compiled build: install creche with --editable")
    directory = given.corpus or Path(tempfile.mkdtemp(prefix="creche-fuzz-"))
    if given.planted:
        sys.exit(not find_planted(given.seconds, directory, given.seed))
    names = given.only or list(TARGETS)
    with ThreadPoolExecutor(2) as pool:
        results = pool.map(lambda name: fuzz(name, given.seconds, directory, given.seed), names)
        held = True
        for name, (good, output) in zip(names, results, strict=True):
            report(name, good, output)
            held = held and good
    sys.exit(not held)


if __name__ == "__main__":
    main()
