"""Used by pyproject.toml while the package is built, never at run time."""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext


class BuildExt(build_ext):
    """Compiles every module of protocol/, or none.

    - An editable install runs the Python source that is being edited: an extension left beside it
      would hide every later change.
    - Where compiling fails, for one module or for all, the Python source runs: a compiled module
      and a pure one do not go together, nor does one left over from an earlier build.
    """

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()
        if self.editable_mode:
            self.extensions = []

    def run(self) -> None:
        self._compiled: list[str] = []
        super().run()
        if len(self._compiled) < len(self.extensions):
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)

    def build_extension(self, ext: Extension) -> None:
        if self.compiler.compiler_type == "unix":
            ext.extra_compile_args = ["-g0"]
        super().build_extension(ext)
        self._compiled.append(ext.name)
