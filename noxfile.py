"""`nox` runs the tests that say in a minute whether creche works here; `nox -t ci` all others."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ["3.11", "3.12", "3.13"]
OLDEST, NEWEST = PYTHONS[0], PYTHONS[-1]
# Each Python is tested, and each build on two of them; with arguments both builds on each.
COMPILED_ON, PURE_ON = (OLDEST, NEWEST), PYTHONS[:-1]
# What `nox` runs. Those with the tag are for each change; the others take long or measure.
nox.options.sessions = ["quick"]
CI = ["ci"]
# Both event loops, and what most programs do.
QUICK = (
    *("tests/protocol", "tests/handshake", "tests/connection", "tests/client"),
    *("tests/server", "tests/test_mistakes.py", "tests/test_app.py", "-k", "not uvloop"),
)
SWEEP = (
    "tests/hostile/test_cancellation.py::"
    "test_whatever_is_cancelled_wherever_nothing_is_torn_lost_or_left"
)
# Of the Autobahn test suite; it runs on Python 2.7 only.
WSTEST = "autobahntestsuite==25.10.1"
# Where this run of nox has built a wheel, by the version of Python.
WHEELS: dict[str, str] = {}
OWN_SESSIONS = ("--ignore", "tests/docs", "--ignore", "tests/interop")
SANS_IO = ("tests/protocol", "tests/handshake")
WITHOUT_HOSTILE = ("--ignore", "tests/hostile")
PROJECT = nox.project.load_toml("pyproject.toml")


def install_group(session: nox.Session, group: str) -> None:
    session.install(*nox.project.dependency_groups(PROJECT, group))


def has_compiler() -> bool:
    """Whether there is a C compiler where setuptools will look for it."""
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    return runs(*shlex.split(command), "--version")


def runs(*command: str) -> bool:
    """Whether a program is there and succeeds."""
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


@nox.session
def quick(session: nox.Session) -> None:
    """The tests that a newcomer needs, on this Python and the build that it gets."""
    install_group(session, "test")
    session.install(".")
    session.run("python", "-m", "pytest", "-q", "-n", "2", *(session.posargs or QUICK))


@nox.session(python=PYTHONS, tags=CI)
def tests(session: nox.Session) -> None:
    """The tests, compiled and pure; on the oldest Python with coverage, which must be complete.

    The compiled build is a wheel that was built from the sdist, the pure one is editable. The
    tests of hostile peers take long: they run compiled on the oldest and the newest Python, and
    pure on the oldest. The cancellation sweep, which covers nothing that the others do not, runs
    once, compiled on the oldest. Those of the documentation and of interoperation have sessions of
    their own.
    """
    install_group(session, "test")
    session.install("anyio>=4.16", "h11", "build")
    if not has_compiler():
        session.log("there is no C compiler: the compiled build is left out")
    elif session.posargs or session.python in COMPILED_ON:
        install_compiled(session)
        choice = () if session.python == OLDEST else ("--deselect", SWEEP)
        run_tests(session, "compiled", *(session.posargs or choice))
    if session.posargs or session.python in PURE_ON:
        reinstall(session, "--editable", ".")
        choice = WITHOUT_HOSTILE
        if session.python == OLDEST:
            choice = ("--cov=creche", "--deselect", SWEEP)
        run_tests(session, "pure", *(session.posargs or choice))


def install_compiled(session: nox.Session) -> None:
    """Install a wheel, which leaves no extensions in the tree for other builds to find.

    The first session on a Python builds it.
    """
    python = str(session.run("python", "-c", "import sys; print(sys.version)", silent=True))
    if python not in WHEELS:
        WHEELS[python] = os.path.join(session.virtualenv.location, "wheels")
        session.run("python", "-m", "build", "--outdir", WHEELS[python])
    reinstall(session, "--no-index", "--find-links", WHEELS[python], "creche")


def reinstall(session: nox.Session, *arguments: str) -> None:
    session.install("--force-reinstall", "--no-deps", *arguments)


def run_tests(session: nox.Session, build: str, *arguments: str) -> None:
    """Run them, two at a time, and let them check that they run on the build asked for."""
    command = ("python", "-m", "pytest", "-n", "2", *OWN_SESSIONS, *arguments)
    session.run(*command, env={"CRECHE_BUILD": build})


@nox.session(tags=CI)
def docs(session: nox.Session) -> None:
    """The pages, without a warning; their programs and the examples, on both backends."""
    install_group(session, "docs")
    session.install("--editable", ".")
    # docs/features.md: the tests with markers pass on both backends.
    features = ("-p", "features", "--features", "docs/features.md", "-m", "feature")
    session.run("python", "-m", "pytest", "-q", "-n", "2", *features, env={"PYTHONPATH": "tests"})
    session.run("sphinx-build", "-W", "--keep-going", "-q", "docs", f"{session.create_tmp()}/html")
    session.run("python", "-m", "pytest", "-n", "2", *(session.posargs or ["tests/docs"]))


@nox.session(tags=CI)
def autobahn(session: nox.Session) -> None:
    """The Autobahn test suite, a choice of its cases; --full for all, --pure, --role, --backend."""
    python2 = find_python2()
    if python2 is None:
        session.skip("wstest needs Python 2.7, which is neither on PATH nor in pyenv")
    arguments = [argument for argument in session.posargs if argument != "--pure"]
    install_group(session, "core-test")
    session.install("virtualenv==20.15.1")  # the last that makes such environments
    install_best(session, pure="--pure" in session.posargs)
    environment = Path(session.virtualenv.location) / "python2.7"
    python = str(environment / "bin" / "python")
    if not (environment / "bin" / "wstest").exists():
        session.run("virtualenv", "-q", "-p", python2, "--no-download", str(environment))
        session.run(python, "-m", "pip", "install", "-q", WSTEST, external=True)
    command = ("python", "tests/conformance.py", "--python", python, *arguments)
    session.run(*command, env={"PYTHONPATH": "tests"})


@nox.session(tags=CI)
def interop(session: nox.Session) -> None:
    """Each role against each peer that can be installed, as a matrix."""
    install_group(session, "core-test")
    install_best(session)
    for peer in nox.project.dependency_groups(PROJECT, "interop"):
        session.install(peer, success_codes=[0, 1])  # what is missing is skipped, and listed
    modules = Path(session.virtualenv.location) / "node_modules"
    if runs("npm", "--version") and not modules.exists():
        npm = ("npm", "install", "--no-audit", "--no-fund", "--prefix", str(modules.parent))
        session.run(*npm, "ws@8", external=True, success_codes=range(256))
    command = ("python", "-m", "pytest", "-n", "2", *(session.posargs or ["tests/interop"]))
    session.run(*command, env={"NODE_PATH": str(modules)})


def install_best(session: nox.Session, pure: bool = False) -> None:
    """Install what runs: creche compiled, where it can be and nothing else is asked for."""
    session.install("anyio>=4.16", "h11", "build")
    if pure or not has_compiler():
        reinstall(session, "--editable", ".")
    else:
        install_compiled(session)


def find_python2() -> str | None:
    """A Python 2.7 that runs."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    known = ["python2.7", *map(str, pyenv.glob("versions/2.7.*/bin/python2.7"))]
    return next((python for python in known if runs(python, "-c", "import ssl")), None)


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


