"""The tutorial's poll, at each of its stages, as somebody has it who types along."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from programs import listening
from support import BlockingClient, free_port

START = Path(__file__).parent.parent.parent / "docs" / "start"
ON_TRIO = "import anyio, functools\nanyio.run = functools.partial(anyio.run, backend='trio')\n"

on_both_backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def poll(tmp_path: Path, stage: int, port: int, backend: str) -> Path:
    """poll.py at a stage of the tutorial, with its page beside it."""
    program = (START / f"poll_{stage}.py").read_text().replace("8765", str(port))
    if backend == "trio" and stage < 4:
        program = ON_TRIO + program
    (tmp_path / "poll.py").write_text(program)
    shutil.copy(START / "poll.html", tmp_path)
    shutil.copy(START / "test_poll.py", tmp_path)
    return tmp_path / "poll.py"


def votes(ws: BlockingClient) -> dict[str, int]:
    counts: dict[str, int] = json.loads(ws.receive())
    return counts


@on_both_backends
@pytest.mark.parametrize("stage", [1])
def test_one_client_is_answered(poll: Path, port: int) -> None:
    with listening(str(poll), port=port), BlockingClient(port) as ws:
        ws.send("tea")
        assert votes(ws) == {"coffee": 0, "tea": 1}
        ws.send("beer")
        assert ws.read_to_the_end() == 1011


@on_both_backends
@pytest.mark.parametrize("stage", [2, 3, 4])
def test_everybody_is_told(poll: Path, port: int, stage: int) -> None:
    path = "/" if stage == 2 else "/ws"
    with (
        listening(str(poll), port=port),
        BlockingClient(port, path) as ada,
        BlockingClient(port, path) as bob,
    ):
        for ws in (ada, bob):
            assert votes(ws) == {"coffee": 0, "tea": 0}
        ada.send("tea")
        for ws in (ada, bob):
            assert votes(ws) == {"coffee": 0, "tea": 1}
        bob.send("beer")
        assert bob.read_to_the_end() == 1008
        if stage > 2:
            with urllib.request.urlopen(f"http://localhost:{port}/", timeout=30) as page:
                assert b"<title>A poll</title>" in page.read()


@on_both_backends
@pytest.mark.parametrize("stage", [4])
def test_it_ends_on_a_signal(poll: Path, port: int, backend: str) -> None:
    with listening(str(poll), "--backend", backend, port=port) as process:
        with BlockingClient(port, "/ws") as ws:
            assert votes(ws) == {"coffee": 0, "tea": 0}
            process.send_signal(signal.SIGTERM)
            assert ws.read_to_the_end() == 1001
        _, errors = process.communicate(timeout=30)
        assert errors == ""
        assert process.returncode == 0


@pytest.mark.parametrize(("stage", "backend"), [(4, "asyncio")])
def test_its_own_tests_pass_on_both_backends(poll: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=poll.parent,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "6 passed" in result.stdout
