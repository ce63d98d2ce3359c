"""The SQLite side of a journal: what the writing thread does, and how a database file is recognised and opened.

WAL with `synchronous=FULL`: what is acknowledged survives a power cut. Text columns hold canonical ASCII JSON. Values
reach SQL as bound parameters only. The file is never opened beside SQLite, because closing such a descriptor would drop
the locks that SQLite holds on it in this process. May import errors, ports and the codec. Must never be called on an
event loop.
"""

from __future__ import annotations

import json
import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ..errors import (
    JournalCorrupt,
    JournalError,
    JournalTooNew,
    NotAJournal,
    ReplayError,
    SessionBusy,
    StaleWriter,
    UsageError,
)
from ..ports import Tail
from . import _sqlite_histories as histories, _sqlite_rewriting as rewriting
from ._orders import Append, Claim, Fork, Granted, Release, Rewrite, check_next, external_id_of, unavailable
from ._owner import Token, living_owner
from ._thread import Job

APPLICATION_ID = 0x41454A31
"""Marks a database file as a journal."""

SCHEMA_VERSION = 1
"""Version of the tables. It grows when a release before could not use them."""

BUSY_TIMEOUT_S = 5.0
"""How long a write waits for another process's write."""

_SCHEMA = (
    "CREATE TABLE sessions (id TEXT PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT, external_id TEXT) WITHOUT ROWID",
    "CREATE TABLE records (session TEXT NOT NULL, seq INTEGER NOT NULL, line TEXT NOT NULL, PRIMARY KEY (session, seq))"
    " WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)

_ADVICE = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_IOERR: "the disk reported an error or is full: check its health and its free space",
    sqlite3.SQLITE_READONLY: "give this user write permission on the file and on its folder",
    sqlite3.SQLITE_CANTOPEN: "make sure that the folder exists and give this user write permission on it",
    sqlite3.SQLITE_BUSY: f"another process wrote for more than {BUSY_TIMEOUT_S:g} s: let it finish",
}


class SqliteStore:
    """Carries out orders on one database, a transaction for each group."""

    def __init__(self, path: str) -> None:
        self.place = path
        self.commits = 0
        self._connection: sqlite3.Connection | None = None
        self._token = Token()
        # The stored tails of the sessions whose right was given here.
        self._held: dict[str, Tail] = {}

    def perform(self, jobs: Sequence[Job]) -> None:
        """Carry the orders out in one transaction; an order that is refused leaves the others as they are.

        Raises:
            JournalUnavailable: nothing was written; the connection was closed and is opened again by the next order.
        """
        try:
            self._transaction(jobs)
        except BaseException as error:
            for job in jobs:
                self._held.pop(job.order.session, None)
            self._disconnect()
            if isinstance(error, (sqlite3.Error, OSError)):
                raise translate(self.place, error) from error
            raise

    def _transaction(self, jobs: Sequence[Job]) -> None:
        if self._connection is None:
            self._connection = open_database(self.place)
        self._connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            try:
                self._carry_out(self._connection, job)
            except (UsageError, ReplayError, StaleWriter, JournalCorrupt) as error:  # before anything was written
                job.error = error
        self._connection.execute("COMMIT")
        self.commits += 1
        for job in jobs:
            if isinstance(job.order, Rewrite) and job.error is None:
                job.error = rewriting.wipe(self.place, self._connection, job.order)

    def _carry_out(self, connection: sqlite3.Connection, job: Job) -> None:
        match job.order:
            case Append():
                self._append(connection, job.order)
            case Claim():
                job.granted = self._claim(connection, job.order)
            case Fork():
                histories.fork(connection, job.order)
            case Rewrite():
                self._check_right(connection, job.order)
                histories.check_rewrite(connection, job.order)
                rewriting.rewrite(connection, job.order)
            case Release(session, epoch, owner):
                connection.execute(
                    "UPDATE sessions SET owner = NULL WHERE id = ? AND epoch = ? AND owner = ?", (session, epoch, owner)
                )
                self._held.pop(session, None)

    def _check_right(self, connection: sqlite3.Connection, order: Append | Rewrite) -> None:
        row = connection.execute("SELECT epoch, owner FROM sessions WHERE id = ?", (order.session,)).fetchone()
        if row != (order.epoch, order.owner):
            self._held.pop(order.session, None)
            raise StaleWriter(order.session, order.epoch)

    def _append(self, connection: sqlite3.Connection, order: Append) -> None:
        session, records = order.session, order.records
        self._check_right(connection, order)
        held = self._held.get(session) or histories.tail_of(connection, session)
        check_next(session, held.seq, held.hash, records[0])
        connection.executemany(
            "INSERT INTO records (session, seq, line) VALUES (?, ?, ?)",
            [(session, record.seq, record.line) for record in records],
        )
        if held.seq == 0 and (name := external_id_of(records[0])) is not None:
            connection.execute("UPDATE sessions SET external_id = ? WHERE id = ?", (json.dumps(name), session))
        self._held[session] = Tail(records[-1].seq, records[-1].hash)

    def _claim(self, connection: sqlite3.Connection, order: Claim) -> Granted:
        session = order.session
        row = connection.execute("SELECT epoch, owner FROM sessions WHERE id = ?", (session,)).fetchone()
        epoch, owner = row or (0, None)
        if not order.takeover:
            mine = owner == self._token.text
            holder = living_owner(owner) if not mine or session in self._held else None
            if holder is not None:
                raise SessionBusy(session, holder)
        tail = histories.tail_of(connection, session)
        connection.execute(
            "INSERT INTO sessions (id, epoch, owner) VALUES (?, ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, owner = excluded.owner",
            (session, epoch + 1, self._token.text),
        )
        self._held[session] = tail
        return Granted(epoch + 1, self._token.text, tail)

    def close(self) -> None:
        """Release everything that was claimed here, and close the connection.

        Raises:
            JournalUnavailable: the release could not be stored; within this process the sessions are free all the same.
        """
        token, self._token = self._token, Token()
        token.retire()
        self._held.clear()
        try:
            if self._connection is not None:
                self._connection.execute("UPDATE sessions SET owner = NULL WHERE owner = ?", (token.text,))
        except sqlite3.Error as error:
            raise translate(self.place, error) from error
        finally:
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()  # rolls back what is open