@nox.session(tags=CI)
def fuzz(session: nox.Session) -> None:
    """Fuzz the compiled modules, 20 seconds a target; --seconds, --only, --corpus, --planted.

    They are built with AddressSanitizer and UndefinedBehaviorSanitizer, and shown to end on planted
    faults. The inputs that it begins with reach nine tenths of protocol/ and handshake/ by
    themselves.
    """
    requires = PROJECT["build-system"]["requires"]
    session.install("anyio>=4.16", "h11", "trio>=0.31", "coverage[toml]>=7", *requires)
    reinstall(session, "--editable", ".")
    source = "creche.protocol,creche.handshake"
    seeds = ("--branch", "--source", source, "tests/fuzzing/targets.py")
    environment = {"PYTHONPATH": "tests", "COVERAGE_FILE": f"{session.create_tmp()}/coverage"}
    session.run("coverage", "run", *seeds, env=environment)
    report = ("--include", "*/creche/protocol/*,*/creche/handshake/*", "--fail-under", "90")
    session.run("coverage", "report", *report, env=environment)
    # Not every Python and system has atheris.
    for requirement in nox.project.dependency_groups(PROJECT, "fuzz"):
        session.install(requirement, success_codes=[0, 1])
    if not runs(f"{session.bin}/python", "-c", "import atheris"):
        session.skip("atheris cannot be installed")
    if not runs("clang", "--version"):
        session.skip("there is no clang: what is compiled cannot be fuzzed")
    command = ("python", "tests/fuzzing/fuzz.py", "--build", f"{session.create_tmp()}/build")
    session.run(*command, *session.posargs, env=environment)


