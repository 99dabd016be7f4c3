"""Both builds of what reads a peer's bytes, in one process."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import creche.protocol

PACKAGES = ("creche.protocol", "creche.handshake")
BESIDE = "creche.transports.tls"


class Build:
    """The modules of one build, by their names in protocol/; `handshake` has those in handshake/.

    Args:
        modules: by their whole names.
    """

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self._modules = modules
        _, package = PACKAGES
        self.handshake = SimpleNamespace(
            **{
                name.rpartition(".")[2]: module
                for name, module in modules.items()
                if name.startswith(f"{package}.")
            }
        )

    def __getattr__(self, name: str) -> ModuleType:
        return self._modules[BESIDE if name == "tls" else f"{PACKAGES[0]}.{name}"]


def _is_one(name: str) -> bool:
    return name in PACKAGES or name == BESIDE or name.rpartition(".")[0] in PACKAGES


class _SourceFinder:
    """Finds them as Python source, where there are extensions, too."""

    @staticmethod
    def find_spec(name: str, path: object, target: object = None) -> ModuleSpec | None:
        if not _is_one(name):
            return None
        place = Path(str(creche.__file__)).parent.joinpath(*name.split(".")[1:])
        if name in PACKAGES:
            return importlib.util.spec_from_file_location(
                name, place / "__init__.py", submodule_search_locations=[str(place)]
            )
        return importlib.util.spec_from_file_location(name, place.with_suffix(".py"))


def _import_all() -> dict[str, ModuleType]:
    protocol, handshake = PACKAGES
    names = [f"{protocol}.{name}" for name in (*creche.protocol.MODULES, "octets")]
    names += [f"{handshake}.{name}" for name in ("client", "deflate", "server")]
    for name in (*names, BESIDE):
        importlib.import_module(name)
    return {name: module for name, module in sys.modules.items() if _is_one(name)}


@cache
def installed() -> Build:
    """The build that is installed."""
    return Build(_import_all())


@cache
def pure() -> Build:
    """The same modules as Python source, apart from those that everybody else imports."""
    ours = _import_all()
    for name in ours:
        del sys.modules[name]
    sys.meta_path.insert(0, _SourceFinder)
    try:
        assert not importlib.import_module(PACKAGES[0]).COMPILED
        return Build(_import_all())
    finally:
        sys.meta_path.remove(_SourceFinder)
        sys.modules.update(ours)
        # What was imported last is an attribute of its package now.
        for name, module in ours.items():
            package, _, attribute = name.rpartition(".")
            setattr(sys.modules[package], attribute, module)
