"""Rewriting a session's records in SQLite, and getting the old text out of the files.

The change is one transaction. `secure_delete` overwrites what it removes from the database; the log of writes that
SQLite keeps beside it still holds what was appended, until it is emptied. May import errors and ports. Must never be
called on an event loop.
"""

from __future__ import annotations

import sqlite3

from ..errors import JournalCorrupt, JournalUnavailable
from ._orders import Rewrite

_ROOMY = 4
"""The file is made smaller when more than one page in so many is free."""


def rewrite(connection: sqlite3.Connection, order: Rewrite) -> None:
    """Carry the order out within the transaction that is open.

    Raises:
        JournalCorrupt: a record that is to be replaced is not there. Nothing was changed.
    """
    session = order.session
    for seq in order.lines:
        if not connection.execute("SELECT 1 FROM records WHERE session = ? AND seq = ?", (session, seq)).fetchall():
            raise JournalCorrupt(session, seq, "the record that is to be rewritten is not there")
    connection.execute("PRAGMA secure_delete = ON")
    connection.executemany(
        "UPDATE records SET line = ? WHERE session = ? AND seq = ?",
        [(line, session, seq) for seq, line in order.lines.items()],
    )
    connection.execute("DELETE FROM records WHERE session = ? AND seq < ?", (session, order.first))
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'checkpoints'").fetchall():
        connection.execute("DELETE FROM checkpoints WHERE session = ?", (session,))


def wipe(place: str, connection: sqlite3.Connection, order: Rewrite) -> JournalUnavailable | None:
    """Give the space back, and empty the log of writes, which still holds the old text.

    Returns:
        What kept it from that. The records were rewritten all the same.
    """
    try:
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        if free * _ROOMY > pages:
            connection.execute("VACUUM")
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        reason = "somebody reads the journal" if busy else ""
    except sqlite3.Error as error:
        reason = str(error)
    if not reason:
        return None
    return JournalUnavailable(
        f"session {order.session!r} was rewritten, but what stood there may still be in {place}-wal ({reason}): do the "
        "same again when nobody reads the journal and the disk has room"
    )
