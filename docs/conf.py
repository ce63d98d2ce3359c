"""How the documentation is built: Sphinx, furo, Markdown by MyST.

Warnings are errors (see tox.ini), and the network is not used.
"""

from __future__ import annotations

import re
from importlib.metadata import version as _installed_version

from sphinx.application import Sphinx

project = "agent-engine"
author = "agent-engine contributors"
copyright = f"2026, {author}"
release = version = _installed_version("agent-engine")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"agent-engine {release}"
html_show_sphinx = False

# Markdown: ```mermaid fences are diagrams, `#heading` links work across pages.
myst_enable_extensions = ["deflist", "fieldlist"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

# API pages follow the source: order, annotations in the description, inherited pydantic machinery left out.
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {
    "members": True,
    "exclude-members": "model_config, model_post_init, model_computed_fields, model_fields",
}
autodoc_class_signature = "separated"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# A reference to a name of the engine must resolve. Names of other packages are not linked, so they are not checked.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!engine\.).*")]
# Type variables, and the inner types that public signatures pass through.
nitpick_ignore = [
    ("py:class", "engine.tools.function.R"),
    ("py:class", "engine.core.cursor.Cursor"),
    ("py:class", "engine.core.table.Row"),
    ("py:class", "engine.runtime.parts.Parts"),
    ("py:class", "engine.core.values._AsTuple"),
    ("py:class", "engine.core.grants._checked_pattern"),
    ("py:class", "engine.runtime.ruling.EngineRules"),
]


def _read_as_markdown(_app: Sphinx, _what: str, _name: str, _of: object, _options: object, lines: list[str]) -> None:
    """Take docstrings as they read in the source: `code` is code, an indented block after text stays as it is."""
    read: list[str] = []
    for line in lines:
        if line.startswith("    ") and len(read) > 1 and not read[-1] and read[-2] and not read[-2].startswith(" "):
            read += ["::", ""]
        line = line if line.startswith("    ") else re.sub(r"(?<!`)`([^`]+)`(?!`)(\w?)", _as_code, line)
        read.append(line)
    lines[:] = read


def _as_code(found: re.Match[str]) -> str:
    return f"``{found[1]}``" + (f"\\ {found[2]}" if found[2] else "")


def setup(app: Sphinx) -> None:
    """Read docstrings the way they are written, after napoleon has found their sections."""
    app.connect("autodoc-process-docstring", _read_as_markdown, priority=900)
