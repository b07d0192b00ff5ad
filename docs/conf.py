"""Sphinx: python -m sphinx -W docs site"""

from importlib import metadata

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
