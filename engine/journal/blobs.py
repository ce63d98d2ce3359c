"""Stores of large values beside a journal, each value named by the SHA-256 of its bytes.

A name says what the bytes must be, so the same value is stored once, damage is found on every read, and a name can
lead nowhere else. `MemoryBlobs` forgets what was used longest ago; `FolderBlobs` survives kills and power cuts: a value
is written to one temporary file, flushed, renamed and flushed again, under a lock of the folder. May import anyio,
errors, ports and its neighbours. Must never do I/O on an event loop.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Protocol, runtime_checkable

from anyio import to_thread

from ..errors import JournalCorrupt, JournalUnavailable, UsageError
from ..ports import Journal
from ._claims import OPEN_FLAGS, write_all

if sys.platform != "win32":
    import fcntl

MAX_MEMORY_BYTES = 64 * 2**20
"""What a store in memory keeps if nothing else is said."""

_NAME = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = "incoming"
_CHUNK_BYTES = 2**20
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | OPEN_FLAGS if sys.platform != "win32" else 0


@runtime_checkable
class _Located(Protocol):
    @property
    def path(self) -> str: ...


@runtime_checkable
class _Holding(Protocol):
    @property
    def blobs(self) -> MemoryBlobs: ...


def blobs_beside(journal: Journal) -> MemoryBlobs | FolderBlobs:
    """Return the store that belongs to a journal: its own, the folder `<path>.blobs` beside its file, else a new one in
    memory.
    """
    if isinstance(journal, _Holding):
        return journal.blobs
    if sys.platform != "win32" and isinstance(journal, _Located):
        return FolderBlobs(f"{journal.path}.blobs")
    return MemoryBlobs()


class MemoryBlobs:
    """Keep values in this object, up to a number of bytes; those used longest ago make room for new ones.

    Args:
        max_bytes: what all values together may have, at least 1.
    """

    def __init__(self, max_bytes: int = MAX_MEMORY_BYTES) -> None:
        if max_bytes < 1:
            raise UsageError(f"max_bytes must be at least 1, not {max_bytes}")
        self._max_bytes = max_bytes
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    @property
    def held_bytes(self) -> int:
        """How many bytes the values have that are held now."""
        return self._bytes

    async def put(self, data: bytes) -> str:
        """Keep a value and return its name.

        Raises:
            JournalUnavailable: it is larger than everything that may be held; nothing has changed.
        """
        if len(data) > self._max_bytes:
            raise JournalUnavailable(
                f"a value of {len(data)} bytes does not fit into a store of {self._max_bytes}: give it a larger "
                "max_bytes, or use a journal in a file"
            )
        name = sha256(data).hexdigest()
        if name not in self._held:
            self._held[name] = bytes(data)
            self._bytes += len(data)
        self._held.move_to_end(name)
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._held.popitem(last=False)[1])
        return name

    async def get(self, name: str) -> bytes:
        """Return a value.

        Raises:
            UsageError: this is no name of a value.
            JournalUnavailable: it was never kept, or had to make room.
        """
        try:
            data = self._held[_check_name(name)]
        except KeyError:
            raise _missing(name) from None
        self._held.move_to_end(name)
        return data

    async def read(self, name: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes of a value from `offset` on; fewer at its end.

        Raises:
            UsageError, JournalUnavailable: as in `get`; or a number is negative.
        """
        _check_range(offset, length)
        return (await self.get(name))[offset : offset + length]

    async def names(self) -> Sequence[str]:
        """Return the names of everything that is held, sorted."""
        return sorted(self._held)

    async def remove(self, name: str) -> None:
        """Forget a value; nothing happens where it is not there."""
        self._bytes -= len(self._held.pop(_check_name(name), b""))


