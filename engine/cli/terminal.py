"""What reaches a terminal: text made safe, colour where it is wanted, progress on stderr, one JSON object at the end.

Everything printed comes through `Screen`, because models and tools write parts of it. May import the standard
library, rich (where it is installed) and core. Must never print a control character that somebody else chose.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from ..core.values import JsonObject

COLOURS: Mapping[str, str] = {
    "bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36",
}  # fmt: skip

_PLAIN = str.maketrans(
    {"→": "->", "·": "-", "█": "#", "├": "|", "└": "`", "┬": "+", "─": "-", "✓": "ok", "✗": "no", "…": "..."}
)
_NO_TERMINAL_WIDTH = 160

_LONG_WORK = 5_000
"""From this many records on, work is worth a progress bar."""

_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Unicode categories of what moves a cursor, reorders a line, shows nothing, or is no character at all."""

Progress = Callable[[int], None]
"""Told how many more records were worked through."""


def safe(text: str) -> str:
    """Return the text on one line, everything a terminal could act on written as an escape."""
    return "".join(_escaped(char) if unicodedata.category(char) in _UNSAFE else char for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def clip(text: str, width: int) -> str:
    """Return safe text of at most `width` characters, its end replaced by an ellipsis where it is longer."""
    shown = safe(text)
    return shown if len(shown) <= width else shown[: max(0, width - 1)] + "…"


class Screen:
    """Standard output as a command uses it.

    Args:
        json_only: print nothing but the JSON object at the end.
    """

    def __init__(self, *, json_only: bool = False) -> None:
        self.json_only = json_only
        terminal = sys.stdout.isatty()
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        self.colour = terminal and not plain and not json_only
        self.width = shutil.get_terminal_size((120, 24)).columns if terminal else _NO_TERMINAL_WIDTH
        self._unicode = _can_encode("→·█├└┬─✓✗…")

    def paint(self, text: str, *styles: str) -> str:
        """Return text that is safe already, in colour where colour is wanted."""
        if not self.colour or not text:
            return text
        return f"\x1b[{';'.join(COLOURS[style] for style in styles)}m{text}\x1b[0m"

    def line(self, text: str = "") -> None:
        """Print one line; foreign parts of it must have gone through `safe` or `clip`."""
        if not self.json_only:
            self._write(text)

    def heading(self, text: str) -> None:
        """Print a line that begins a part."""
        self.line()
        self.line(self.paint(text, "bold"))

    def text(self, text: str) -> None:
        """Print foreign text of several lines."""
        for part in text.split("\n"):
            self.line(safe(part))

    def result(self, value: JsonObject) -> None:
        """Print the JSON object of a command that was asked for one."""
        if self.json_only:
            self._write(json.dumps(value, ensure_ascii=True))

    def _write(self, text: str) -> None:
        shown = text if self._unicode else text.translate(_PLAIN)
        encoding = sys.stdout.encoding or "utf-8"
        print(shown.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def complain(text: str) -> None:
    """Print one line to standard error."""
    encoding = sys.stderr.encoding or "utf-8"
    print(
        f"agent-engine: {safe(text)}".encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr, flush=True
    )


@contextmanager
def progress(what: str, total: int | None = None) -> Generator[Progress]:
    """Show on standard error how far long work is; nothing where that is no terminal or the work is known to be short.

    Args:
        what: one word for the work.
        total: how many records there are, where that is known.
    """
    if not sys.stderr.isatty() or (total is not None and total < _LONG_WORK):
        yield _silent
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn
    except ImportError:
        yield _plain_progress(what, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.advance(task, more)


def _silent(more: int) -> None:
    """Show nothing to nobody."""


def _plain_progress(what: str, total: int | None) -> Progress:
    """Return a progress that prints a line every tenth of the way, or every 10,000 records."""
    every = max(1, total // 10) if total else 10_000
    done, shown = 0, 0

    def show(more: int) -> None:
        nonlocal done, shown
        done += more
        if done - shown >= every:
            shown = done
            print(f"{what}: {done:,}" + (f" of {total:,}" if total else ""), file=sys.stderr, flush=True)

    return show


def _can_encode(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