def open_database(path: str) -> sqlite3.Connection:
    """Return a connection to the journal in this file, created where there is nothing.

    Raises:
        NotAJournal: another program's file; it was not touched.
        JournalTooNew: a newer release's.
        OSError, sqlite3.Error: it cannot be opened.
    """
    exists = inspect_file(path)
    new = not Path(path).exists()
    connection = connect(path, "rwc")
    try:
        connection.execute("PRAGMA synchronous = FULL")
        if not exists:
            connection.execute("BEGIN IMMEDIATE")  # creates the file
            if new:
                Path(path).chmod(0o600)  # before anything is in it; the files beside it take the same mode
            if connection.execute("PRAGMA user_version").fetchone() == (0,):  # nobody else was faster
                for statement in _SCHEMA:
                    connection.execute(statement)
            connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(histories.DECLARATIONS)
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: str) -> sqlite3.Connection | None:
    """Return a connection that cannot write, None where there is no journal yet.

    Raises:
        as `open_database`.
    """
    if not inspect_file(path):
        return None
    connection = connect(path, "rw")  # a reader of a WAL database needs its shared memory file
    connection.execute("PRAGMA query_only = ON")
    return connection


def inspect_file(path: str) -> bool:
    """Return whether there is a journal in this file, False where there is nothing yet. Touches nothing.

    Raises:
        NotAJournal, JournalTooNew, OSError, sqlite3.Error: as `open_database`.
    """
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is {'a folder' if stat.S_ISDIR(found.st_mode) else 'not a regular file'}")
    if found.st_size == 0:
        return False
    try:
        marks = _read_marks(path, "ro&immutable=1")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_CORRUPT or not Path(path + "-wal").exists():
            raise
        # A checkpoint was cut short: only with its WAL the file is whole.
        marks = _read_marks(path, "rw")
    if marks.application != APPLICATION_ID:
        raise NotAJournal(f"{path} is another program's database and was not touched: name another file")
    if marks.version > SCHEMA_VERSION:
        raise JournalTooNew(
            f"{path} was written by a newer release (schema {marks.version}, this one knows {SCHEMA_VERSION}): "
            "upgrade agent-engine"
        )
    # Looked at anew: reading the marks may have moved what stood in the WAL into the file.
    size_bytes = Path(path).stat().st_size
    missing_bytes = marks.size_bytes - size_bytes
    if missing_bytes > 0 and not any(Path(path + suffix).exists() for suffix in ("-wal", "-journal")):
        # SQLite itself notices a cut inside the last page only when it reads there, and may list no session at all.
        raise JournalCorrupt(path, size_bytes, f"the file was cut: {missing_bytes} bytes are missing at its end")
    return True


class _Marks(NamedTuple):
    """What the header of a database says: whose it is, of which schema, and how long the file has to be."""

    application: int
    version: int
    size_bytes: int


def _read_marks(path: str, mode: str) -> _Marks:
    # By SQLite alone: a file that is opened and closed beside it takes its locks along, in the whole process.
    connection = connect(path, mode)
    try:
        names = ("application_id", "user_version", "page_size", "page_count")
        application, version, page, pages = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        return _Marks(application, version, page * pages)
    finally:
        connection.close()


def connect(path: str, mode: str) -> sqlite3.Connection:
    """Return a bare connection to a file; `mode` is SQLite's word for what it may do."""
    uri = f"file:{quote(path)}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.text_factory = _latin  # a damaged text is reported by the codec, not by the reader of the column
    return connection


def _latin(text: bytes) -> str:
    return text.decode("latin-1")


def translate(path: str, error: sqlite3.Error | OSError) -> JournalError:
    """Return the engine's error for one of SQLite or of the operating system."""
    if isinstance(error, OSError):
        return unavailable(path, error, "name a file in a folder that this user may write to")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return NotAJournal(f"{path} is no database and was not touched: name another file for the journal")
    if code == sqlite3.SQLITE_CORRUPT:
        return JournalCorrupt(path, 0, f"the database file itself is damaged ({error})")
    return unavailable(path, error, _ADVICE.get(code, "check the file, its folder and the disk"))