@nox.session
def asan(session: nox.Session) -> None:
    """The compiled protocol under gcc's sanitizers: its tests, and the fuzzers' inputs.

    Arguments are folders with more of them, of `nox -s fuzz -- --corpus FOLDER`.
    """
    install_group(session, "core-test")
    session.install("anyio>=4.16", "h11", *PROJECT["build-system"]["requires"])
    sanitized = ("python", "tests/fuzzing/sanitizers.py", "gcc", f"{session.create_tmp()}/build")
    session.run(*sanitized, "python", "-m", "pytest", "-q", *SANS_IO)
    session.run(*sanitized, "python", "tests/fuzzing/targets.py", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Change the protocol in thousands of places, and count the changes that no test notices; and
    what moves bytes and waits in 300 places.

    It takes two hours. Arguments are patterns of names, such as "creche.protocol.closing.*", or
    those of tests/mutants.py for the second part alone, such as --sample 300 --seed 1.
    """
    install_group(session, "mutants")
    session.install("anyio>=4.16", "h11")
    if session.posargs[:1] and session.posargs[0].startswith("--"):
        session.run("python", "tests/mutants.py", *session.posargs)
        return
    # In a copy, since the changed sources are put beside the others.
    copy = Path(session.create_tmp()) / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    for name in ("src", "tests", "docs"):
        shutil.copytree(name, copy / name, ignore=shutil.ignore_patterns("*.so", "*.egg-info"))
    shutil.copy("pyproject.toml", copy)
    session.chdir(copy)
    session.run("mutmut", "run", "--max-children", "2", *session.posargs)
    session.run("mutmut", "results")
    if not session.posargs:
        session.chdir(Path(__file__).parent)
        session.run("python", "tests/mutants.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Servers of creche and of its peers, timed; --only, --server, --backend, --rounds choose."""
    run_tool(session, "tests/benchmarks/bench.py", "bench")


@nox.session(python=OLDEST)
def instructions(session: nox.Session) -> None:
    """What an operation takes, by callgrind, and whether it has grown; --only, --backend, --update.

    It needs valgrind. The figures of creche are in tests/benchmarks/instructions.json.
    """
    if not (runs("valgrind", "--version") and has_compiler()):
        session.error("valgrind and a C compiler are needed (Debian: apt-get install valgrind gcc)")
    run_tool(session, "tests/benchmarks/instructions.py", "bench")


def run_tool(session: nox.Session, path: str, group: str = "test") -> None:
    install_group(session, group)
    session.install(".")
    session.run("python", path, *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session(tags=CI)
def without_compiler(session: nox.Session) -> None:
    """An install where compiling fails: it succeeds, and runs as Python."""
    install_group(session, "core-test")
    session.install("anyio>=4.16", "h11")
    session.install("--force-reinstall", "--no-deps", ".", env={"CC": "false"})
    run_tests(session, "pure", *SANS_IO, "tests/test_cli.py")
    session.run("python", "-m", "creche", "demo")


@nox.session(tags=CI)
def lint(session: nox.Session) -> None:
    """Style, by ruff."""
    install_group(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session(tags=CI)
def types(session: nox.Session) -> None:
    """Types, by mypy --strict."""
    install_group(session, "docs")
    install_group(session, "types")
    session.install("--editable", ".")
    session.run("mypy")
