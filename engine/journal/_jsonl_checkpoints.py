"""Checkpoints beside JSON Lines: a folder with a file for each session that has one.

A new one is written beside the old one and takes its name when it is whole; nothing is flushed, for a checkpoint that a
power cut takes is only time. Files are opened relative to their folder and never through a symbolic link. Must never be
called on an event loop.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ._claims import OPEN_FLAGS, write_all


def put(place: Path, text: str) -> None:
    """Keep a text in place of the one before.

    Raises:
        OSError: it could not be stored.
    """
    place.parent.mkdir(mode=0o700, exist_ok=True)
    folder = _open(place)
    try:
        spare = place.name + ".new"
        fd = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | OPEN_FLAGS, 0o600, dir_fd=folder)
        try:
            write_all(fd, text.encode("ascii"))
        finally:
            os.close(fd)
        os.replace(spare, place.name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def get(place: Path) -> str | None:
    """Return the text, None where there is none.

    Raises:
        OSError: it cannot be read.
    """
    try:
        folder = _open(place)
        try:
            fd = os.open(place.name, os.O_RDONLY | os.O_NONBLOCK | OPEN_FLAGS, dir_fd=folder)
        finally:
            os.close(folder)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        return file.read().decode("latin-1")  # what is no ASCII is refused by whoever checks the text


def drop(place: Path) -> None:
    """Forget the text, and what a crash may have left of one.

    Raises:
        OSError: it is still there.
    """
    try:
        folder = _open(place)
    except FileNotFoundError:
        return
    try:
        for name in (place.name, place.name + ".new"):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)


def _open(place: Path) -> int:
    return os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | OPEN_FLAGS)
