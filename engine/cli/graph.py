"""`graph`: the state machine as a diagram, a table, or the page of the documentation.

May import inspect and its neighbours.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

from ..core.table import ROWS
from ..core.values import State
from ..errors import UsageError
from ..inspect.diagram import dot, mermaid, page, table
from .terminal import Screen, safe

_FORMATS: dict[str, Callable[[], str]] = {"mermaid": mermaid, "table": table, "dot": dot, "page": page}


def add_graph_options(parser: ArgumentParser) -> None:
    """Add the options of `graph`."""
    parser.add_argument(
        "--format",
        choices=tuple(_FORMATS),
        help="default: mermaid; page, the whole of docs/state-machine.md, with --output",
    )
    parser.add_argument("--output", metavar="FILE", help="write to a file instead of standard output")


def graph(options: Namespace, screen: Screen) -> int:
    """Draw the table that the engine runs by."""
    name = options.format or ("mermaid" if options.output is None else "page")
    text = _FORMATS[name]()
    if options.output is None:
        for line in text.rstrip("\n").split("\n"):
            screen.line(line)
    else:
        target = Path(options.output)
        if not target.parent.is_dir():
            raise UsageError(f"there is no folder {str(target.parent)!r}; create it first")
        target.write_text(text, encoding="utf-8")
        screen.line(f"{len(ROWS)} rows, {len(State)} states written to {safe(options.output)}")
    screen.result({"format": name, "rows": len(ROWS), "states": len(State), "text": text})
    return 0
