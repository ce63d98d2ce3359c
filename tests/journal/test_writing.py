"""The writing thread: commits are shared, waiters of every loop are woken, cancellation and closing lose nothing."""

from __future__ import annotations

import gc
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from anyio.lowlevel import checkpoint

from engine.errors import JournalUnavailable, StaleWriter
from engine.journal import JsonlJournal, MemoryJournal, SqliteJournal
from engine.journal._orders import Claim, Order
from engine.journal._thread import GROUP_SIZE, Job, WritingThread
from engine.ports import Writer
from engine.testing.records import chain, read_all

from .stores import DURABLE, factory_of, path_of


async def append_at_once(journal: SqliteJournal | JsonlJournal, sessions: int) -> int:
    """Append one record to each of many sessions at the same time; return how many commits that took."""
    writers = [await journal.claim(f"s{number}") for number in range(sessions)]
    before = journal.commits
    async with anyio.create_task_group() as tasks:
        for number, writer in enumerate(writers):
            tasks.start_soon(writer.append, chain(f"s{number}", 1))
    return journal.commits - before


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["sqlite", "jsonl-file"])
async def test_appends_at_once_share_commits(kind: str, tmp_path: Path) -> None:
    """Of 200 appends that wait together many become durable with one commit."""
    path = path_of(kind, tmp_path)
    journal = SqliteJournal(path) if kind == "sqlite" else JsonlJournal(path)
    commits = await append_at_once(journal, 200)
    stored = len(await journal.sessions())
    await journal.aclose()
    assert stored == 200
    assert 1 <= commits < 200


@pytest.mark.anyio
async def test_appends_to_a_folder_are_flushed_file_by_file(tmp_path: Path) -> None:
    """A folder flushes one file for each session, and appends to one session that wait together once."""
    journal = JsonlJournal(path_of("jsonl-folder", tmp_path))
    commits = await append_at_once(journal, 20)
    await journal.aclose()
    assert commits == 20


@pytest.mark.anyio
async def test_memory_append_does_not_yield() -> None:
    """Appending in memory never gives the event loop to another task."""
    writer = await MemoryJournal().claim("s")
    coroutine = writer.append(chain("s", 3))
    with pytest.raises(StopIteration):
        coroutine.send(None)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", DURABLE)
async def test_reader_is_not_blocked_by_a_writer(kind: str, tmp_path: Path) -> None:
    """While a write transaction is open and waits, another task reads what was stored before."""
    journal = factory_of(kind, tmp_path)()
    writer = await journal.claim("s")
    await writer.append(chain("s", 2))
    release = lock_out(kind, path_of(kind, tmp_path))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(writer.append, chain("s", 3)[2:])
        await checkpoint()
        seen = len(await journal.read("s"))
        release()
    after = len(await journal.read("s"))
    await journal.aclose()
    assert (seen, after) == (2, 3)


