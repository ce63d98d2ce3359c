"""A journal in one SQLite file: many sessions, many processes, durable when an append returns.

Writes go through one thread that commits for all sessions at once; reads have a connection and threads of their own, so
neither waits for the other. May import errors, core, ports and the store behind it. Must never do I/O on an event loop.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio.to_thread

from ..core.record import TransitionRecord
from ..core.values import check_id
from ..errors import JournalCorrupt, UsageError
from ..ports import SessionInfo, StoredLine, Writer
from . import _sqlite_checkpoints as checkpoints
from ._orders import Fork, check_page
from ._sqlite_histories import forks_of, origin_of, page_of
from ._sqlite_store import SqliteStore, open_reader, translate
from ._thread import WritingThread, claim
from .forking import Origin

_T = TypeVar("_T")


class SqliteJournal:
    """Keep histories in a SQLite file, created at the first claim with mode 0600.

    Several processes may use the file at a time; each session has one writer. Not to be carried across a fork.

    Args:
        path: the file. Its folder must exist. It must lie on a local disk: WAL does not work over a network.

    Raises:
        UsageError: the path is ":memory:".
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        name = os.fspath(path)
        if name == ":memory:":
            raise UsageError("a SQLite journal lives in a file; use MemoryJournal() for one in memory")
        self._path = str(Path(name).absolute())
        self._store = SqliteStore(self._path)
        self._thread = WritingThread(self._store)
        self._reader: sqlite3.Connection | None = None
        self._reading = threading.Lock()

    @property
    def path(self) -> str:
        """The absolute path of the file."""
        return self._path

    @property
    def commits(self) -> int:
        """How many transactions were committed by this object so far: appends that ran together share one."""
        return self._store.commits

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        """Return the right to append; see `ports.Journal.claim`."""
        return await claim(self._thread, check_id(session), takeover)

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        """Return a page of records; see `ports.Journal.read`. The offset of a line is its sequence number."""
        check_page(after, limit)
        check_id(session)

        def page(connection: sqlite3.Connection) -> list[StoredLine]:
            return page_of(connection, session, after, limit)

        return await anyio.to_thread.run_sync(self._query, page, ())

    async def fork(self, record: TransitionRecord) -> None:
        """Begin a session after a record of another one; see `ports.Forking.fork`."""
        await self._thread.submit(Fork(check_id(record.session), record))

    async def origin(self, session: str) -> Origin | None:
        """Return where a session was forked from; see `ports.Forking.origin`."""
        check_id(session)

        def ask(connection: sqlite3.Connection) -> list[Origin]:
            origin = origin_of(connection, session)
            return [] if origin is None else [origin]

        found = await anyio.to_thread.run_sync(self._query, ask, ())
        return found[0] if found else None

    async def forks(self, session: str) -> Mapping[str, int]:
        """Return what the forks of a session share; see `ports.Forking.forks`."""
        check_id(session)

        def ask(connection: sqlite3.Connection) -> list[tuple[str, int]]:
            return [*forks_of(connection, session).items()]

        return dict(await anyio.to_thread.run_sync(self._query, ask, ()))

    async def sessions(self) -> Sequence[SessionInfo]:
        """Return every session that has a record, sorted by id."""
        return await anyio.to_thread.run_sync(self._query, _sessions, ())

    async def put_checkpoint(self, session: str, text: str) -> None:
        """Keep a text to begin from; see `keeping.Checkpointing`. Its transaction is its own, and not flushed."""
        await anyio.to_thread.run_sync(checkpoints.put, self._path, check_id(session), text)

    async def get_checkpoint(self, session: str) -> str | None:
        """Return the text to begin from; see `keeping.Checkpointing`."""
        found = await anyio.to_thread.run_sync(self._query, partial(checkpoints.get, check_id(session)), ())
        return found[0] if found else None

    async def aclose(self) -> None:
        """Release every session claimed here and close the file. Idempotent; the next use opens it again."""
        await anyio.to_thread.run_sync(self._close_reader)
        await self._thread.aclose()

    def _query(self, ask: Callable[[sqlite3.Connection], Sequence[_T]], nothing: Sequence[_T]) -> Sequence[_T]:
        with self._reading:
            try:
                if self._reader is None:
                    self._reader = open_reader(self._path)
                return nothing if self._reader is None else ask(self._reader)
            except (sqlite3.Error, OSError) as error:
                self._forget_reader()
                raise translate(self._path, error) from error

    def _close_reader(self) -> None:
        with self._reading:
            self._forget_reader()

    def _forget_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


def _sessions(connection: sqlite3.Connection) -> list[SessionInfo]:
    rows = connection.execute(
        "SELECT id, last, external_id FROM"
        " (SELECT id, external_id, (SELECT MAX(seq) FROM records WHERE session = id) AS last FROM sessions)"
        " WHERE last IS NOT NULL ORDER BY id"
    )
    try:
        return [SessionInfo(name, last, None if text is None else json.loads(text)) for name, last, text in rows]
    except ValueError as error:
        raise JournalCorrupt("the table of sessions", 0, f"an external id is not JSON ({error})") from error
