"""`nox` runs the tests on each Python found, compiled and pure, then lint and types."""

from __future__ import annotations

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


@nox.session(python=PYTHONS)
@nox.parametrize("build", ["pure", "compiled"])
def tests(session: nox.Session, build: str) -> None:
    """The tests; in the pure build with coverage, which must be complete."""
    install_group(session, "test")
    environment = {"CRECHE_BUILD": build}
    if build == "compiled":
        session.install("--force-reinstall", "--no-deps", ".")
        session.install(".")
        session.run("pytest", *session.posargs, env=environment)
        return
    session.install("--editable", ".")
    session.run("coverage", "run", "-m", "pytest", *session.posargs, env=environment)
    if not session.posargs:
        session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, by ruff."""
    install_group(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Types, by mypy --strict."""
    install_group(session, "types")
    session.install("--editable", ".")
    session.run("mypy")
