"""Checkpoints beside JSON Lines: a folder with a file for each session that has one.

A new one is written beside the old one and takes its name when it is whole; nothing is flushed, for a checkpoint that a
power cut takes is only time. Files are opened relative to their folder and never through a symbolic link. May import
the store. Must never be called on an event loop.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ._claims import OPEN_FLAGS, write_all
from ._jsonl_store import Layout, file_name, translate


def put(layout: Layout, session: str, text: str) -> None:
    """Keep a text in place of the one before; the journal must be there.

    Raises:
        JournalUnavailable: it could not be stored.
    """
    name = _name(session)
    try:
        _place(layout).mkdir(mode=0o700, exist_ok=True)
        folder = _open(layout)
        try:
            fd = os.open(name + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | OPEN_FLAGS, 0o600, dir_fd=folder)
            try:
                write_all(fd, text.encode("ascii"))
            finally:
                os.close(fd)
            os.replace(name + ".new", name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise translate(layout.path, error) from error


def get(layout: Layout, session: str) -> str | None:
    """Return the text of a session, None where there is none.

    Raises:
        JournalUnavailable: it cannot be read.
    """
    try:
        folder = _open(layout)
        try:
            fd = os.open(_name(session), os.O_RDONLY | os.O_NONBLOCK | OPEN_FLAGS, dir_fd=folder)
        finally:
            os.close(folder)
        with os.fdopen(fd, "rb") as file:
            return file.read().decode("latin-1")  # what is no ASCII is refused by whoever checks the text
    except FileNotFoundError:
        return None
    except OSError as error:
        raise translate(layout.path, error) from error


def drop(layout: Layout, session: str) -> None:
    """Forget the text of a session, and what a crash may have left of one.

    Raises:
        OSError: it is still there.
    """
    try:
        folder = _open(layout)
    except FileNotFoundError:
        return
    try:
        for name in (_name(session), _name(session) + ".new"):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)


def _place(layout: Layout) -> Path:
    return Path(f"{layout.path}.checkpoints") if layout.single else Path(layout.path, "checkpoints")


def _open(layout: Layout) -> int:
    return os.open(_place(layout), os.O_RDONLY | os.O_DIRECTORY | OPEN_FLAGS)


def _name(session: str) -> str:
    return file_name(session).removesuffix(".jsonl") + ".checkpoint"
