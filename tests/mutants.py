"""Mutants: `python tests/mutants.py` (or `nox -s mutants -- --sample 300`).

It changes what moves bytes and waits, one place at a time, and counts the changes that no test
notices. Everything there is too much: `--sample` says how many, `--seed` which. mutmut knows how to
change Python; here is what it does not do: statements are left out as well, and only the tests that
pass a line are run for it, the quick ones first. Texts for people stay as they are.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parent.parent
LAYERS = ("engine", "connection", "transports", "client", "server")
TESTS = (*LAYERS, "hostile", "test_options.py", "test_testing.py", "test_bad_input.py")
# asyncio and Trio take other ways through our code; uvloop takes asyncio's.
CHOICE = ("-k", "not uvloop", "--deselect", "tests/hostile/test_cancellation.py")
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "30")
PROCESSES = 2

# A mutant is noticed by tests that take so many seconds together, or not at all.
MOST_SECONDS = 60.0


@dataclass(frozen=True, order=True)
class Mutant:
    """A change of one place.

    Attributes:
        path: of the module, from the root.
        line: where its first difference is.
        text: of the whole module.
    """

    path: str
    line: int
    text: str

    def diff(self) -> str:
        """The lines that differ."""
        before = (ROOT / self.path).read_text().splitlines()
        lines = difflib.unified_diff(before, self.text.splitlines(), lineterm="", n=0)
        changed = [line for line in lines if line[:2] not in ("--", "++", "@@")]
        return "\n".join([f"{self.path}:{self.line}", *changed])


# Makes a mutant when it is wanted, which takes a while; None where it would change nothing.
Maker = Callable[[], Mutant | None]


def mutants_of(path: str) -> Iterator[Maker]:
    """All that can be made of a module."""
    import libcst as cst
    from mutmut.mutation.file_mutation import create_mutations

    text = (ROOT / path).read_text()
    module, mutations, _, _ = create_mutations(path, text)

    def replaced(before: cst.CSTNode, after: cst.CSTNode) -> Mutant | None:
        changed = module.deep_replace(before, after)
        assert isinstance(changed, cst.Module)
        return _mutant(path, text, changed.code)

    def left_out(statement: ast.stmt) -> Mutant | None:
        lines = text.splitlines(keepends=True)
        instead = " " * statement.col_offset + "pass\n"
        lines[statement.lineno - 1 : statement.end_lineno] = [instead]
        return _mutant(path, text, "".join(lines))

    for mutation in mutations:
        before = mutation.original_node
        if not (isinstance(before, cst.SimpleString) and " " in before.value):
            yield partial(replaced, before, mutation.mutated_node)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in _simple_statements(node):
                yield partial(left_out, statement)


def _simple_statements(function: ast.AST) -> Iterator[ast.stmt]:
    for node in ast.walk(function):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Expr | ast.Assign | ast.AugAssign | ast.Delete) and not is_text:
            yield node


def _mutant(path: str, before: str, after: str) -> Mutant | None:
    pairs = zip(before.splitlines(), after.splitlines(), strict=False)
    line = next((at for at, (one, other) in enumerate(pairs, 1) if one != other), None)
    return None if line is None else Mutant(path, line, after)


class Covering:
    """Which tests pass a line, the quick ones first; found out by running all of them."""

    def __init__(self, copy: Path) -> None:
        import coverage

        durations = copy / "durations"
        tests = [f"tests/{name}" for name in TESTS]
        command = [*PYTEST, "-n", str(PROCESSES), "--cov", "--cov-context=test", "--cov-report="]
        run(copy, [*command, "--cov-fail-under=0", "-p", "mutants", *CHOICE, *tests])
        self._seconds: dict[str, float] = defaultdict(float)
        for line in durations.read_text().splitlines():
            seconds, _, test = line.partition(" ")
            self._seconds[test] += float(seconds)
        self._data = coverage.CoverageData(str(copy / ".coverage"))
        self._data.read()
        self._copy = copy
        self._of_file: dict[str, dict[int, list[str]]] = {}

    def tests(self, path: str, line: int) -> list[str]:
        """As many as take MOST_SECONDS."""
        if path not in self._of_file:
            self._of_file[path] = self._data.contexts_by_lineno(str(self._copy / path))
        found = {context.partition("|")[0] for context in self._of_file[path].get(line, ())}
        chosen: list[str] = []
        left = MOST_SECONDS
        for test in sorted(found - {""}, key=lambda test: self._seconds[test]):
            left -= self._seconds[test]
            if left < 0 and chosen:
                break
            chosen.append(test)
        return chosen


def pytest_runtest_logreport(report: object) -> None:
    """As a plugin of pytest's, in the process that gathers: note how long a test took."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        with Path("durations").open("a") as file:
            file.write(f"{report.duration} {report.nodeid}\n")  # type: ignore[attr-defined]


def run(copy: Path, command: list[str], seconds: float | None = None) -> int | None:
    """The status of a command in a copy; None if it takes too long."""
    paths = f"{copy}/src{os.pathsep}{copy}/tests"
    environment = {**os.environ, "PYTHONPATH": paths, "CRECHE_BUILD": "pure"}
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def is_noticed(copy: Path, mutant: Mutant, tests: list[str]) -> bool:
    """Whether a test fails, or hangs, in a copy with the mutant."""
    module = copy / mutant.path
    before = module.read_text()
    module.write_text(mutant.text)
    (copy / "tests.txt").write_text("\n".join(tests))
    try:
        return run(copy, [*PYTEST, "-x", "@tests.txt"], MOST_SECONDS * 4) != 0
    finally:
        module.write_text(before)


def copy_to(folder: Path) -> Path:
    for name in ("src", "tests", "docs", "examples"):
        ignored = shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sample", type=int, default=300, help="how many mutants")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--only", default="", help="those of modules whose path has this in it")
    arguments = parser.parse_args()
    # A shell has Ctrl-C ignored in what it starts in the background, but tests are about it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(PROCESSES):
            copies.put(copy_to(Path(folder, str(number))))
        first = copies.get()
        covering = Covering(first)
        copies.put(first)
        paths = [
            str(path.relative_to(ROOT))
            for layer in LAYERS
            for path in sorted((ROOT / "src/creche" / layer).glob("*.py"))
            if arguments.only in str(path)
        ]
        makers = [maker for path in paths for maker in mutants_of(path)]
        random.Random(arguments.seed).shuffle(makers)
        sample: list[Mutant] = []
        for maker in makers:
            mutant = maker()
            if mutant is not None and covering.tests(mutant.path, mutant.line):
                sample.append(mutant)
            if len(sample) == arguments.sample:
                break
        print(f"{len(sample)} of some {len(makers)} mutants", flush=True)

        def try_out(mutant: Mutant) -> bool:
            copy = copies.get()
            try:
                return is_noticed(copy, mutant, covering.tests(mutant.path, mutant.line))
            finally:
                copies.put(copy)

        unnoticed = 0
        with ThreadPoolExecutor(PROCESSES) as pool:
            outcomes = pool.map(try_out, sample)
            for number, (mutant, noticed) in enumerate(zip(sample, outcomes, strict=True), 1):
                if number % 50 == 0:
                    print(f"{number} tried", flush=True)
                if not noticed:
                    unnoticed += 1
                    print(f"not noticed: {mutant.diff()}", flush=True)
        killed = len(sample) - unnoticed
        minutes = (time.monotonic() - start) / 60
        print(f"{killed} of {len(sample)} noticed, {killed / len(sample):.1%}; {minutes:.0f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