def lock_out(kind: str, path: Path) -> Callable[[], None]:
    """Hold the lock that writers need, as another process that writes would; return what gives it back."""
    if kind == "sqlite":
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("BEGIN IMMEDIATE")
        return connection.close
    import fcntl

    claims = path.with_name("runs.jsonl.claims") if kind == "jsonl-file" else path / "sessions.claims"
    lock = claims.open("rb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock.close


@pytest.mark.anyio
@pytest.mark.parametrize("kind", DURABLE)
async def test_cancelled_append_has_happened_when_control_returns(kind: str, tmp_path: Path) -> None:
    """A task that is cancelled while it waits leaves with its records durable: the outcome is never open."""
    journal = factory_of(kind, tmp_path)()
    writer = await journal.claim("s")
    release = lock_out(kind, path_of(kind, tmp_path))
    scope = anyio.CancelScope()
    ended: list[bool] = []

    async def write() -> None:
        with scope:
            try:
                await writer.append(chain("s", 2))
            finally:
                ended.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        for _ in range(5):
            await checkpoint()
        too_early = list(ended)
        release()
    seen = len(await journal.read("s"))
    await journal.aclose()
    assert (too_early, ended, seen) == ([], [True], 2)


def test_asyncio_task_cancelled_twice_still_waits(tmp_path: Path) -> None:
    """A plain asyncio task that is cancelled again and again leaves only when the outcome is known."""
    import asyncio

    async def main() -> int:
        journal = factory_of("sqlite", tmp_path)()
        writer = await journal.claim("s")
        release = lock_out("sqlite", path_of("sqlite", tmp_path))
        task = asyncio.ensure_future(writer.append(chain("s", 2)))
        for _ in range(3):
            await asyncio.sleep(0)
            task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        release()
        with pytest.raises(asyncio.CancelledError):
            await task
        seen = len(await journal.read("s"))
        await journal.aclose()
        return seen

    assert asyncio.run(main()) == 2


@pytest.mark.parametrize("kind", DURABLE)
def test_one_journal_serves_many_event_loops(kind: str, tmp_path: Path) -> None:
    """Loops of both kinds in threads of their own append through one journal at the same time."""
    journal = factory_of(kind, tmp_path)()

    async def write(session: str) -> None:
        writer = await journal.claim(session)
        for record in chain(session, 20):
            await writer.append([record])

    threads = [
        threading.Thread(target=anyio.run, args=(write, f"s{number}"), kwargs={"backend": backend})
        for number, backend in enumerate(("asyncio", "trio") * 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with start_blocking_portal() as portal:
        histories = [portal.call(read_all, journal, f"s{number}") for number in range(4)]
        portal.call(journal.aclose)
    assert [len(history) for history in histories] == [20] * 4


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_loop_that_ended_is_not_waited_for(backend: str, tmp_path: Path) -> None:
    """Orders whose event loop is gone are carried out, and the thread goes on serving others."""
    journal = SqliteJournal(tmp_path / "runs.db")
    writer = anyio.run(journal.claim, "s", backend=backend)
    release = lock_out("sqlite", tmp_path / "runs.db")
    coroutine = writer.append(chain("s", 2))

    async def begin() -> None:
        coroutine.send(None)

    if backend == "asyncio":
        anyio.run(begin, backend=backend)
        coroutine.close()
    release()

    async def finish() -> int:
        await writer.append(chain("s", 3)[2:] if backend == "asyncio" else chain("s", 3))
        seen = len(await journal.read("s"))
        await journal.aclose()
        return seen

    if backend == "trio":
        coroutine.close()
    assert anyio.run(finish, backend=backend) == 3


def writing_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("journal ")]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", DURABLE)
async def test_thread_ends_with_aclose(kind: str, tmp_path: Path) -> None:
    """A closed journal leaves no thread behind, a used one has exactly one."""
    before = set(writing_threads())
    journal = factory_of(kind, tmp_path)()
    await journal.claim("s")
    own = [thread for thread in writing_threads() if thread not in before]
    await journal.aclose()
    for thread in own:
        await anyio.to_thread.run_sync(thread.join, 30)
    assert len(own) == 1
    assert not own[0].is_alive()


@pytest.mark.parametrize("kind", DURABLE)
def test_thread_ends_when_the_journal_is_dropped(kind: str, tmp_path: Path) -> None:
    """A journal that nobody holds any more ends its thread and frees its sessions; a writer alone keeps it going."""
    before = set(writing_threads())
    writers: list[Writer] = [anyio.run(factory_of(kind, tmp_path)().claim, "s")]
    gc.collect()
    anyio.run(writers[0].append, chain("s", 1))
    (own,) = [thread for thread in writing_threads() if thread not in before]
    writers.clear()
    gc.collect()
    own.join(30)
    writers.append(anyio.run(factory_of(kind, tmp_path)().claim, "s"))
    assert not own.is_alive()
    assert writers[0].tail.seq == 1


class CountingStore:
    """Notes the size of every group; fails when told to."""

    place = "a store"

    def __init__(self, error: Exception | None = None) -> None:
        self.groups: list[int] = []
        self.error = error
        self.gate = threading.Event()

    def perform(self, jobs: Sequence[Job]) -> None:
        self.gate.wait(30)
        self.groups.append(len(jobs))
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        if self.error is not None:
            raise self.error


async def order_many(thread: WritingThread, store: CountingStore, count: int) -> list[BaseException]:
    errors: list[BaseException] = []

    async def submit(order: Order) -> None:
        try:
            await thread.submit(order)
        except JournalUnavailable as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(submit, Claim(f"s{number}", takeover=False))
        await anyio.wait_all_tasks_blocked()
        store.gate.set()
    return errors


@pytest.mark.anyio
async def test_group_is_bounded() -> None:
    """No more than GROUP_SIZE orders share a commit, however many wait."""
    store = CountingStore()
    thread = WritingThread(store)
    errors = await order_many(thread, store, GROUP_SIZE * 2 + 10)
    await thread.aclose()
    assert errors == []
    assert max(store.groups) == GROUP_SIZE
    assert sum(store.groups) == GROUP_SIZE * 2 + 10


@pytest.mark.anyio
@pytest.mark.parametrize("error", [JournalUnavailable("no space"), ZeroDivisionError("a bug"), MemoryError("none")])
async def test_f12_every_waiter_of_a_failed_group_is_told(error: Exception) -> None:
    """Whatever a store raises, each waiter gets an error of its own that names the cause, and nobody waits for ever."""
    store = CountingStore(error)
    thread = WritingThread(store)
    errors = await order_many(thread, store, 20)
    with pytest.raises(type(error)):
        await thread.aclose()
    assert len({id(seen) for seen in errors}) == 20
    assert all(str(error) in str(seen) for seen in errors)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", DURABLE)
async def test_orders_after_aclose_wait_for_it(kind: str, tmp_path: Path) -> None:
    """A claim made while the journal is being closed succeeds, and the writer from before is over."""
    journal = factory_of(kind, tmp_path)()
    old = await journal.claim("s")
    epochs: list[int] = []

    async def again() -> None:
        epochs.append((await journal.claim("s", takeover=True)).epoch)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(journal.aclose)
        await checkpoint()
        tasks.start_soon(again)
    with pytest.raises(StaleWriter):
        await old.append(chain("s", 1))
    await journal.aclose()
    assert epochs == [2]
