"""The log of claims beside JSONL files: who may append to which session, under which epoch, and the lock around it all.

One line for each change, appended under an exclusive `flock` of the log itself, which the kernel gives back when a
process is killed. Whoever holds the lock has read every line before. A log that has grown past use is replaced by a
short one; epochs survive that, so they never decrease. May import errors and the codec. Must never be used on an event
loop.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NamedTuple

from ..errors import JournalCorrupt
from .canonical import canonical

if sys.platform != "win32":
    import fcntl

OPEN_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW if sys.platform != "win32" else 0
"""Every file is opened so: not inherited by child processes, and never through a symbolic link."""

_SPARE_LINES = 100
"""A log is rewritten when it has this many lines more than twice its sessions."""


class Standing(NamedTuple):
    """Where a session's claims stand: the greatest epoch so far, and the stored name of the holder, if any."""

    epoch: int = 0
    owner: str | None = None


class Claims:
    """The log of claims of one journal, seen from one process. `lock` before anything else, `unlock` after."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._fd: int | None = None
        self._end = 0
        self._lines = 0
        self._standings: dict[str, Standing] = {}

    def lock(self, folder: int) -> None:
        """Wait for the lock and read what others wrote. Blocks while another process appends.

        Raises:
            OSError: the log cannot be opened or read; the lock is not held.
            JournalCorrupt: a line of it is damaged; the lock is not held.
        """
        try:
            while not self._lock_current(folder):  # replaced meanwhile; each round waits for the lock of a newer log
                self.close()
            self._catch_up()
        except BaseException:
            self.close()
            raise

    def _lock_current(self, folder: int) -> bool:
        if self._fd is None:
            self._fd = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_APPEND | OPEN_FLAGS, 0o600, dir_fd=folder)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            named = os.stat(self._name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._fd))

    def unlock(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the lock back and forget everything read."""
        fd, self._fd = self._fd, None
        self._end = self._lines = 0
        self._standings.clear()
        if fd is not None:
            os.close(fd)

    @property
    def used(self) -> bool:
        """Whether anything was ever claimed here."""
        return bool(self._standings)

    def standing(self, session: str) -> Standing:
        """Return where the claims of a session stand."""
        return self._standings.get(session, Standing())

    def put(self, folder: int, session: str, standing: Standing) -> None:
        """Store where the claims of a session stand, durably.

        Raises:
            OSError: it could not be written; nothing has changed.
        """
        fresh = not self.used
        self._write([(session, standing)])
        if fresh:
            os.fsync(folder)
        if self._lines > _SPARE_LINES + 2 * len(self._standings):
            self._compact(folder)

    def free(self, owner: str) -> None:
        """Store that everything this holder has is free."""
        mine = [(name, Standing(held.epoch)) for name, held in self._standings.items() if held.owner == owner]
        if mine:
            self._write(mine)

    def _write(self, changes: list[tuple[str, Standing]]) -> None:
        assert self._fd is not None, "lock() comes first"
        try:
            write_all(self._fd, _encode(changes))
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._end = os.fstat(self._fd).st_size
        self._lines += len(changes)
        self._standings.update(changes)

    def _catch_up(self) -> None:
        assert self._fd is not None, "lock() comes first"
        size = os.fstat(self._fd).st_size
        if size == self._end:
            return
        data = os.pread(self._fd, size - self._end, self._end)
        whole = data[: data.rfind(b"\n") + 1].rstrip(b"\0\n")
        for line in whole.split(b"\n") if whole else ():
            session, standing = self._decode(line)
            self._standings[session] = standing
            self._end += len(line) + 1
            self._lines += 1
        if self._end != size:  # a claim that was cut by a crash: it was given to nobody
            os.ftruncate(self._fd, self._end)

    def _decode(self, line: bytes) -> tuple[str, Standing]:
        try:
            session, epoch, owner = json.loads(line)
        except (ValueError, TypeError) as error:
            raise JournalCorrupt(self._name, self._end, f"a claim is not readable ({error})") from error
        if not isinstance(session, str) or not isinstance(epoch, int) or not isinstance(owner, str | None):
            raise JournalCorrupt(self._name, self._end, "a claim does not hold a session, an epoch and an owner")
        return session, Standing(epoch, owner)

    def _compact(self, folder: int) -> None:
        spare = self._name + ".new"
        fd = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | OPEN_FLAGS, 0o600, dir_fd=folder)
        try:
            write_all(fd, _encode(list(self._standings.items())))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(spare, self._name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)


def _encode(changes: list[tuple[str, Standing]]) -> bytes:
    return b"".join(canonical([name, *standing]).encode("ascii") + b"\n" for name, standing in changes)


def write_all(fd: int, data: bytes) -> None:
    """Write everything, in as many pieces as the system takes.

    Raises:
        OSError: it did not take all; some of it may stand in the file.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
