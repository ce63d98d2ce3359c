"""Keeps a predictor in a file: the only module of this package that touches the world.

A save is atomic: a temporary file beside the target is written and synced, renamed over it, and the folder is synced.
After a crash the file is the old one or the new one. A file that this release would refuse to read is never written
over. May import the file system and this package's persistence. Must never leave a temporary file behind.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from ..errors import PredictorRefused
from .persistence import check

AnyPath: TypeAlias = str | os.PathLike[str]
"""How a caller names a file."""

MAX_BYTES = 64 * 1024 * 1024
"""A larger file is no predictor of ours and is not read."""


def read(path: AnyPath) -> str:
    """Return the text of a predictor's file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        PredictorRefused: it is too large, or no text.
    """
    with Path(path).open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise PredictorRefused(str(path), f"it is larger than {MAX_BYTES} bytes")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        raise PredictorRefused(str(path), f"it is damaged ({error})") from error


def write(path: AnyPath, text: str) -> None:
    """Replace a predictor's file, atomically and durably.

    Raises:
        PredictorRefused: something else stands there, or a newer or damaged predictor; it was not touched.
        OSError: the file cannot be written; the old one is intact.
    """
    with suppress(FileNotFoundError):
        check(read(path), str(path))
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
