"""How the files of a JSONL journal are named and found.

In a folder each session has a file of its own, named by its id and a hash of it, so names that differ only in case stay
apart; otherwise one file holds the lines of all sessions in the order of their appends. Files are opened relative to a
descriptor of their folder and never through a symbolic link. May import errors and the index. Must never be called on
an event loop.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from hashlib import sha256
from pathlib import Path

from ..errors import NotAJournal
from ._claims import OPEN_FLAGS
from ._lines import Index

_NAME = re.compile(r"([A-Za-z0-9_-]{1,128})\.([0-9a-f]{16})\.jsonl")

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC if sys.platform != "win32" else 0


def file_name(session: str) -> str:
    """Return the name of a session's file within a folder."""
    return f"{session}.{sha256(session.encode('ascii')).hexdigest()[:16]}.jsonl"


def session_of(name: str) -> str | None:
    """Return the session that a file of a folder belongs to, None if it is not a journal's file."""
    found = _NAME.fullmatch(name)
    return found[1] if found is not None and file_name(found[1]) == name else None


class Layout:
    """How a journal's path is laid out: a folder, or one file within its folder."""

    def __init__(self, name: str) -> None:
        self.single = name.endswith(".jsonl")
        self.path = path = str(Path(name).resolve())
        self.name = Path(path).name
        self.folder = str(Path(path).parent) if self.single else path
        self.claims = f"{self.name}.claims" if self.single else "sessions.claims"

    def file_of(self, session: str) -> str:
        """Return the name of the file, within the folder, that holds the session."""
        return self.name if self.single else file_name(session)

    def files(self, folder: int) -> dict[str, str]:
        """Return the sessions of a folder, each with the name of its file."""
        with os.scandir(folder) as entries:
            return {session: entry.name for entry in entries if (session := session_of(entry.name)) is not None}

    def checkpoint_of(self, session: str) -> Path:
        """Return the place of the session's checkpoint."""
        folder = Path(f"{self.path}.checkpoints") if self.single else Path(self.path, "checkpoints")
        return folder / f"{file_name(session).removesuffix('.jsonl')}.checkpoint"

    def index_for(self, session: str) -> Index:
        """Return an empty index for the file that holds the session."""
        return Index(None if self.single else session)

    def open_folder(self, create: bool) -> int:
        """Return a descriptor of the folder.

        Raises:
            OSError: it is not there (and not to be created), or is no folder.
        """
        if create and not self.single and not Path(self.path).exists():
            Path(self.path).mkdir(mode=0o700, exist_ok=True)
            parent = os.open(Path(self.path).parent, _FOLDER_FLAGS)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        return os.open(self.folder, _FOLDER_FLAGS)

    def claimed(self, folder: int) -> bool:
        """Say whether anything was ever claimed here, so that the file is a journal's whatever a crash made of it."""
        try:
            return os.stat(self.claims, dir_fd=folder, follow_symlinks=False).st_size > 0
        except FileNotFoundError:
            return False

    def index(self, folder: int, session: str, index: Index, known: bool) -> int | None:
        """Bring an index up to date; return a descriptor to read the file with, None where there is no file yet.

        Args:
            folder: descriptor of the folder.
            session: whose file.
            index: the index of that file.
            known: whether it is known to be a journal's file.

        Raises:
            NotAJournal: the file belongs to another program; it was not touched.
            OSError: it cannot be opened.
        """
        name = self.file_of(session)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | OPEN_FLAGS, dir_fd=folder)
        except FileNotFoundError:
            index.clear()
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, f"{name} is not a regular file")
            index.catch_up(fd)
            if self.single and not known and index.foreign(fd):
                raise NotAJournal(f"{self.path} holds something else and was not touched: name another file")
        except BaseException:
            os.close(fd)
            raise
        return fd
