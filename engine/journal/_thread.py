"""One writing thread per journal, and the cheap way there and back.

Every claim, append and release of a journal is an order in one queue. The thread takes whatever is queued as one group,
lets the store carry it out (one transaction, one fsync), then wakes every waiter, each event loop once per group. It
sleeps in the queue, so an idle journal costs nothing. Works for waiters on asyncio and on trio, on any number of loops
at a time. May import core, errors and ports; trio only when running under it. Must never run an order on an event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Protocol, TypeAlias
from weakref import finalize

import anyio

from ..core.record import TransitionRecord
from ..errors import JournalError, JournalUnavailable, StaleWriter
from ..ports import Tail
from ._orders import Append, Claim, Granted, Order, Release, Rewrite, check_run, unavailable

GROUP_SIZE = 512
"""Most orders that share one commit."""


class Job:
    """An order on its way. The store sets `granted` or `error`; the waiter is woken after that, never before."""

    __slots__ = ("error", "granted", "order", "post", "settled", "wake")

    def __init__(self, order: Order) -> None:
        self.order = order
        self.granted = _NOTHING
        self.error: BaseException | None = None
        self.settled = False
        self.post: _Post = _run_here
        self.wake: Callable[[], object] = _ignore


class _Closing(Job):
    """The last thing in a queue: release everything and end the thread."""

    def __init__(self) -> None:
        super().__init__(Release("", 0, ""))


_NOTHING = Granted(0, "", Tail(0, ""))

_Post: TypeAlias = Callable[..., object]
"""Runs a function with one argument, the jobs, in the thread of an event loop, soon."""

_Queue: TypeAlias = "SimpleQueue[Job]"


class Store(Protocol):
    """What the thread writes to. Its methods are called in the writing thread only."""

    @property
    def place(self) -> str:
        """Name of the file or folder, for texts."""
        ...

    def perform(self, jobs: Sequence[Job]) -> None:
        """Carry the orders out and set their outcomes. What it raises becomes the outcome of those without an error."""
        ...

    def close(self) -> None:
        """Release everything that is held."""
        ...


class WritingThread:
    """Carry out a store's orders, group by group. Starts with the first, ends with `aclose` or with this object."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._queue: _Queue | None = None
        self._thread: threading.Thread | None = None
        self._dropped: finalize[[_Closing], WritingThread] | None = None

    async def submit(self, order: Order) -> Granted:
        """Return what a claim was granted (meaningless for other orders), once the order is durable.

        Cancellation waits for the outcome, then goes on.

        Raises:
            JournalError, UsageError: as the store reports; the order had no effect then.
        """
        return await self._send(Job(order), None)

    async def aclose(self) -> None:
        """Carry out what is queued, release everything, end the thread. Idempotent; the next order starts another.

        Raises:
            JournalUnavailable: the release could not be stored.
        """
        with self._lock:
            queue, self._queue = self._queue, None
            if self._dropped is not None:
                self._dropped.detach()
        if queue is not None:
            await self._send(_Closing(), queue)

    async def _send(self, job: Job, queue: _Queue | None) -> Granted:
        try:
            loop = asyncio.get_running_loop()
            task = asyncio.current_task(loop)
        except RuntimeError:
            await self._send_from_trio(job, queue)
        else:
            if task is None:  # trio as a guest of an asyncio loop
                await self._send_from_trio(job, queue)
            else:
                await self._send_from_asyncio(job, queue, loop)
        if job.error is not None:
            raise job.error
        return job.granted

    async def _send_from_asyncio(self, job: Job, queue: _Queue | None, loop: asyncio.AbstractEventLoop) -> None:
        future: asyncio.Future[None] = loop.create_future()
        job.post, job.wake = loop.call_soon_threadsafe, _Resolve(future)
        self._put(job, queue)
        try:
            await future
        except asyncio.CancelledError:
            while not job.settled:  # ends with the commit, which no cancellation can stop
                future = loop.create_future()
                job.wake = _Resolve(future)
                with anyio.CancelScope(shield=True), suppress(asyncio.CancelledError):  # raised again below
                    await future
            raise

    async def _send_from_trio(self, job: Job, queue: _Queue | None) -> None:
        import trio

        done = trio.Event()
        job.post, job.wake = trio.lowlevel.current_trio_token().run_sync_soon, done.set
        self._put(job, queue)
        with trio.CancelScope(shield=True):
            await done.wait()

    def _put(self, job: Job, queue: _Queue | None) -> None:
        if queue is not None:
            queue.put(job)
            return
        with self._lock:
            if self._queue is None:
                self._queue = self._start()
            self._queue.put(job)

    def _start(self) -> _Queue:
        queue: _Queue = SimpleQueue()
        name = f"journal {self._store.place}"
        self._thread = threading.Thread(target=_work, args=(queue, self._store, self._thread), name=name, daemon=True)
        self._thread.start()
        self._dropped = finalize(self, queue.put, _Closing())
        self._dropped.atexit = False  # a process that ends is its own release
        return queue


