"""Both builds of the protocol in one process."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import creche.protocol
import creche.transports

PACKAGE = "creche.protocol"
BESIDE = "creche.transports.tls"


class Build:
    """The modules of one build, by their names in protocol/."""

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self._modules = modules

    def __getattr__(self, name: str) -> ModuleType:
        return self._modules[BESIDE if name == "tls" else f"{PACKAGE}.{name}"]


class _SourceFinder:
    """Finds them as Python source, where there are extensions, too."""

    @staticmethod
    def find_spec(name: str, path: object, target: object = None) -> ModuleSpec | None:
        directory = Path(str(creche.protocol.__file__)).parent
        if name == PACKAGE:
            return importlib.util.spec_from_file_location(
                name, directory / "__init__.py", submodule_search_locations=[str(directory)]
            )
        if name == BESIDE:
            directory = directory.parent / "transports"
        elif not name.startswith(f"{PACKAGE}."):
            return None
        path = directory / f"{name.rpartition('.')[2]}.py"
        return importlib.util.spec_from_file_location(name, path)


def _import_all() -> dict[str, ModuleType]:
    names = [f"{PACKAGE}.{name}" for name in (*creche.protocol.MODULES, "octets")]
    return {name: importlib.import_module(name) for name in [*names, BESIDE]}


@cache
def installed() -> Build:
    """The build that is installed."""
    return Build(_import_all())


@cache
def pure() -> Build:
    """The same modules as Python source, apart from those that everybody else imports."""
    _import_all()
    ours = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name in (PACKAGE, BESIDE) or name.startswith(f"{PACKAGE}.")
    }
    sys.meta_path.insert(0, _SourceFinder)
    try:
        assert not importlib.import_module(PACKAGE).COMPILED
        return Build(_import_all())
    finally:
        sys.meta_path.remove(_SourceFinder)
        sys.modules.update(ours)
        # What was imported last is an attribute of its package now.
        creche.protocol = ours[PACKAGE]
        for name in creche.protocol.MODULES:
            setattr(creche.protocol, name, ours[f"{PACKAGE}.{name}"])
        setattr(creche.transports, "tls", ours[BESIDE])  # noqa: B010
