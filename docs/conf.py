"""Sphinx: python -m sphinx -W docs site"""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # run_notebooks.py

project = "elmnet"
author = "the elmnet developers"
release = metadata.version("elmnet")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"elmnet {release}"
exclude_patterns = ["bad-input.md"]  # a page for developers, made by a test
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
suppress_warnings = ["myst.header"]


def setup(app):
    """Notebooks are scripts: run them first."""
    from run_notebooks import write_pages

    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir) / "notebooks"))
