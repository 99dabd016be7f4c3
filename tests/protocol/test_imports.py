"""protocol/ does no I/O and reads no clock: every import there stands in this list."""

from __future__ import annotations

import ast
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import creche.protocol

ALLOWED = {
    "__future__",
    "array",
    "base64",
    "binascii",
    "bisect",
    "codecs",
    "collections",
    "collections.abc",
    "dataclasses",
    "enum",
    "functools",  # lru_cache
    "h11",
    "hashlib",
    "http",  # HTTPStatus
    "idna",  # anyio needs it, too
    "importlib",
    "ipaddress",
    "io",  # BytesIO
    "os",  # urandom, register_at_fork
    "re",
    "sys",  # maxsize, getsizeof
    "typing",
    "urllib.parse",
    "zlib",
}

SOURCES = sorted(Path(str(creche.protocol.__file__)).parent.glob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(str(node.module))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_protocol_module_imports_only_what_is_allowed(path: Path) -> None:
    beyond = {name for name in imports(path) - ALLOWED if not name.startswith("creche.protocol.")}
    assert beyond == set()


def test_the_check_sees_an_import_that_is_not_allowed(tmp_path: Path) -> None:
    source = tmp_path / "bad.py"
    source.write_text("def f():\n    import socket\n    from creche.link import Link\n")
    assert imports(source) - ALLOWED == {"socket", "creche.link"}


def test_the_transports_know_nothing_of_websocket() -> None:
    spec = find_spec("creche.transports")
    assert spec is not None
    assert spec.origin is not None
    for path in Path(spec.origin).parent.glob("*.py"):
        inside = {name for name in imports(path) if name.startswith("creche")}
        inside.discard("creche.protocol.start_lines")  # who else may speak
        inside.discard("creche.protocol.escaping")  # how a text is shown
        assert all(name.startswith("creche.transports.") for name in inside), path


def test_the_build_that_runs_is_the_one_that_was_asked_for() -> None:
    asked_for = os.environ.get("CRECHE_BUILD")
    if asked_for is None:
        pytest.skip("CRECHE_BUILD does not say what to expect")
    assert creche.protocol.COMPILED is (asked_for == "compiled")
    for name in ("broadcast", "endpoint", "link", "transports.base", "transports.tls"):
        source = str(import_module(f"creche.{name}").__file__)
        assert source.endswith(".py") is (asked_for == "pure"), name


def test_every_module_is_listed_and_built_alike() -> None:
    # octets.pxd is the compiled half of octets.py, and becomes part of those that use it.
    listed = {path.stem for path in SOURCES} - {"__init__", "octets"}
    assert listed == set(creche.protocol.MODULES)
    kinds = {creche.protocol._is_compiled(name) for name in creche.protocol.MODULES}
    assert kinds == {creche.protocol.COMPILED}
