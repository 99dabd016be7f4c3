from __future__ import annotations

import runpy
import sys

import pytest

import creche
from creche import cli
from creche.protocol import COMPILED


def demo() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["demo"])
    assert caught.value.code == 0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creche.cli.demo._MOMENT", 0.05)


def test_the_demo_shows_what_the_library_is_for_on_each_backend(
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo()
    output = capsys.readouterr().out
    for line in (
        "consumer has 'HELLO'",
        "nothing is left, and the connection is closed: 1000",
        "stops working",
        "one exception tells: no close frame received; none sent",
        "MB, then 5 bytes",
        "broadcast() has passed the slow one over",
        "the quick one has received",
    ):
        assert output.count(line) == 2, line
    for backend in ("asyncio", "trio"):
        assert output.count(f"--- {backend}: ") == 4
    assert "\x1b" not in output


def test_the_demo_is_in_colour_where_the_terminal_can(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    demo()
    assert "\x1b[36m" in capsys.readouterr().out


def test_without_trio_the_demo_runs_on_asyncio(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("creche.cli.demo.find_spec", lambda _: None)
    demo()
    output = capsys.readouterr().out
    assert "--- asyncio" in output
    assert "--- trio" not in output
    assert "pip install trio" in output


def test_the_version_tells_the_build(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert creche.__version__ in output
    assert ("compiled" if COMPILED else "pure Python") in output


def test_without_a_command_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 2
    assert "usage: creche" in capsys.readouterr().err


def test_the_package_can_be_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["creche", "demo"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("creche", run_name="__main__")
    assert caught.value.code == 0
    assert "the connection is closed: 1000" in capsys.readouterr().out
