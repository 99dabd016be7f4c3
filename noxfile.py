"""`nox` runs the tests on each Python found, compiled and pure, then lint and types."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ["3.11", "3.12", "3.13"]
OLDEST, NEWEST = PYTHONS[0], PYTHONS[-1]
# What `nox` runs; the others are asked for by name, since they take long or measure.
nox.options.sessions = ["tests", "docs", "without_compiler", "lint", "types"]
SWEEP = (
    "tests/hostile/test_cancellation.py::"
    "test_whatever_is_cancelled_wherever_nothing_is_torn_lost_or_left"
)
WITHOUT_HOSTILE = ("--ignore", "tests/hostile")
PROJECT = nox.project.load_toml("pyproject.toml")


def install_group(session: nox.Session, group: str) -> None:
    session.install(*nox.project.dependency_groups(PROJECT, group))


def has_compiler() -> bool:
    """Whether there is a C compiler where setuptools will look for it."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    try:
        probe = subprocess.run([*shlex.split(command), "--version"], capture_output=True)
    except OSError:
        return False
    return probe.returncode == 0


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, compiled and pure; on the oldest Python with coverage, which must be complete.

    The compiled build is a wheel that was built from the sdist, the pure one is editable. The
    tests of hostile peers take long: they run compiled on the oldest and the newest Python, and
    pure on the oldest, there without the cancellation sweep, which covers nothing that the others
    do not. Those of the documentation are another session's.
    """
    install_group(session, "test")
    session.install("anyio>=4.16", "h11", "build")
    if has_compiler():
        wheels = os.path.join(session.virtualenv.location, "wheels")
        session.run("python", "-m", "build", "--outdir", wheels)
        reinstall(session, "--no-index", "--find-links", wheels, "creche")
        quick = () if session.python in (OLDEST, NEWEST) else WITHOUT_HOSTILE
        run_tests(session, "compiled", *(session.posargs or quick))
    else:
        session.log("there is no C compiler: the compiled build is left out")
    reinstall(session, "--editable", ".")
    if session.posargs:
        run_tests(session, "pure", *session.posargs)
    elif session.python == OLDEST:
        run_tests(session, "pure", "--cov=creche", "--deselect", SWEEP)
    else:
        run_tests(session, "pure", *WITHOUT_HOSTILE)


def reinstall(session: nox.Session, *arguments: str) -> None:
    session.install("--force-reinstall", "--no-deps", *arguments)


def run_tests(session: nox.Session, build: str, *arguments: str) -> None:
    """Run them, two at a time, and let them check that they run on the build asked for."""
    command = ("python", "-m", "pytest", "-n", "2", "--ignore", "tests/docs", *arguments)
    session.run(*command, env={"CRECHE_BUILD": build})


@nox.session
def docs(session: nox.Session) -> None:
    """The pages, without a warning; their programs and the examples, on both backends."""
    install_group(session, "docs")
    session.install("--editable", ".")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "docs", f"{session.create_tmp()}/html")
    session.run("python", "-m", "pytest", "-n", "2", *(session.posargs or ["tests/docs"]))


@nox.session
def repeat(session: nox.Session) -> None:
    """The tests of hostile peers, 20 times in random order, beside 4 busy processes."""
    install_group(session, "test")
    session.install("--editable", ".", "pytest-randomly")
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        for seed in range(1, 21):
            session.run(
                *("python", "-m", "pytest", "-q", "-n", "4", f"--randomly-seed={seed}"),
                *(session.posargs or ["tests/hostile"]),
            )
    finally:
        for process in busy:
            process.kill()
            process.wait()


@nox.session
def sweep(session: nox.Session) -> None:
    """Cancel every public coroutine at every suspension, and count these."""
    run_tool(session, "tests/sweep.py")


@nox.session
def floods(session: nox.Session) -> None:
    """What floods cost others, as a table; --only, --backend and --seconds choose."""
    run_tool(session, "tests/floods.py")


@nox.session
def soak(session: nox.Session) -> None:
    """Random sends, cancels, closes, stalls and losses for 10 minutes; --minutes chooses."""
    run_tool(session, "tests/soak.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Servers of creche and of its peers, timed; --only, --server, --backend, --rounds choose."""
    run_tool(session, "tests/benchmarks/bench.py", "bench")


def run_tool(session: nox.Session, path: str, group: str = "test") -> None:
    install_group(session, group)
    session.install(".")
    session.run("python", path, *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def without_compiler(session: nox.Session) -> None:
    """An install where compiling fails: it succeeds, and runs as Python."""
    install_group(session, "core-test")
    session.install("anyio>=4.16", "h11")
    session.install("--force-reinstall", "--no-deps", ".", env={"CC": "false"})
    run_tests(session, "pure", "tests/protocol", "tests/test_cli.py")
    session.run("python", "-m", "creche", "demo")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, by ruff."""
    install_group(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Types, by mypy --strict."""
    install_group(session, "docs")
    install_group(session, "types")
    session.install("--editable", ".")
    session.run("mypy")
