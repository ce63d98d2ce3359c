"""Journals: where histories are kept. Each satisfies `engine.ports.Journal` and passes `engine.testing.conformance`.

May import core, errors and ports. Importing it opens nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..ports import Journal
from .memory import MemoryJournal

if TYPE_CHECKING:
    from .jsonl import JsonlJournal
    from .sqlite import SqliteJournal


def open_journal(name: str | os.PathLike[str]) -> Journal:
    """Return the journal of this name; nothing is created before its first claim.

    Args:
        name: a path ending in `.db` (SQLite) or `.jsonl` (one file of JSON Lines), or a folder: one that exists, or
            one to be created, written with a `/` at its end.

    Raises:
        UsageError: the name has another form.
    """
    path = os.fspath(name)
    if path.startswith(("postgresql://", "postgres://")):
        raise UsageError(
            "journals in PostgreSQL are not part of this release; name a path ending in .db or .jsonl, or a folder"
        )
    if path.endswith(".db"):
        from .sqlite import SqliteJournal

        return SqliteJournal(path)
    if path.endswith((".jsonl", "/", os.sep)) or (path and Path(path).is_dir()):
        from .jsonl import JsonlJournal

        return JsonlJournal(path)
    raise UsageError(
        f"{path!r} names no journal; the forms are: a path ending in .db (SQLite), a path ending in .jsonl or a folder "
        "(JSON Lines; write a new folder with a / at its end)"
    )


__all__ = ["JsonlJournal", "MemoryJournal", "SqliteJournal", "open_journal"]


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: an engine in memory needs neither.
    if name == "JsonlJournal":
        from .jsonl import JsonlJournal

        return JsonlJournal
    if name == "SqliteJournal":
        from .sqlite import SqliteJournal

        return SqliteJournal
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
