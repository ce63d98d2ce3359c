"""A bounded set of workers that are kept and used again.

Nothing is started before the first call, or before one is expected; then a few are started ahead, so that a later call
finds its interpreter up and running. May import anyio. Must never let a worker go that is not ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType, TracebackType
from typing import Self

import anyio

from ...errors import EngineClosed, UsageError
from .outcome import WorkerOutcome
from .protocol import WorkerCall
from .worker import Worker

_NO_MORE: Mapping[str, str] = MappingProxyType({})


def _ignore(text: str) -> None:
    """Show progress to nobody."""


class WorkerPool:
    """Runs calls in workers, at most `size` at a time; the others wait their turn.

    Args:
        size: how many workers there are at most.
        idle: how many are kept ready beyond those that run, as far as `size` allows.
        recycle_after: how many calls a worker process runs before a fresh one takes its place.
        environment: what workers see of the environment beside PATH, HOME, LANG, LC_*, TZ and PYTHONPATH.

    Raises:
        UsageError: a number is out of its range.
    """

    def __init__(
        self, size: int = 4, idle: int = 1, recycle_after: int = 100, environment: Mapping[str, str] = _NO_MORE
    ) -> None:
        if size < 1 or not 0 <= idle <= size or recycle_after < 1:
            raise UsageError(
                f"no pool can have size={size}, idle={idle}, recycle_after={recycle_after}: at least one worker, "
                "no more of them idle than there are, and at least one call each"
            )
        self._size = size
        self._spare = idle
        self._recycle_after = recycle_after
        self._environment = dict(environment)
        self._slots = anyio.Semaphore(size)
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._closed = False
        self._empty = anyio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def run(self, call: WorkerCall, on_progress: Callable[[str], object] = _ignore) -> WorkerOutcome:
        """Run one call in a worker and return how it ended. Cancelling it kills everything it has started.

        Args:
            call: what to run, and what it may use.
            on_progress: takes what the tool reports meanwhile; called in the event loop.

        Raises:
            EngineClosed: the pool is closed.
        """
        async with self._slots:
            worker = self._take()
            try:
                return await worker.call(call, on_progress)
            finally:
                await self._give_back(worker)

    def prepare(self, count: int = 1) -> None:
        """Start workers until `count` are ready, as far as `size` allows, so that calls find them up and running.

        Raises:
            EngineClosed: the pool is closed.
        """
        if self._closed:
            raise EngineClosed("the pool of worker processes is closed; run tools while the engine is open")
        while len(self._idle) < count and len(self._workers) < self._size:
            self._idle.insert(0, self._started())

    async def aclose(self) -> None:
        """Kill every worker with all it has started, and wait until nothing is left. Calls that run end as died.

        Idempotent.
        """
        self._closed = True
        idle, self._idle = self._idle, []
        for worker in self._workers:
            worker.hang_up()
        with anyio.CancelScope(shield=True):
            for worker in idle:
                await self._end(worker)
            if self._workers:
                # The calls that still run see that their workers are gone, and end them.
                await self._empty.wait()

    def _take(self) -> Worker:
        self.prepare(0)
        worker = self._idle.pop() if self._idle else self._started()
        self.prepare(self._spare)
        return worker

    def _started(self) -> Worker:
        worker = Worker(self._recycle_after, self._environment)
        self._workers.add(worker)
        return worker

    async def _give_back(self, worker: Worker) -> None:
        if worker.ready and not self._closed:
            self._idle.append(worker)
        else:
            await self._end(worker)

    async def _end(self, worker: Worker) -> None:
        try:
            await worker.aclose()
        finally:
            self._workers.discard(worker)
            if self._closed and not self._workers:
                self._empty.set()
