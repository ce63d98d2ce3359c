"""The journals under test, each opened over a place of its own."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from engine.journal import JsonlJournal, MemoryJournal, SqliteJournal
from engine.ports import Journal

KINDS = ("memory", "jsonl-file", "jsonl-folder", "sqlite")
DURABLE = KINDS[1:]


def path_of(kind: str, folder: Path) -> Path:
    """Return where the journal of this kind keeps its histories."""
    return folder / {"jsonl-file": "runs.jsonl", "jsonl-folder": "runs", "sqlite": "runs.db"}[kind]


def factory_of(kind: str, folder: Path) -> Callable[[], Journal]:
    """Return what opens the same store again and again."""
    if kind == "memory":
        memory = MemoryJournal()
        return lambda: memory
    path = path_of(kind, folder)
    return lambda: SqliteJournal(path) if kind == "sqlite" else JsonlJournal(path)


@contextmanager
def quick_folder() -> Generator[Path]:
    """Give a folder where flushing is cheap, for tests that open a journal thousands of times."""
    shared = Path("/dev/shm")  # noqa: S108 - memory, where there is such a thing
    with TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)
