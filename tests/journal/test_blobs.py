"""Stores of large values: the same bytes come back, or an error says why not; nothing half-written, nothing outside."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import anyio
import pytest
from hypothesis import given, strategies as st

from engine.errors import JournalCorrupt, JournalUnavailable, UsageError
from engine.journal import JsonlJournal, MemoryJournal, SqliteJournal
from engine.journal.blobs import FolderBlobs, MemoryBlobs, blobs_beside

pytestmark = pytest.mark.anyio

Store: TypeAlias = MemoryBlobs | FolderBlobs
DATA = bytes(range(256)) * 20
NAME = sha256(DATA).hexdigest()


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryBlobs() if request.param == "memory" else FolderBlobs(tmp_path / "blobs")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


async def test_what_was_put_is_got(store: Store) -> None:
    """A value comes back byte by byte under its SHA-256, the empty one too."""
    for data in (DATA, b"", b"\0", DATA * 300):
        name = await store.put(data)
        assert name == sha256(data).hexdigest()
        assert await store.get(name) == data


async def test_put_is_idempotent(store: Store) -> None:
    """Putting the same value again changes nothing."""
    assert await store.put(DATA) == await store.put(DATA)
    assert await store.get(NAME) == DATA


async def test_many_puts_of_one_value_at_once(store: Store) -> None:
    """Tasks that put the same and other values side by side do not disturb each other."""
    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(store.put, DATA + bytes([number % 3]))
    for number in range(3):
        data = DATA + bytes([number])
        assert await store.get(sha256(data).hexdigest()) == data


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 10), (5, 0), (5000, 500), (5120, 1), (9999, 5), (0, 10**9), (1, sys.maxsize)]
)
async def test_range_is_the_slice(store: Store, offset: int, length: int) -> None:
    """A range read is what slicing the value gives, also beyond its end."""
    await store.put(DATA)
    assert await store.read(NAME, offset, length) == DATA[offset : offset + length]


async def test_range_over_several_chunks(folder: Path) -> None:
    """A range that crosses the pieces in which a file is read is put together rightly."""
    data = os.urandom(1000) * 2500
    store = FolderBlobs(folder)
    name = await store.put(data)
    for offset, length in ((2**20 - 7, 20), (2**20, 2**20), (2**20 + 1, 3), (0, 2**21 + 1)):
        assert await store.read(name, offset, length) == data[offset : offset + length]


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, -1)])
async def test_range_that_is_none_is_refused(store: Store, offset: int, length: int) -> None:
    """Negative numbers are refused, never counted from the end."""
    await store.put(DATA)
    with pytest.raises(UsageError, match="0 or more"):
        await store.read(NAME, offset, length)


async def test_unknown_value(store: Store) -> None:
    """What was never put is said to be missing, also before the folder exists."""
    with pytest.raises(JournalUnavailable, match="never put"):
        await store.get("0" * 64)


@pytest.mark.parametrize(
    "name",
    ["", "..", "../" * 10 + "etc/passwd", "/etc/passwd", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n",
     "a" * 63 + "\0", "a" * 32 + "/" + "a" * 31, "٠" * 64, "incoming", "．" * 64, "\\" * 64],
)  # fmt: skip
async def test_f15_hostile_names_are_refused(store: Store, name: str) -> None:
    """A name that is not 64 hexadecimal digits is refused before anything is opened."""
    await store.put(DATA)
    with pytest.raises(UsageError, match="names no stored value"):
        await store.get(name)
    with pytest.raises(UsageError, match="names no stored value"):
        await store.read(name, 0, 1)


# --- in memory --------------------------------------------------------------------------------------------------------


@given(puts=st.lists(st.binary(max_size=12), max_size=30), bound=st.integers(12, 40))
def test_i10_memory_is_bounded_and_keeps_the_newest(puts: list[bytes], bound: int) -> None:
    """Never more bytes than the bound; what is there is intact; the value used last is always there."""

    async def story() -> None:
        store = MemoryBlobs(bound)
        for data in puts:
            name = await store.put(data)
            assert await store.get(name) == data
            assert store.held_bytes <= bound

    anyio.run(story)


async def test_memory_makes_room_by_use() -> None:
    """The value that was used longest ago goes first: reading one keeps it."""
    store = MemoryBlobs(10)
    first, second = await store.put(b"first"), await store.put(b"other")
    await store.get(first)
    await store.put(b"third")
    assert await store.get(first) == b"first"
    with pytest.raises(JournalUnavailable, match="had to make room"):
        await store.get(second)


async def test_memory_refuses_what_cannot_fit() -> None:
    """A value larger than the bound is refused and drives nothing out."""
    store = MemoryBlobs(10)
    name = await store.put(b"held")
    with pytest.raises(JournalUnavailable, match="larger max_bytes"):
        await store.put(b"x" * 11)
    assert await store.get(name) == b"held"


def test_memory_bound_must_be_positive() -> None:
    """A store that could hold nothing is refused when it is made."""
    with pytest.raises(UsageError, match="at least 1"):
        MemoryBlobs(0)


# --- in a folder ------------------------------------------------------------------------------------------------------


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


async def test_folder_and_files_are_the_owners_alone(folder: Path) -> None:
    """The folder has mode 0700, its files 0600, whatever the umask; nothing but the value is there."""
    before = os.umask(0)
    try:
        await FolderBlobs(folder).put(DATA)
    finally:
        os.umask(before)
    assert modes(folder) == {"blobs": 0o700, NAME: 0o600}


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"x" + DATA[1:]),
        lambda path: path.write_bytes(DATA[:-1]),
        lambda path: path.write_bytes(DATA + b"\0"),
        lambda path: path.write_bytes(b""),
    ],
    ids=["flipped", "cut", "longer", "empty"],
)
async def test_damage_is_found_and_the_next_put_mends_it(folder: Path, damage: Callable[[Path], object]) -> None:
    """A changed file is reported as damaged, for any range of it; putting the value again makes it sound."""
    store = FolderBlobs(folder)
    await store.put(DATA)
    damage(folder / NAME)
    for offset in (0, 100):
        with pytest.raises(JournalCorrupt, match="not those it is named by"):
            await store.read(NAME, offset, 5)
    await store.put(DATA)
    assert await store.get(NAME) == DATA


async def test_f15_symbolic_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """A link in place of a value is damage, whatever it leads to; a put replaces the link and not its target."""
    store = FolderBlobs(folder)
    await store.put(b"other")
    target = tmp_path / "secret"
    target.write_bytes(DATA)
    (folder / NAME).symlink_to(target)
    with pytest.raises(JournalCorrupt):
        await store.get(NAME)
    (folder / "incoming").symlink_to(target)
    await store.put(DATA)
    assert not (folder / NAME).is_symlink()
    assert target.read_bytes() == DATA
    assert await store.get(NAME) == DATA


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
async def test_what_is_no_file_is_damage(folder: Path, make: Callable[[Path], None]) -> None:
    """A pipe or a folder with the name of a value is neither read nor waited for."""
    store = FolderBlobs(folder)
    await store.put(b"other")
    make(folder / NAME)
    with pytest.raises(JournalCorrupt):
        await store.get(NAME)


async def test_folder_that_cannot_be_used(tmp_path: Path) -> None:
    """A path that is a file, or lies in no folder, is reported with the path and what to do."""
    (tmp_path / "file").write_text("somebody else's")
    for path in (tmp_path / "file", tmp_path / "no" / "such"):
        with pytest.raises(JournalUnavailable, match="cannot be used"):
            await FolderBlobs(path).put(DATA)
    with pytest.raises(JournalUnavailable, match="cannot be used"):
        await FolderBlobs(tmp_path / "file").get(NAME)
    assert (tmp_path / "file").read_text() == "somebody else's"


async def test_put_is_finished_when_it_was_cancelled(folder: Path) -> None:
    """A put that has begun ends with a whole file, also when its caller gives up."""
    data = DATA * 500
    store = FolderBlobs(folder)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(store.put, data)
            await anyio.lowlevel.checkpoint()
            scope.cancel()
    assert names_in(folder) <= {sha256(data).hexdigest()}
    await store.put(data)
    assert await store.get(sha256(data).hexdigest()) == data


async def test_f4_loop_goes_on_while_a_put_waits(folder: Path) -> None:
    """While another writer holds the folder, a put waits in its thread and the event loop does other work."""
    store = FolderBlobs(folder)
    await store.put(b"other")
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    put: list[str] = []

    async def store_it() -> None:
        put.append(await store.put(DATA))

    async with anyio.create_task_group() as group:
        group.start_soon(store_it)
        assert await store.get(sha256(b"other").hexdigest()) == b"other"  # readers wait for nobody
        assert put == []
        assert NAME not in names_in(folder)
        os.close(held)
    assert put == [NAME]


def test_a_store_beside_each_journal(tmp_path: Path) -> None:
    """A journal in a file has its values in a folder beside it, a journal in memory has them in memory."""
    beside = blobs_beside(SqliteJournal(tmp_path / "runs.db"))
    assert isinstance(beside, FolderBlobs)
    assert beside.path == str(tmp_path / "runs.db.blobs")
    beside = blobs_beside(JsonlJournal(tmp_path / "runs"))
    assert isinstance(beside, FolderBlobs)
    assert beside.path == str(tmp_path / "runs.blobs")
    assert isinstance(blobs_beside(MemoryJournal()), MemoryBlobs)
    assert list(tmp_path.iterdir()) == []


# --- processes that die -----------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, threading
from collections.abc import Callable
import anyio
from engine.errors import JournalUnavailable
from engine.journal.blobs import FolderBlobs

root, mode = sys.argv[1], sys.argv[2]
DATA = bytes(range(256)) * 20

def put(step: int, folder: str) -> None:
    # Counts every call that blobs.py makes of the system, its start and its end; dies at the chosen one.
    count = 0
    def profile(frame, event, arg):
        nonlocal count
        if event not in ("c_call", "c_return") or getattr(arg, "__module__", None) not in ("posix", "fcntl"):
            return
        count += 1
        if mode == "trace" and event == "c_call":
            os.write(1, (arg.__name__ + "\\n").encode())
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
    threading.setprofile(profile)
    anyio.run(FolderBlobs(folder).put, DATA)

if mode == "trace":
    put(0, root)
elif mode == "kill":
    for step in range(1, 1000):
        child = os.fork()
        if child == 0:
            put(step, f"{root}/{step}")
            os._exit(0)
        if os.waitpid(child, 0)[1] == 0:
            print(step - 1)
            break
elif mode == "full":
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    store = FolderBlobs(root)
    anyio.run(store.put, b"small")
    try:
        anyio.run(store.put, DATA)
    except JournalUnavailable as error:
        print(error)
    assert len(os.listdir(root)) == 1, os.listdir(root)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert anyio.run(store.get, anyio.run(store.put, DATA)) == DATA
"""


