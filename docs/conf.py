"""Sphinx: `nox -s docs` builds these pages, with warnings as errors."""

from __future__ import annotations

import creche

project = "creche"
project_copyright = "the authors of creche"
release = version = creche.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["figures.md"]  # a part of performance.md
default_role = "code"  # docstrings say `this`

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_use_ivar = True

html_theme = "furo"
html_title = "creche"
html_copy_source = False
