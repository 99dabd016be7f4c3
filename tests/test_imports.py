"""The house: who may import whom, what does no I/O, and how long a module may be."""

from __future__ import annotations

import ast
import os
from importlib import import_module
from pathlib import Path

import pytest

import creche.protocol

HOUSE = Path(str(creche.__file__)).parent

# What protocol/ and handshake/ may import besides: they do no I/O and read no clock.
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

_CORE = {"protocol", "handshake", "options", "exceptions"}
_OPEN = _CORE | {"engine", "transports", "connection"}
# The rooms, and which others each may import from. What is not here stands for itself.
ROOMS = {
    "protocol": set[str](),
    "handshake": {"protocol"},
    "options": {"protocol", "handshake", "_version"},
    "exceptions": {"protocol", "handshake"},
    "engine": _CORE,
    "transports": _CORE | {"engine"},
    "connection": _CORE | {"engine", "transports"},
    "client": _OPEN,
    "server": _OPEN,
    "app": _OPEN | {"server"},
    "router": _OPEN | {"server"},
    "testing": _OPEN,
    "cli": {*_OPEN, "client", "server", "router", "testing", "creche"},
    "__main__": {"cli"},
    "_build": set[str](),
    "_version": set[str](),
}

# A module with more lines is several.
MAX_LINES = 450


def module_name(path: Path) -> str:
    parts = ("creche", *path.relative_to(HOUSE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """All of a module, also those for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found.add(str(node.module))
            if str(node.module).startswith("creche"):  # the names may be modules
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def of_creche(names: set[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] == "creche"}


def room(module: str) -> str:
    """The room that a module is in: the second part of its name."""
    return [*module.split("."), "creche"][1]


SOURCES = {module_name(path): path for path in sorted(HOUSE.rglob("*.py"))}
SANS_IO = {name: path for name, path in SOURCES.items() if room(name) in ("protocol", "handshake")}


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_imports_from_the_rooms_below_its_own(name: str) -> None:
    ours = room(name)
    if ours == "creche":
        return  # the door
    others = {room(imported) for imported in of_creche(imports(SOURCES[name]))}
    assert others <= ROOMS[ours] | {ours}


def test_no_room_imports_itself_by_way_of_another() -> None:
    def below(name: str) -> set[str]:
        reached: set[str] = set()
        left = {name}
        while left:
            nearer = ROOMS.get(left.pop(), set())
            left |= nearer - reached
            reached |= nearer
        return reached

    assert [name for name in ROOMS if name in below(name)] == []


def test_no_module_imports_itself_by_way_of_another() -> None:
    left = {name: imports(path) & set(SOURCES) - {"creche", name} for name, path in SOURCES.items()}
    while free := [name for name, names in left.items() if not names & set(left)]:
        for name in free:
            del left[name]
    assert set(left) == set()


@pytest.mark.parametrize("name", SOURCES)
def test_a_module_can_be_read_in_one_go(name: str) -> None:
    lines = SOURCES[name].read_text().count("\n")
    assert lines <= MAX_LINES


@pytest.mark.parametrize("name", SANS_IO)
def test_a_module_without_io_imports_only_what_is_allowed(name: str) -> None:
    found = imports(SANS_IO[name])
    assert found - of_creche(found) - ALLOWED == set()


def test_the_checks_see_an_import_that_is_not_allowed(tmp_path: Path) -> None:
    source = tmp_path / "bad.py"
    source.write_text("def f():\n    import socket\n    from creche.connection.link import Link\n")
    found = imports(source)
    assert found - of_creche(found) - ALLOWED == {"socket"}
    assert {room(name) for name in of_creche(found)} - ROOMS["handshake"] == {"connection"}


def is_compiled(name: str) -> bool:
    return not str(import_module(name).__file__).endswith(".py")


def test_the_build_that_runs_is_the_one_that_was_asked_for() -> None:
    asked_for = os.environ.get("CRECHE_BUILD")
    if asked_for is None:
        pytest.skip("CRECHE_BUILD does not say what to expect")
    assert creche.protocol.COMPILED is (asked_for == "compiled")
    others = ("broadcast", "ending", "endpoint", "incoming", "link", "outgoing")
    names = [f"connection.{name}" for name in others]
    for name in (*names, "transports.base", "transports.tls"):
        assert is_compiled(f"creche.{name}") is (asked_for == "compiled"), name


def test_every_module_without_io_is_listed_and_built_alike() -> None:
    # octets.pxd is the compiled half of octets.py, and becomes part of those that use it.
    names = {name for name, path in SANS_IO.items() if path.stem not in ("__init__", "octets")}
    listed = {name.rpartition(".")[2] for name in names if room(name) == "protocol"}
    assert listed == set(creche.protocol.MODULES)
    assert {is_compiled(name) for name in names} == {creche.protocol.COMPILED}