def run_child(root: Path, mode: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(root), mode], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


async def test_f12_full_disk_is_reported_and_leaves_nothing(folder: Path) -> None:
    """A write that the system cuts short says that space is missing, leaves no file behind, and works once there is."""
    assert "free some space" in run_child(folder, "full")


def test_order_of_flushes(folder: Path) -> None:
    """The bytes are flushed before the file gets its name, and the name is flushed before `put` returns."""
    calls = [name for name in run_child(folder, "trace").split() if name in ("write", "fsync", "rename", "unlink")]
    assert calls == ["fsync", "unlink", "write", "fsync", "rename", "fsync"]


async def test_killed_at_every_step_nothing_is_half_written(tmp_path: Path) -> None:
    """Killed before and after every system call of a put: what bears the value's name is whole, nothing else but one
    temporary file is there, and the next put succeeds and cleans up.
    """
    steps = int(run_child(tmp_path, "kill"))
    assert steps >= 20
    whole = 0
    for step in range(1, steps + 1):
        folder = tmp_path / str(step)
        names = names_in(folder)
        assert names <= {NAME, "incoming"}
        store = FolderBlobs(folder)
        if NAME in names:
            whole += 1
            assert await store.get(NAME) == DATA
        await store.put(DATA)
        assert await store.get(NAME) == DATA
        await store.put(b"another")
        assert names_in(folder) == {NAME, sha256(b"another").hexdigest()}
    assert 0 < whole < steps
