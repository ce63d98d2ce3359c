"""Checkpoints in a SQLite journal: a table of one text a session, made when the first is stored.

Written by a connection of its own in a transaction of its own, so that a full disk fails no append. With
`synchronous=NORMAL` nothing is flushed for it: a checkpoint that a power cut takes is only time. May import the store.
Must never be called on an event loop.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing

from ._sqlite_store import connect, translate

_TABLE = "CREATE TABLE IF NOT EXISTS checkpoints (session TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID"


def put(path: str, session: str, text: str) -> None:
    """Keep a text in place of the one before; the journal must be there.

    Raises:
        JournalUnavailable: it could not be stored.
    """
    try:
        with closing(connect(path, "rw")) as connection:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_TABLE)
            connection.execute("INSERT OR REPLACE INTO checkpoints (session, text) VALUES (?, ?)", (session, text))
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise translate(path, error) from error


def get(session: str, connection: sqlite3.Connection) -> Sequence[str]:
    """Return the text of a session; nothing where there is none."""
    if not exist(connection):
        return ()
    rows = connection.execute("SELECT text FROM checkpoints WHERE session = ?", (session,)).fetchall()
    return [text for (text,) in rows if isinstance(text, str)]


def exist(connection: sqlite3.Connection) -> bool:
    """Say whether this journal has ever kept a checkpoint."""
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'checkpoints'").fetchall())
