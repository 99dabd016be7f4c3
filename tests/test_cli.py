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


def test_the_demo_shows_messages_both_ways_on_each_backend(
    capsys: pytest.CaptureFixture[str],
) -> None:
    demo()
    output = capsys.readouterr().out
    assert "--- asyncio" in output
    assert "--- trio" in output
    for line in ("client > 'Hello'", "server < 'Hello'", "client < 'HELLO'", "closed with 1000"):
        assert output.count(line) == 2
    assert " ms  " in output


def test_without_trio_the_demo_runs_on_asyncio(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("creche.cli.demo.find_spec", lambda _: None)
    demo()
    output = capsys.readouterr().out
    assert "--- asyncio" in output
    assert "--- trio" not in output


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
    assert "closed with 1000" in capsys.readouterr().out