class FolderBlobs:
    """Keep values as files in a folder, which is created (0700) at the first `put`. Several processes may use it.

    A file is named by its value's hash alone and has mode 0600. Whatever ends a `put` early, no file with such a name
    is ever half written; all that can stay behind is one temporary file, which the next `put` replaces.

    Args:
        path: the folder; the folder above it must exist.

    Raises:
        JournalUnavailable: this system has no `flock`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if sys.platform == "win32":
            raise JournalUnavailable("values in a folder need a POSIX system; use MemoryBlobs here")
        self._path = Path(path).absolute()

    @property
    def path(self) -> str:
        """The absolute path of the folder."""
        return str(self._path)

    async def put(self, data: bytes) -> str:
        """Store a value durably and return its name. A cancellation waits until it is stored.

        Raises:
            JournalUnavailable: it could not be stored; everything stored before is intact.
        """
        return await to_thread.run_sync(self._put, data)

    async def get(self, name: str) -> bytes:
        """Return a value.

        Raises:
            UsageError: this is no name of a value.
            JournalUnavailable: it was never stored, or cannot be read.
            JournalCorrupt: its file is damaged.
        """
        return await self.read(name, 0, sys.maxsize)

    async def read(self, name: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes of a value from `offset` on; fewer at its end. The whole value is verified.

        Raises:
            UsageError, JournalUnavailable, JournalCorrupt: as in `get`; or a number is negative.
        """
        _check_name(name)
        _check_range(offset, length)
        return await to_thread.run_sync(partial(self._read, name, offset, length))

    async def names(self) -> Sequence[str]:
        """Return the names of everything that is stored, sorted.

        Raises:
            JournalUnavailable: the folder cannot be read.
        """
        return await to_thread.run_sync(self._names)

    async def remove(self, name: str) -> None:
        """Remove a value durably, and what a killed `put` left behind; nothing happens where it is not there.

        Raises:
            JournalUnavailable: it could not be removed.
        """
        await to_thread.run_sync(self._remove, _check_name(name))

    def _names(self) -> list[str]:
        with self._translated():
            try:
                with self._opened(create=False) as folder:
                    return sorted(name for name in os.listdir(folder) if _NAME.fullmatch(name))  # noqa: PTH208 - by descriptor
            except FileNotFoundError:
                return []

    def _remove(self, name: str) -> None:
        with self._translated():
            try:
                with self._opened(create=False) as folder:
                    fcntl.flock(folder, fcntl.LOCK_EX)
                    for one in (name, _TEMPORARY):
                        with suppress(FileNotFoundError):
                            os.unlink(one, dir_fd=folder)
                    os.fsync(folder)
            except FileNotFoundError:
                return

    def _put(self, data: bytes) -> str:
        name = sha256(data).hexdigest()
        with self._translated(), self._opened(create=True) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)  # given back with the descriptor, or by the kernel
            if not self._holds(folder, name):
                _write(folder, data)
                os.rename(_TEMPORARY, name, src_dir_fd=folder, dst_dir_fd=folder)
            # Also where the file was there: its writer may have been killed between renaming and flushing.
            os.fsync(folder)
        return name

    def _read(self, name: str, offset: int, length: int) -> bytes:
        with self._translated():
            try:
                with self._opened(create=False) as folder:
                    piece = _verified(folder, name, offset, length)
            except FileNotFoundError:
                raise _missing(name) from None
        if piece is None:
            raise JournalCorrupt(str(self._path / name), 0, "its bytes are not those it is named by")
        return piece

    def _holds(self, folder: int, name: str) -> bool:
        """Whether the value is there and sound; a damaged file is written anew."""
        try:
            return _verified(folder, name, 0, 0) is not None
        except FileNotFoundError:
            return False

    @contextmanager
    def _opened(self, create: bool) -> Generator[int, None, None]:
        if create and not self._path.exists():
            self._path.mkdir(mode=0o700, exist_ok=True)
            with _descriptor(os.open(self._path.parent, _FOLDER_FLAGS)) as parent:
                os.fsync(parent)
        with _descriptor(os.open(self._path, _FOLDER_FLAGS)) as folder:
            yield folder

    @contextmanager
    def _translated(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            advice = "free some space" if full else "this user must be able to read and write it"
            raise JournalUnavailable(f"the folder {self._path} cannot be used ({error}): {advice}") from error


def _write(folder: int, data: bytes) -> None:
    """Write the temporary file durably. What an earlier process left of its own is replaced; the lock is held."""
    with suppress(FileNotFoundError):
        os.unlink(_TEMPORARY, dir_fd=folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN_FLAGS
    with _descriptor(os.open(_TEMPORARY, flags, 0o600, dir_fd=folder)) as file:
        try:
            write_all(file, data)
            os.fsync(file)
        except OSError:
            os.unlink(_TEMPORARY, dir_fd=folder)  # a full disk gets its space back
            raise


def _verified(folder: int, name: str, offset: int, length: int) -> bytes | None:
    """Return a piece of a value whose every byte was hashed on the way; only the piece is held in memory.

    Returns:
        The piece; None if the bytes are not those that the name promises, or what has the name is no regular file.

    Raises:
        FileNotFoundError: there is no such value.
    """
    try:
        file = os.open(name, os.O_RDONLY | os.O_NONBLOCK | OPEN_FLAGS, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a symbolic link, which nobody here made
            return None
        raise
    digest, piece, position = sha256(), bytearray(), 0
    with _descriptor(file):
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return None
        while chunk := os.read(file, _CHUNK_BYTES):
            digest.update(chunk)
            piece += chunk[max(0, offset - position) : max(0, offset + length - position)]
            position += len(chunk)
    return bytes(piece) if digest.hexdigest() == name else None


@contextmanager
def _descriptor(number: int) -> Generator[int, None, None]:
    try:
        yield number
    finally:
        os.close(number)


def _check_name(name: str) -> str:
    """Return the name of a value if it is one.

    Raises:
        UsageError: it is not the hexadecimal SHA-256 of something.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"{ascii(name)[:80]} names no stored value; a name is 64 digits of 0-9a-f, as `put` gave it")
    return name


def _check_range(offset: int, length: int) -> None:
    """Refuse a range that is none.

    Raises:
        UsageError: a number is negative.
    """
    if offset < 0 or length < 0:
        raise UsageError(f"a range from {offset} of {length} bytes is none: both must be 0 or more")


def _missing(name: str) -> JournalUnavailable:
    """Return the error for a value that is not there."""
    return JournalUnavailable(f"no value {name} is stored here: it was never put, or had to make room for others")