class ThreadWriter:
    """The right to append to one session of a journal that writes through a thread."""

    __slots__ = ("_granted", "_released", "_session", "_thread")

    def __init__(self, thread: WritingThread, session: str, granted: Granted) -> None:
        self._thread = thread
        self._session = session
        self._granted = granted
        self._released = False

    @property
    def epoch(self) -> int:
        return self._granted.epoch

    @property
    def tail(self) -> Tail:
        return self._granted.tail

    async def append(self, records: Sequence[TransitionRecord]) -> None:
        if self._released:
            raise StaleWriter(self._session, self._granted.epoch)
        if records:
            check_run(self._session, records)
            await self._thread.submit(Append(self._session, self._granted.epoch, self._granted.owner, records))

    async def rewrite(self, first: int, lines: Mapping[int, str]) -> None:
        if self._released:
            raise StaleWriter(self._session, self._granted.epoch)
        await self._thread.submit(Rewrite(self._session, self._granted.epoch, self._granted.owner, first, lines))

    async def release(self) -> None:
        if not self._released:
            await self._thread.submit(Release(self._session, self._granted.epoch, self._granted.owner))
            self._released = True


async def claim(thread: WritingThread, session: str, takeover: bool) -> ThreadWriter:
    """Return the right to append to a session."""
    return ThreadWriter(thread, session, await thread.submit(Claim(session, takeover)))


def _work(queue: _Queue, store: Store, before: threading.Thread | None) -> None:
    if before is not None:
        before.join()  # two threads never hold one store
    group: list[Job] = []
    last: Job | None = None
    while last is None:
        last = _gather(queue, group)
        if group:
            _perform(store, group)
            _wake(group)
            group.clear()  # an idle thread keeps no record alive
    try:
        store.close()
    except Exception as error:  # handed to whoever closes; a journal dropped unclosed leaves nobody to tell
        last.error = error
    _wake([last])


def _gather(queue: _Queue, group: list[Job]) -> Job | None:
    """Wait for an order and take what else is queued; return the closing one if it is among them."""
    job = queue.get()
    while not isinstance(job, _Closing):
        group.append(job)
        if len(group) == GROUP_SIZE:
            return None
        try:
            job = queue.get_nowait()
        except Empty:
            return None
    return job


def _perform(store: Store, group: Sequence[Job]) -> None:
    try:
        store.perform(group)
    except Exception as error:  # handed to every waiter: a thread that died here would leave them waiting for ever
        for job in group:
            if job.error is None:
                job.error = _own(error, store.place)


def _own(error: Exception, place: str) -> Exception:
    """Return the error of one waiter; each has its own, so that tracebacks do not mix."""
    if isinstance(error, JournalUnavailable):
        own = JournalUnavailable(*error.args)
        own.__cause__ = error.__cause__
        return own
    return error if isinstance(error, JournalError) else unavailable(place, error, "nothing of it was written")


def _wake(group: Sequence[Job]) -> None:
    loops: dict[_Post, list[Job]] = {}
    for job in group:
        loops.setdefault(job.post, []).append(job)
    for post, jobs in loops.items():
        try:
            post(_settle, jobs)
        except RuntimeError:  # the loop is closed (trio.RunFinishedError is one too): nobody is left to be woken
            continue


def _settle(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.settled = True
        job.wake()


class _Resolve:
    """Resolves a future that its waiter may have cancelled meanwhile."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self._future = future

    def __call__(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


def _ignore() -> None:
    """Wake nobody."""


def _run_here(function: Callable[[Sequence[Job]], object], jobs: Sequence[Job]) -> None:
    function(jobs)
