"""The programs in README.md and docs/ do what is said of them."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import creche.router
import creche.testing
from programs import listening
from support import BlockingClient, free_port

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


def on(backend: str, program: str) -> str:
    """The program, on a backend."""
    choices = [
        f"{module}.run = functools.partial({module}.run, backend={backend!r})"
        for module in ("anyio", "creche")
    ]
    return "\n".join(["import anyio, creche, functools", *choices, program])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_programs_of_the_readme_run(backend: str) -> None:
    port = free_port()
    server, client, structured = (
        on(backend, block.replace("8765", str(port))) for block in blocks(ROOT / "README.md")
    )
    with listening("-c", server, port=port):
        assert run("-c", client) == "Hello world!\n"
        output = run("-c", structured)
        assert output == "".join(f"received message {i}\n" for i in range(3))


PAGES = [
    (f"{path.stem}-{i}", block)
    for path in sorted((ROOT / "docs").rglob("*.md"))
    for i, block in enumerate(blocks(path))
]
SERVERS = [pytest.param(block, id=name) for name, block in PAGES if "8765" in block]
PROGRAMS = [pytest.param(block, id=name) for name, block in PAGES if "8765" not in block]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", PROGRAMS)
def test_the_programs_of_the_docs_run(block: str, backend: str) -> None:
    run("-c", on(backend, block))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", SERVERS)
def test_the_servers_of_the_docs_answer(block: str, backend: str) -> None:
    port = free_port()
    with listening("-c", on(backend, block.replace("8765", str(port))), port=port):
        with BlockingClient(port, "/ws") as ws:
            ws.send("hello")
            assert ws.receive() == "HELLO"


def test_the_reference_lists_every_public_name() -> None:
    page = (ROOT / "docs" / "reference.md").read_text()
    listed = re.findall(r"^\.\. auto\w+:: (\w+)", page, re.MULTILINE)
    public = [*creche.__all__, *creche.testing.__all__, *creche.router.__all__]
    assert sorted(listed) == sorted(name for name in public if name != "__version__")


# On these pages each statement is followed by a comment with the tests that show it.
STATED = ["backpressure.md", "cancellation.md", "closing.md", "security.md"]


def statements(page: str) -> Iterator[tuple[str, list[str]]]:
    """Each statement of a page, and the names of its tests."""
    for item in re.findall(r"^- .*?(?=^- |^\n|\Z)", page, re.MULTILINE | re.DOTALL):
        text, _, comment = item.partition("<!--")
        yield " ".join(text.split()), re.findall(r"\w+", comment.partition("-->")[0])


def known_tests() -> set[str]:
    tests = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tests.update(re.findall(r"def (test_\w+)", path.read_text()))
    return tests


@pytest.mark.parametrize("name", STATED)
def test_each_statement_of_the_docs_names_tests_that_there_are(name: str) -> None:
    tests = known_tests()
    stated = list(statements((ROOT / "docs" / "topics" / name).read_text()))
    assert len(stated) >= 10
    for text, named in stated:
        assert named, f"no test: {text}"
        assert set(named) <= tests, f"{set(named) - tests} of: {text}"


def test_each_demand_of_the_standards_names_tests_that_there_are() -> None:
    tests = known_tests()
    demands = [
        text
        for text, _ in statements((ROOT / "docs" / "conformance.md").read_text())
        if re.match(r"- \*\*(MUST|SHOULD)( NOT)?\*\* ", text)
    ]
    assert len(demands) >= 50
    for text in demands:
        named = re.findall(r"`(test_\w+)`", text)
        assert named or re.search(r"(No test|Not done): ", text), f"no test: {text}"
        assert set(named) <= tests, f"{set(named) - tests} of: {text}"
