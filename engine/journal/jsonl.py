"""A journal in JSON Lines: a folder with a file for each session, or one file for all. Readable by any text tool.

Writes go through one thread; reads run on threads of their own, take no lock, and see whole lines only. May import
core, errors, ports and the store behind it. Must never do I/O on an event loop.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence

import anyio.to_thread

from ..core.record import TransitionRecord
from ..core.values import check_id
from ..errors import JournalUnavailable
from ..ports import SessionInfo, StoredLine, Writer
from ._jsonl_store import JsonlStore, Layout, session_of, translate
from ._lines import Index
from ._orders import Fork, check_page
from ._thread import WritingThread, claim
from .forking import Origin

_KEPT_INDEXES = 1024
"""How many files of a folder a reader remembers the layout of (8 bytes a record)."""


class JsonlJournal:
    """Keep histories as JSON Lines, created at the first claim with mode 0600 (a folder: 0700).

    Several processes may use it at a time; each session has one writer. Not to be carried across a fork. A claim cuts
    off what a crash left of an unfinished line and says so in `Tail.cut_bytes`.

    Args:
        path: a file ending in `.jsonl` in an existing folder, or a folder, which is created.

    Raises:
        JournalUnavailable: this system has no `flock`; use SqliteJournal.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if sys.platform == "win32":
            raise JournalUnavailable("JSONL journals need a POSIX system; use SqliteJournal here")
        self._store = JsonlStore(os.fspath(path))
        self._thread = WritingThread(self._store)
        self._reader = LockFreeReader(self._store.layout)

    @property
    def path(self) -> str:
        """The absolute path of the file or folder, symbolic links resolved."""
        return self._store.place

    @property
    def commits(self) -> int:
        """How many times this object flushed records so far: appends to one file that ran together share one."""
        return self._store.commits

    async def claim(self, session: str, *, takeover: bool = False) -> Writer:
        """Return the right to append; see `ports.Journal.claim`."""
        return await claim(self._thread, check_id(session), takeover)

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        """Return a page of records; see `ports.Journal.read`. The offset of a line is its place in the file, in bytes.

        Raises:
            JournalCorrupt: the page would begin at damage; the records before it can be read.
        """
        check_page(after, limit)
        return await anyio.to_thread.run_sync(self._reader.page, check_id(session), after, limit)

    async def fork(self, record: TransitionRecord) -> None:
        """Begin a session after a record of another one; see `ports.Forking.fork`."""
        await self._thread.submit(Fork(check_id(record.session), record))

    async def origin(self, session: str) -> Origin | None:
        """Return where a session was forked from; see `ports.Forking.origin`."""
        return await anyio.to_thread.run_sync(self._reader.origin, check_id(session))

    async def sessions(self) -> Sequence[SessionInfo]:
        """Return every session that has a record, sorted by id."""
        return await anyio.to_thread.run_sync(self._reader.sessions)

    async def aclose(self) -> None:
        """Release every session claimed here and close the files. Idempotent; the next use opens them again."""
        await self._thread.aclose()


class LockFreeReader:
    """Reads without a lock, for any thread. Holds no file open between calls."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._lock = threading.Lock()
        self._indexes: OrderedDict[str, Index] = OrderedDict()

    def page(self, session: str, after: int, limit: int) -> Sequence[StoredLine]:
        """Return a page of records, as `JsonlJournal.read`."""
        with self._lock:
            try:
                folder = self._open_folder()
                if folder is None:
                    return ()
                try:
                    return self._page(folder, session, after, limit)
                finally:
                    os.close(folder)
            except OSError as error:
                raise translate(self._layout.path, error) from error

    def origin(self, session: str) -> Origin | None:
        """Return where a session was forked from, as `JsonlJournal.origin`."""
        with self._lock:
            try:
                folder = self._open_folder()
                if folder is None:
                    return None
                try:
                    return self._origin(folder, session)
                finally:
                    os.close(folder)
            except OSError as error:
                raise translate(self._layout.path, error) from error

    def sessions(self) -> list[SessionInfo]:
        """Return every session that has a record, as `JsonlJournal.sessions`."""
        found: list[SessionInfo] = []
        with self._lock:
            try:
                folder = self._open_folder()
                if folder is None:
                    return found
                try:
                    for name in self._files(folder):
                        index, fd = self._index(folder, name)
                        if fd is not None:
                            os.close(fd)
                        for key, located in index.sessions.items():
                            found.append(SessionInfo(key, located.last, located.external_id))
                        if index.damage is not None and not index.sessions and not self._layout.single:
                            # Its first record is damaged. A session must not vanish for that: reading it says why.
                            found.append(SessionInfo(name, 0))
                finally:
                    os.close(folder)
            except OSError as error:
                raise translate(self._layout.path, error) from error
        return sorted(found)

    def _files(self, folder: int) -> list[str]:
        if self._layout.single:
            return [""]
        with os.scandir(folder) as entries:
            return [session for entry in entries if (session := session_of(entry.name)) is not None]

    def _open_folder(self) -> int | None:
        try:
            return self._layout.open_folder(create=False)
        except FileNotFoundError:
            return None

    def _index(self, folder: int, session: str) -> tuple[Index, int | None]:
        name = self._layout.file_of(session)
        index = self._indexes.setdefault(name, self._layout.index_for(session))
        self._indexes.move_to_end(name)
        if len(self._indexes) > _KEPT_INDEXES:
            self._indexes.popitem(last=False)
        return index, self._layout.index(folder, session, index, known=self._layout.claimed(folder))

    def _origin(self, folder: int, session: str) -> Origin | None:
        index, fd = self._index(folder, session)
        if fd is not None:
            os.close(fd)
        located = index.sessions.get(session)
        return None if located is None or located.parent is None else Origin(located.parent, located.base)

    def _page(self, folder: int, session: str, after: int, limit: int) -> Sequence[StoredLine]:
        holders = [Origin(session, sys.maxsize)]
        while (origin := self._origin(folder, holders[-1].session)) is not None and origin.seq > after:
            holders.append(origin)
        lines: list[StoredLine] = []
        for name, upto in reversed(holders):
            wanted = min(limit, upto - after) - len(lines)
            if wanted > 0:
                lines += self._own(folder, name, after + len(lines), wanted)
        return lines

    def _own(self, folder: int, session: str, after: int, limit: int) -> Sequence[StoredLine]:
        index, fd = self._index(folder, session)
        if fd is None:
            return ()
        try:
            lines = index.page(fd, session, after, limit)
            if lines is None:  # a failed append was seen before it was cut off again
                index.clear()
                index.catch_up(fd)
                lines = index.page(fd, session, after, limit) or []
        finally:
            os.close(fd)
        if not lines:
            index.check(self._layout.file_of(session))
        return lines
