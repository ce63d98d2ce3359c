"""A journal in JSON Lines: a folder with a file for each session, or one file for all. Readable by any text tool.

Writes go through one thread; reads run on threads of their own, take no lock, and see whole lines only. May import
core, errors, ports and the store behind it. Must never do I/O on an event loop.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager

import anyio.to_thread

from ..core.record import TransitionRecord
from ..core.values import check_id
from ..errors import JournalUnavailable
from ..ports import SessionInfo, StoredLine, Writer
from . import _jsonl_checkpoints as checkpoints
from ._jsonl_forks import forks_in_files, forks_in_index
from ._jsonl_layout import Layout
from ._jsonl_store import JsonlStore, translate
from ._lines import Index, Located
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

    async def forks(self, session: str) -> Mapping[str, int]:
        """Return what the forks of a session share; see `ports.Forking.forks`."""
        return await anyio.to_thread.run_sync(self._reader.forks, check_id(session))

    async def sessions(self) -> Sequence[SessionInfo]:
        """Return every session that has a record, sorted by id."""
        return await anyio.to_thread.run_sync(self._reader.sessions)

    async def put_checkpoint(self, session: str, text: str) -> None:
        """Keep a text to begin from, in a file of its own; see `keeping.Checkpointing`. It is not flushed."""
        place = self._store.layout.checkpoint_of(check_id(session))
        try:
            await anyio.to_thread.run_sync(checkpoints.put, place, text)
        except OSError as error:
            raise translate(self.path, error) from error

    async def get_checkpoint(self, session: str) -> str | None:
        """Return the text to begin from; see `keeping.Checkpointing`."""
        place = self._store.layout.checkpoint_of(check_id(session))
        try:
            return await anyio.to_thread.run_sync(checkpoints.get, place)
        except OSError as error:
            raise translate(self.path, error) from error

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
        with self._folder() as folder:
            return () if folder is None else self._page(folder, session, after, limit)

    def origin(self, session: str) -> Origin | None:
        """Return where a session was forked from, as `JsonlJournal.origin`."""
        with self._folder() as folder:
            located = None if folder is None else self._located(folder, session)
        return None if located is None or located.parent is None else Origin(located.parent, located.base)

    def forks(self, session: str) -> Mapping[str, int]:
        """Return what the forks of a session share, as `JsonlJournal.forks`."""
        with self._folder() as folder:
            if folder is None:
                return {}
            if not self._layout.single:
                return forks_in_files(folder, self._layout.files(folder), session)
            self._located(folder, session)
            return forks_in_index(self._indexes[self._layout.name], session)

    def sessions(self) -> list[SessionInfo]:
        """Return every session that has a record, as `JsonlJournal.sessions`."""
        found: list[SessionInfo] = []
        with self._folder() as folder:
            for name in () if folder is None else self._files(folder):
                assert folder is not None
                index, fd = self._index(folder, name)
                if fd is not None:
                    os.close(fd)
                for key, located in index.sessions.items():
                    found.append(SessionInfo(key, located.seq, located.external_id))
                if index.damage is not None and not index.sessions and not self._layout.single:
                    # Its first record is damaged. A session must not vanish for that: reading it says why.
                    found.append(SessionInfo(name, 0))
        return sorted(found)

    @contextmanager
    def _folder(self) -> Generator[int | None]:
        """Give a descriptor of the folder, None where there is none yet, to one thread at a time."""
        with self._lock:
            try:
                folder = self._open_folder()
                try:
                    yield folder
                finally:
                    if folder is not None:
                        os.close(folder)
            except OSError as error:
                raise translate(self._layout.path, error) from error

    def _files(self, folder: int) -> Iterable[str]:
        return [""] if self._layout.single else self._layout.files(folder)

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

    def _located(self, folder: int, session: str) -> Located | None:
        index, fd = self._index(folder, session)
        if fd is not None:
            os.close(fd)
        return index.sessions.get(session)

    def _page(self, folder: int, session: str, after: int, limit: int) -> Sequence[StoredLine]:
        holders = [(session, sys.maxsize)]
        located = self._located(folder, session)
        while located is not None and located.parent is not None and located.base > after:
            holders.append((located.parent, located.base))
            located = self._located(folder, located.parent)
        place = after if located is None else max(after, located.base)
        lines: list[StoredLine] = []
        for name, upto in reversed(holders):
            wanted = min(limit - len(lines), upto - place)
            if wanted > 0:
                own = self._own(folder, name, place, wanted)
                lines += own
                place += len(own)
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
