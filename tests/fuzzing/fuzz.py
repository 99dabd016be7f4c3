"""Fuzzing by atheris of the compiled modules, with sanitizers: `nox -s fuzz`.

`--seconds` says how long each target is fuzzed, `--only` which. It tries the same inputs in the
same order each time, so that what it says of a change is about that change; `--seed 0` tries others
each time. What was found is in a file whose name is printed; `--only TARGET --input FILE` runs it
once more. `--planted` shows that faults are found: those of planted.py, each in a copy.
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
from dataclasses import dataclass, replace
from pathlib import Path

from fuzzing import sanitizers
from fuzzing.planted import CONCERNED, FAULTS, Fault
from fuzzing.targets import ANY, TARGETS

PROCESSES = 2
LONGEST = 1024  # of an input that is made whole whatever its length


@dataclass
class Result:
    """How a target did.

    Attributes:
        name: the target.
        held: whether nothing was found.
        seconds: how long it took.
        output: what was printed.
    """

    name: str
    held: bool
    seconds: float
    output: str

    def found(self) -> str:
        """What was found, in a line."""
        for pattern in (
            r"runtime error: (.*)",
            r"ERROR: AddressSanitizer: ([\w-]*)",
            r"Uncaught Python exception: ===\s*(.*)",
            r"ERROR: libFuzzer: (.*)",
        ):
            match = re.search(pattern, self.output)
            if match is not None:
                places = re.findall(r'File ".*/(.*)", line (\d+), in (\w+)', self.output)
                place = " in {2} ({0}:{1})".format(*places[-1]) if places else ""
                return match[1].strip()[:60] + place
        return "something else"

    def report(self) -> str:
        executions = re.findall(r"number_of_executed_units: (\d+)", self.output)
        coverage = re.findall(r" cov: (\d+)", self.output)
        line = (
            f"{self.name}: {''.join(executions[-1:])} executions, "
            f"{''.join(coverage[-1:])} branches covered"
        )
        if self.held:
            return line
        # What is wrong and where, and at the end the name of the file that holds the input.
        begin = re.search(r".*runtime error: |.*ERROR: | === Uncaught Python", self.output)
        said = self.output[0 if begin is None else begin.start() :]
        return f"{line}\n{said[:4000]}\n[...]\n{said[-1000:]}"


@dataclass
class Fuzzer:
    """Runs targets with one build, each in a process of its own.

    Attributes:
        build: where that is.
        seconds: how long for each target.
        corpus: a folder to begin from and to fill; None for a new one each time.
        empty: whether to begin from nothing.
    """

    build: Path
    seconds: int
    corpus: Path | None = None
    empty: bool = False

    def fuzz(self, name: str, seed: int, given: Path | None = None) -> Result:
        """Fuzz one target, or run one input."""
        directory = self.corpus or Path(tempfile.mkdtemp(prefix="creche-fuzz-"))
        corpus = directory / name
        corpus.mkdir(parents=True, exist_ok=True)
        begins = TARGETS[name][1]
        whole = begins is ANY
        for begin in () if whole or self.empty else begins:
            (corpus / hashlib.sha1(begin).hexdigest()).write_bytes(begin)
        command = [
            *(sys.executable, __file__, name, str(given or corpus)),
            *(f"-max_total_time={self.seconds}", f"-seed={seed}", "-print_final_stats=1"),
            *("-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={directory}/{name}-"),
            *(("-len_control=0", f"-max_len={LONGEST}") if whole else ()),
        ]
        environment = sanitizers.environment("clang", self.build)
        started = time.monotonic()
        # What goes round and round in C is not interrupted by libFuzzer's own alarm.
        result = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=environment
        )
        output = result.stdout + result.stderr
        return Result(name, result.returncode == 0, time.monotonic() - started, output)

    def fuzz_all(self, names: list[str], seed: int) -> bool:
        """Whether all of the targets hold."""
        held = True
        with ThreadPoolExecutor(PROCESSES) as pool:
            for result in pool.map(lambda name: self.fuzz(name, seed), names):
                print(result.report(), flush=True)
                held = held and result.held
        return held


def concerned(fault: Fault) -> tuple[str, ...]:
    return CONCERNED.get(Path(fault.file).stem, tuple(TARGETS))


def plant(fault: Fault, build: Path, directory: Path) -> None:
    """Put a fault into a copy of the build, and compile what it concerns."""
    shutil.copytree(build, directory)
    path = directory / "src" / "creche" / fault.file
    text = path.read_text()
    if text.count(fault.right) != 1:
        sys.exit(f"{fault.file} has to have this once: {fault.right}")
    path.write_text(text.replace(fault.right, fault.wrong))
    sanitizers.build("clang", directory)


def find(fuzzer: Fuzzer, names: tuple[str, ...], seed: int) -> Result:
    """The first of the targets that finds something, each with its time; or the last of them."""
    for name in names:
        result = fuzzer.fuzz(name, seed)
        if not result.held:
            break
    return result


def find_planted(fuzzer: Fuzzer, seeds: list[int], faults: list[Fault]) -> bool:
    """Whether each fault is found with each seed; without any, nothing may be."""
    names = [name for name in TARGETS if any(name in concerned(fault) for fault in faults)]
    if not replace(fuzzer, seconds=min(20, fuzzer.seconds)).fuzz_all(names, seeds[0]):
        print("that was found without any fault planted: mend it first")
        return False
    missed = 0
    for number, fault in enumerate(faults):
        print(
            f"{number + 1}. {fault.file}: {fault.kind}: {fault.wrong.split(chr(10))[0].strip()}",
            flush=True,
        )
        with tempfile.TemporaryDirectory(prefix="creche-planted-") as directory:
            build = Path(directory, "build")
            plant(fault, fuzzer.build, build)
            planted = replace(fuzzer, build=build, corpus=None)
            with ThreadPoolExecutor(PROCESSES) as pool:
                results = list(
                    pool.map(lambda seed: find(planted, concerned(fault), seed), seeds)  # noqa: B023
                )
        for seed, result in zip(seeds, results, strict=True):
            missed += result.held
            found = f"{result.name}, {result.seconds:.0f} s, {result.found()}"
            print(f"   seed {seed}: {'NOT FOUND' if result.held else found}", flush=True)
    print(f"{len(faults)} faults, {len(seeds)} seeds: {missed} times not found")
    return not missed


def fuzz_here() -> None:
    """What each process does: the target is the first argument, the others are libFuzzer's."""
    import atheris

    from creche.protocol import COMPILED

    assert COMPILED
    # An exception that a function in C lost is a fault, too.
    sys.unraisablehook = lambda lost: os.abort()
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name][0])
    atheris.Fuzz()


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in TARGETS:
        fuzz_here()
        return
    parser = argparse.ArgumentParser(description="Fuzz the compiled modules with sanitizers.")
    parser.add_argument("--only", action="append", choices=TARGETS)
    parser.add_argument("--seconds", type=int, help="for each target, 20, and 60 with --planted")
    parser.add_argument("--seed", type=int, default=1, help="0 for another one each time")
    parser.add_argument("--corpus", type=Path, help="a folder to go on from, and to fill")
    parser.add_argument("--empty", action="store_true", help="begin from an empty corpus")
    parser.add_argument("--input", type=Path, help="run this once; with --only TARGET")
    parser.add_argument("--planted", action="store_true", help="whether planted faults are found")
    parser.add_argument("--faults", type=int, nargs="*", help="with --planted: which, from 1")
    parser.add_argument("--seeds", type=int, default=1, help="with --planted: so many, from --seed")
    parser.add_argument("--build", type=Path, help="where to build; what is up to date stays")
    parser.add_argument(
        "--source", type=Path, help="another source than src", default=sanitizers.ROOT / "src"
    )
    given = parser.parse_args()
    build = (given.build or Path(tempfile.mkdtemp(prefix="creche-sanitized-"))).absolute()
    sanitizers.copy_source(build, given.source)
    sanitizers.build("clang", build)
    sanitizers.prove(sanitizers.environment("clang", build))
    seconds = given.seconds or (60 if given.planted else 20)
    fuzzer = Fuzzer(build, seconds, given.corpus, given.empty)
    names = given.only or list(TARGETS)
    if given.input:
        result = fuzzer.fuzz(names[0], given.seed, given.input)
        print(result.report())
        sys.exit(not result.held)
    if given.planted:
        seeds = [given.seed + number for number in range(given.seeds)]
        faults = [FAULTS[number - 1] for number in given.faults or range(1, len(FAULTS) + 1)]
        sys.exit(not find_planted(fuzzer, seeds, faults))
    sys.exit(not fuzzer.fuzz_all(names, given.seed))


if __name__ == "__main__":
    main()
