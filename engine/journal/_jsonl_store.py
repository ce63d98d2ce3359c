"""The file side of a JSONL journal: what the writing thread does.

An append is one write and one fsync for all orders of a group that go to the same file; a failed one is cut off, and
the file is read again before the next. May import core, errors, ports and the codec. Must never be called on an event
loop.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from ..errors import JournalCorrupt, JournalError, ReplayError, SessionBusy, StaleWriter, UsageError
from ..ports import StoredLine, Tail
from . import _jsonl_checkpoints as checkpoints
from ._claims import OPEN_FLAGS, Claims, Standing, write_all
from ._jsonl_forks import forks_in_files, forks_in_index
from ._jsonl_layout import Layout
from ._jsonl_rewriting import replace_lines
from ._lines import Index
from ._orders import (
    Append,
    Claim,
    Fork,
    Granted,
    Release,
    Rewrite,
    check_fork,
    check_next,
    unavailable,
)  # fmt: skip
from ._owner import Token, living_owner
from ._thread import Job
from .codec import decode
from .forking import check_declared, check_unshared, parent_of


class _Pending:
    """The lines of one group that go to one file."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.jobs: list[Job] = []
        self.lines: list[bytes] = []
        self.tails: dict[str, tuple[int, str]] = {}


class JsonlStore:
    """Carries out orders on a folder or a file."""

    def __init__(self, path: str) -> None:
        self.layout = Layout(path)
        self.place = self.layout.path
        self.commits = 0
        self._folder: int | None = None
        self._claims = Claims(self.layout.claims)
        self._token = Token()
        self._held: set[str] = set()
        self._granted = False
        self._indexes: dict[str, Index] = {}
        self._pending: dict[str, _Pending] = {}

    def perform(self, jobs: Sequence[Job]) -> None:
        """Carry the orders out; those of one file succeed or fail together.

        Raises:
            JournalUnavailable, JournalCorrupt: the folder or its claims cannot be used; nothing was written.
        """
        try:
            folder = self._open()
            self._claims.lock(folder)
        except OSError as error:
            self._forget(jobs)
            raise translate(self.place, error) from error
        try:
            for job in jobs:
                self._carry_out(folder, job)
            self._flush(folder)
        finally:
            self._pending.clear()
            self._claims.unlock()

    def _open(self) -> int:
        if self._folder is None:
            folder = self.layout.open_folder(create=True)
            try:
                if not self.layout.claimed(folder):  # before anything is written beside what may be someone else's
                    self._look(folder, "", Index(), known=False)
            except BaseException:
                os.close(folder)
                raise
            self._folder = folder
        return self._folder

    def _look(self, folder: int, session: str, index: Index, known: bool) -> None:
        if self.layout.single or session:
            fd = self.layout.index(folder, session, index, known)
            if fd is not None:
                os.close(fd)

    def _carry_out(self, folder: int, job: Job) -> None:
        try:
            match job.order:
                case Append():
                    self._prepare(folder, job, job.order)
                case Claim():
                    self._flush(folder)
                    job.granted = self._claim(folder, job.order)
                case Fork():
                    self._flush(folder)
                    self._fork(folder, job.order)
                case Rewrite():
                    self._flush(folder)
                    self._rewrite(folder, job.order)
                case Release():
                    self._release(folder, job.order)
        except (UsageError, ReplayError, JournalError) as error:
            job.error = error
        except OSError as error:
            self._forget([job])
            job.error = translate(self.place, error)

    def _prepare(self, folder: int, job: Job, order: Append) -> None:
        session, records = order.session, order.records
        if self._claims.standing(session) != (order.epoch, order.owner):
            self._let_go(session)
            raise StaleWriter(session, order.epoch)
        name = self.layout.file_of(session)
        pending = self._pending.get(name)
        if pending is None:
            index = self._caught_up(folder, session)
            index.check(name)
            pending = self._pending[name] = _Pending(index)
        seq, digest = pending.tails.get(session) or pending.index.tail(session)
        check_next(session, seq, digest, records[0])
        pending.tails[session] = (records[-1].seq, records[-1].hash)
        pending.lines += [record.line.encode("ascii") + b"\n" for record in records]
        pending.jobs.append(job)
        self._held.add(session)

    def _flush(self, folder: int) -> None:
        for name, pending in self._pending.items():
            if not pending.jobs:
                continue
            try:
                self._write(folder, name, pending)
            except OSError as error:
                self._forget(pending.jobs)
                for job in pending.jobs:
                    job.error = translate(self.place, error)
        self._pending.clear()

    def _write(self, folder: int, name: str, pending: _Pending) -> None:
        index = pending.index
        new = index.size == 0
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | OPEN_FLAGS, 0o600, dir_fd=folder)
        try:
            if index.size > index.end:  # torn by a process that died since
                os.ftruncate(fd, index.end)
            try:
                write_all(fd, b"".join(pending.lines))
                os.fsync(fd)
            except OSError:
                os.ftruncate(fd, index.end)
                raise
        finally:
            os.close(fd)
        if new:
            os.fsync(folder)
        self.commits += 1
        for line in pending.lines:
            index.add(line)
        index.size = index.end

    def _claim(self, folder: int, order: Claim) -> Granted:
        session = order.session
        standing = self._claims.standing(session)
        if not order.takeover:
            mine = standing.owner == self._token.text
            holder = living_owner(standing.owner) if not mine or session in self._held else None
            if holder is not None:
                raise SessionBusy(session, holder)
        name = self.layout.file_of(session)
        index = self._caught_up(folder, session)
        index.check(name)
        cut_bytes = self._cut(folder, name, index)
        self._verify_tail(folder, session, name, index)
        granted = Standing(standing.epoch + 1, self._token.text)
        self._claims.put(folder, session, granted)
        self._held.add(session)
        self._granted = True
        seq, digest = index.tail(session)
        return Granted(granted.epoch, self._token.text, Tail(seq, digest, cut_bytes))

    def _fork(self, folder: int, order: Fork) -> None:
        session, record = order
        parent, name = parent_of(record) or "", self.layout.file_of(session)
        located = self._caught_up(folder, parent).sessions.get(parent) if parent else None
        before = self._line(folder, parent, record.seq - 1) if located is not None else ""
        index = self._caught_up(folder, session)
        index.check(name)
        check_fork(record, before or None, taken=index.tail(session)[0] > 0)
        assert located is not None
        later = [self._line(folder, parent, seq) for seq in located.declared if seq >= record.seq]
        check_declared(record, later, lambda seq: self._line(folder, parent, seq))
        pending = _Pending(index)
        pending.lines.append(record.line.encode("ascii") + b"\n")
        self._write(folder, name, pending)
        self._let_go(session)

    def _forks(self, folder: int, session: str) -> dict[str, int]:
        if self.layout.single:
            return forks_in_index(self._caught_up(folder, session), session)
        return forks_in_files(folder, self.layout.files(folder), session)

    def _line(self, folder: int, session: str, seq: int) -> str:
        """Return the text of a record, nothing if it is not among those that the session holds itself."""
        located = self._caught_up(folder, session).sessions.get(session)
        held = located is not None and located.base < seq <= located.seq
        return self._stored(folder, session, seq - 1)[0].text if held else ""

    def _stored(self, folder: int, session: str, after: int) -> Sequence[StoredLine]:
        """Return the record that follows `after`, if the session holds it itself."""
        fd = os.open(self.layout.file_of(session), os.O_RDONLY | OPEN_FLAGS, dir_fd=folder)
        try:
            return self._caught_up(folder, session).page(fd, session, after, 1) or ()
        finally:
            os.close(fd)

    def _caught_up(self, folder: int, session: str) -> Index:
        name = self.layout.file_of(session)
        index = self._indexes.setdefault(name, self.layout.index_for(session))
        self._look(folder, session, index, known=True)
        return index

    def _cut(self, folder: int, name: str, index: Index) -> int:
        cut_bytes = index.size - index.end
        if cut_bytes:
            fd = os.open(name, os.O_WRONLY | OPEN_FLAGS, dir_fd=folder)
            try:
                os.ftruncate(fd, index.end)
                os.fsync(fd)
            finally:
                os.close(fd)
            index.size = index.end
        return cut_bytes

    def _verify_tail(self, folder: int, session: str, name: str, index: Index) -> None:
        seq, _ = index.tail(session)
        if seq == 0:
            return
        lines = self._stored(folder, session, seq - 1)
        if not lines:
            raise JournalCorrupt(name, index.end, "the file changes while it is read")
        decode(lines[0].text, name, lines[0].offset)

    def _rewrite(self, folder: int, order: Rewrite) -> None:
        session, name = order.session, self.layout.file_of(order.session)
        if self._claims.standing(session) != (order.epoch, order.owner):
            self._let_go(session)
            raise StaleWriter(session, order.epoch)
        index = self._caught_up(folder, session)
        index.check(name)
        check_unshared(session, self._forks(folder, session), order.first, order.lines)
        checkpoints.drop(self.layout.checkpoint_of(session))
        replace_lines(folder, name, index, order)
        index.clear()

    def _release(self, folder: int, order: Release) -> None:
        session = order.session
        if self._claims.standing(session) == (order.epoch, order.owner):
            self._claims.put(folder, session, Standing(order.epoch))
            self._let_go(session)

    def _let_go(self, session: str) -> None:
        self._held.discard(session)
        if not self.layout.single:
            self._indexes.pop(self.layout.file_of(session), None)

    def _forget(self, jobs: Sequence[Job]) -> None:
        """Give up what is known about sessions whose order failed: it is read again, and they may be claimed again."""
        for job in jobs:
            self._held.discard(job.order.session)
            self._indexes.pop(self.layout.file_of(job.order.session), None)

    def close(self) -> None:
        """Release everything that was claimed here, and close the files.

        Raises:
            JournalUnavailable: the release could not be stored; within this process the sessions are free all the same.
        """
        token, self._token = self._token, Token()
        token.retire()
        self._held.clear()
        self._indexes.clear()
        folder, self._folder = self._folder, None
        if folder is None:
            return
        granted, self._granted = self._granted, False
        try:
            if granted:
                self._claims.lock(folder)
                self._claims.free(token.text)
        except OSError as error:
            raise translate(self.place, error) from error
        finally:
            self._claims.close()
            os.close(folder)


def translate(path: str, error: OSError) -> JournalError:
    """Return the engine's error for one of the operating system."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            advice = "the disk, the quota or the file size limit is full: free some space"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            advice = "give this user write permission on the file and on its folder"
        case errno.ELOOP:
            advice = "the file is a symbolic link, which a journal does not follow: name its target"
        case errno.EIO:
            advice = "the disk reported an error: check its health"
        case _:
            advice = "name a folder, or a file ending in .jsonl in an existing folder, that this user may write to"
    return unavailable(path, error, advice)
