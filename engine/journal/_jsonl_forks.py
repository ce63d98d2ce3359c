"""Which sessions of a JSON Lines journal begin with records of which other: what the first line of each says.

May import the index. Must never be called on an event loop.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ._claims import OPEN_FLAGS
from ._lines import Index, parent_in, read_envelope


def forks_in_files(folder: int, files: Mapping[str, str], session: str) -> dict[str, int]:
    """Return the last record that each fork of a session shares with it, where every session has a file of its own.

    Args:
        folder: descriptor of the folder.
        files: session → name of its file.
        session: whose forks.

    Raises:
        OSError: a file cannot be read.
    """
    found: dict[str, int] = {}
    for name, file_name in files.items():
        fd = os.open(file_name, os.O_RDONLY | os.O_NONBLOCK | OPEN_FLAGS, dir_fd=folder)
        with os.fdopen(fd, "rb") as file:
            line = file.readline()
        envelope = read_envelope(line)
        if envelope is not None and envelope.seq > 1 and parent_in(line) == session:
            found[name] = envelope.seq - 1
    return found


def forks_in_index(index: Index, session: str) -> dict[str, int]:
    """Return the same for a file that holds all sessions."""
    return {name: located.base for name, located in index.sessions.items() if located.parent == session}
