"""Used by pyproject.toml while the package is built, never at run time."""

from __future__ import annotations

import os

from setuptools.command.build_ext import build_ext


class BuildExt(build_ext):
    """Compiles protocol/, except for an editable install.

    An editable install runs the Python source that is being edited: an extension left beside it
    would hide every later change.
    """

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()
        if self.editable_mode:
            self.extensions = []

    def build_extension(self, ext: object) -> None:
        if self.compiler.compiler_type == "unix":
            ext.extra_compile_args = ["-g0"]  # type: ignore[attr-defined]
        super().build_extension(ext)
