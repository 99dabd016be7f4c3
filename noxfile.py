"""`nox` runs the tests on each Python found, compiled and pure, then lint and types."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ["3.11", "3.12", "3.13"]
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
    """The tests, compiled and pure; in the pure build with coverage, which must be complete.

    The compiled build is a wheel that was built from the sdist, the pure one is editable.
    """
    install_group(session, "test")
    session.install("anyio>=4.16", "h11", "build")
    if has_compiler():
        wheels = os.path.join(session.virtualenv.location, "wheels")
        session.run("python", "-m", "build", "--outdir", wheels)
        reinstall(session, "--no-index", "--find-links", wheels, "creche")
        run_tests(session, "compiled", "python", "-m", "pytest", *session.posargs)
    else:
        session.log("there is no C compiler: the compiled build is left out")
    reinstall(session, "--editable", ".")
    run_tests(session, "pure", "coverage", "run", "-m", "pytest", *session.posargs)
    if not session.posargs:
        session.run("coverage", "report")


def reinstall(session: nox.Session, *arguments: str) -> None:
    session.install("--force-reinstall", "--no-deps", *arguments)


def run_tests(session: nox.Session, build: str, *command: str) -> None:
    """Run them, and let them check that they run on the build that was asked for."""
    session.run(*command, env={"CRECHE_BUILD": build})


@nox.session
def without_compiler(session: nox.Session) -> None:
    """An install where compiling fails: it succeeds, and runs as Python."""
    install_group(session, "core-test")
    session.install("anyio>=4.16", "h11")
    session.install("--force-reinstall", "--no-deps", ".", env={"CC": "false"})
    run_tests(session, "pure", "python", "-m", "pytest", "tests/protocol", "tests/test_cli.py")
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
    install_group(session, "test")
    install_group(session, "types")
    session.install("--editable", ".")
    session.run("mypy")
