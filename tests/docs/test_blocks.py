"""The programs in README.md and docs/ do what is said of them."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import free_port

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

BACKENDS = ["asyncio", "trio"]


def blocks(path: Path) -> list[str]:
    return BLOCK.findall(path.read_text())


def run(*arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@contextmanager
def running(*arguments: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """A program that listens on a port."""
    import socket

    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("localhost", port)).close()
            except OSError:
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            else:
                break
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_programs_of_the_readme_run(backend: str) -> None:
    port = free_port()
    server, client, structured = (
        re.sub(r"^(anyio\.run\(.*?)\)", rf'\1, backend="{backend}")', block, flags=re.MULTILINE)
        for block in blocks(ROOT / "README.md")
    )
    with running("-c", server.replace("8765", str(port)), port=port):
        assert run("-c", client.replace("8765", str(port))) == "Hello world!\n"
        output = run("-c", structured.replace("8765", str(port)))
        assert output == "".join(f"received message {i}\n" for i in range(3))


PAGES = [
    pytest.param(block, id=f"{path.name}-{i}")
    for path in sorted((ROOT / "docs").glob("*.md"))
    for i, block in enumerate(blocks(path))
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", PAGES)
def test_the_programs_of_the_docs_run(block: str, backend: str) -> None:
    run("-c", block.replace("anyio.run(main)", f'anyio.run(main, backend="{backend}")'))


# On these pages each statement is followed by a comment with the tests that show it.
STATED = ["backpressure.md", "cancellation.md", "closing.md", "security.md"]


def statements(page: str) -> Iterator[tuple[str, list[str]]]:
    """Each statement of a page, and the names of its tests."""
    for item in re.findall(r"^- .*?(?=^- |^\n|\Z)", page, re.MULTILINE | re.DOTALL):
        text, _, comment = item.partition("<!--")
        yield " ".join(text.split()), re.findall(r"\w+", comment.partition("-->")[0])


@pytest.mark.parametrize("name", STATED)
def test_each_statement_of_the_docs_names_tests_that_there_are(name: str) -> None:
    tests = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tests.update(re.findall(r"def (test_\w+)", path.read_text()))
    stated = list(statements((ROOT / "docs" / name).read_text()))
    assert len(stated) >= 10
    for text, named in stated:
        assert named, f"no test: {text}"
        assert set(named) <= tests, f"{set(named) - tests} of: {text}"
