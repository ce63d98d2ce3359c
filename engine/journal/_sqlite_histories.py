"""The records of a session in SQLite, those that it shares with the one it was forked from included.

A fork says in its own first record where it begins; no column repeats it. Functions on a connection, inside whatever
transaction is open. May import core, errors, ports and the codec. Must never be called on an event loop.
"""

from __future__ import annotations

import sqlite3
import sys
from typing import Any

from ..errors import JournalCorrupt
from ..ports import StoredLine, Tail
from ._orders import Fork, Rewrite, check_fork
from .codec import GENESIS, decode
from .forking import DECLARES, Origin, check_declared, check_unshared, parent_of

_DECLARING = f"instr(line, '{DECLARES}') > 0"
DECLARATIONS = f"CREATE INDEX IF NOT EXISTS declarations ON records (session, seq) WHERE {_DECLARING}"
"""Finds the records that declare what was rewritten among however many others."""


def tail_of(connection: sqlite3.Connection, session: str) -> Tail:
    """Return sequence and hash of a session's last record.

    Raises:
        JournalCorrupt: that record is damaged.
    """
    row = connection.execute(
        "SELECT seq, line FROM records WHERE session = ? ORDER BY seq DESC LIMIT 1", (session,)
    ).fetchone()
    if row is None:
        return Tail(0, GENESIS)
    seq, line = _checked(session, row)
    record = decode(line, session, seq)
    if (record.session, record.seq) != (session, seq):
        raise JournalCorrupt(session, seq, f"record {record.seq} of session {record.session!r} stands here")
    return Tail(seq, record.hash)


def page_of(connection: sqlite3.Connection, session: str, after: int, limit: int) -> list[StoredLine]:
    """Return up to `limit` records of a session that follow sequence `after`, those of its ancestors first.

    Raises:
        JournalCorrupt: a row holds other types than were stored, or a fork's first record is damaged.
    """
    own = _rows(connection, session, after, limit)
    if own and own[0].offset == after + 1:
        return own
    holders = [Origin(session, sys.maxsize)]
    while (origin := origin_of(connection, holders[-1].session)) is not None and origin.seq > after:
        holders.append(origin)
    lines: list[StoredLine] = []
    for name, upto in reversed(holders):
        place = lines[-1].offset if lines else after
        lines += _rows(connection, name, place, limit - len(lines), upto)
    return lines


def origin_of(connection: sqlite3.Connection, session: str) -> Origin | None:
    """Return where a session was forked from: its own first record says so.

    Raises:
        JournalCorrupt: that record is damaged.
    """
    row = connection.execute(
        "SELECT seq, line FROM records WHERE session = ? ORDER BY seq LIMIT 1", (session,)
    ).fetchone()
    if row is None or row[0] == 1:
        return None
    seq, line = _checked(session, row)
    parent = parent_of(decode(line, session, seq))
    return None if parent is None else Origin(parent, seq - 1)


def forks_of(connection: sqlite3.Connection, session: str) -> dict[str, int]:
    """Return the last record that each fork of a session shares with it.

    Raises:
        JournalCorrupt: the first record of a session that begins later than at 1 is damaged.
    """
    later = connection.execute(
        "SELECT id FROM sessions WHERE (SELECT MIN(seq) FROM records WHERE session = id) > 1"
    ).fetchall()
    origins = {name: origin_of(connection, name) for (name,) in later}
    return {name: origin.seq for name, origin in origins.items() if origin is not None and origin.session == session}


def fork(connection: sqlite3.Connection, order: Fork) -> None:
    """Begin a session after a record of another one.

    Raises:
        UsageError, ReplayError: it cannot begin there; nothing was written.
        JournalCorrupt: the record that it would continue is damaged.
    """
    session, record = order
    parent, shared = parent_of(record) or "", record.seq - 1
    taken = tail_of(connection, session).seq > 0
    check_fork(record, _line(connection, parent, shared), taken=taken)
    # The planner would take the table itself and look at each of its records.
    rows = connection.execute(
        f"SELECT seq, line FROM records INDEXED BY declarations WHERE session = ? AND seq > ? AND {_DECLARING}",  # noqa: S608
        (parent, shared),
    ).fetchall()
    later = [_checked(parent, row)[1] for row in rows]
    check_declared(record, later, lambda seq: _line(connection, parent, seq) or "")
    connection.execute("INSERT INTO sessions (id, epoch) VALUES (?, 0) ON CONFLICT (id) DO NOTHING", (session,))
    connection.execute("INSERT INTO records (session, seq, line) VALUES (?, ?, ?)", (session, record.seq, record.line))


def check_rewrite(connection: sqlite3.Connection, order: Rewrite) -> None:
    """Make sure that no fork shares what is to be rewritten.

    Raises:
        HistoryShared: one does.
    """
    check_unshared(order.session, forks_of(connection, order.session), order.first, order.lines)


def _line(connection: sqlite3.Connection, session: str, seq: int) -> str | None:
    row = connection.execute("SELECT seq, line FROM records WHERE session = ? AND seq = ?", (session, seq)).fetchone()
    return None if row is None else _checked(session, row)[1]


def _rows(
    connection: sqlite3.Connection, session: str, after: int, limit: int, upto: int = sys.maxsize
) -> list[StoredLine]:
    rows = connection.execute(
        "SELECT seq, line FROM records WHERE session = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
        (session, after, upto, limit),
    )
    return [StoredLine(line, seq) for seq, line in (_checked(session, row) for row in rows)]


def _checked(session: str, row: tuple[Any, ...]) -> tuple[int, str]:
    """Return sequence and text of a stored row.

    Raises:
        JournalCorrupt: they have other types than were stored.
    """
    seq, line = row
    if not isinstance(seq, int) or not isinstance(line, str):
        raise JournalCorrupt(session, seq if isinstance(seq, int) else 0, "the row does not hold a number and a text")
    return seq, line
