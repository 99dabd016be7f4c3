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
@nox.parametrize("build", ["pure", "compiled"])
def tests(session: nox.Session, build: str) -> None:
    """The tests; in the pure build with coverage, which must be complete.

    The compiled build is a wheel that was built from the sdist.
    """
    environment = {"CRECHE_BUILD": build}
    if build == "compiled":
        if not has_compiler():
            session.skip("there is no C compiler")
        install_group(session, "test")
        session.install("build")
        wheels = os.path.join(session.virtualenv.location, "wheels")
        session.run("python", "-m", "build", "--outdir", wheels)
        session.install("--no-index", "--no-deps", "--force-reinstall", "--find-links", wheels,
                        "creche")  # fmt: skip
        session.install("anyio>=4.16", "h11")
        session.run("python", "-m", "pytest", *session.posargs, env=environment)
        return
    install_group(session, "test")
    session.install("--editable", ".")
    session.run("coverage", "run", "-m", "pytest", *session.posargs, env=environment)
    if not session.posargs:
        session.run("coverage", "report")


@nox.session
def without_compiler(session: nox.Session) -> None:
    """An install where compiling fails: it succeeds, and runs as Python."""
    install_group(session, "test")
    session.install("--force-reinstall", "--no-deps", ".", env={"CC": "false"})
    session.install("anyio>=4.16", "h11")
    session.run(
        "python", "-m", "pytest", "tests/protocol", "tests/test_cli.py",
        env={"CRECHE_BUILD": "pure"},
    )  # fmt: skip
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
