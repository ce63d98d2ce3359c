"""What processes use, as the operating system counts it: the only module that asks psutil.

`Gauge` reads one process or a whole tree of them. `Sampler` calls for a reading at an interval while turns run, and for
nothing at all while none does. psutil takes some 20 ms to import, so it is imported by the first reading. No operating
system tells psutil the network traffic of a single process: `network_bytes` is always None. Memory of a tree is the
sum of the resident sets, so pages that its processes share count more than once. May import anyio, core and its
neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from ..core.values import ResourceUsage
from ..errors import UsageError
from .bell import Bell, new_bell

if TYPE_CHECKING:
    from psutil import Process

INTERVAL_S = 0.12
"""Between two samples: a reading takes some 10 µs, and memory can grow by some 200 MiB between two of them. Not a tenth
of a second: whoever looks that often whether all tasks are blocked would find this one awake each time.
"""


class Reading(NamedTuple):
    """What a process, or a tree of them, uses at one moment. None where the system does not tell.

    `cpu_percent` is over the time since the gauge's reading before, 100 a processor, 0 in its first.
    """

    processes: int
    rss_bytes: int
    cpu_s: float
    cpu_percent: float
    threads: int
    open_files: int | None
    read_bytes: int | None
    written_bytes: int | None
    network_bytes: int | None = None


class Gauge:
    """Reads one process, or a process with all its descendants.

    A descendant that has left the tree (a double fork whose parent ended) is not found here. Reading a tree goes
    through all processes of the machine: some 10 ms for a few hundred.

    Args:
        pid: of the process; this one if not given.
        tree: whether its descendants count.
        now_s: a monotonic clock in seconds, for `cpu_percent`.
    """

    def __init__(self, pid: int | None = None, *, tree: bool = False, now_s: Callable[[], float]) -> None:
        self._pid = pid
        self._tree = tree
        self._now_s = now_s
        self._root: Process | None = None
        self._before: tuple[float, float] | None = None
        self._peak_bytes = 0
        self._seen: dict[int, _Figures] = {}

    def rss_bytes(self) -> int:
        """Return the resident memory of the process alone, in bytes; 0 when it has ended. Takes some 10 µs."""
        from psutil import Error

        try:
            rss_bytes = self._process().memory_info().rss
        except Error:
            return 0
        self._peak_bytes = max(self._peak_bytes, rss_bytes)
        return rss_bytes

    def free_bytes(self) -> int:
        """Return the memory that the machine can still give, in bytes."""
        from psutil import virtual_memory

        return virtual_memory().available

    def read(self) -> Reading:
        """Return what is used now; of a process that has ended, what it had used when it was last seen."""
        living = [figures for figures in map(_figures, self._processes()) if figures is not None]
        self._seen.update({figures.pid: figures for figures in living})
        rss_bytes = sum(figures.rss_bytes for figures in living)
        self._peak_bytes = max(self._peak_bytes, rss_bytes)
        cpu_s = sum(figures.cpu_s for figures in self._seen.values())
        return Reading(
            processes=len(living),
            rss_bytes=rss_bytes,
            cpu_s=cpu_s,
            cpu_percent=self._percent(cpu_s),
            threads=sum(figures.threads for figures in living),
            open_files=_sum(figures.open_files for figures in living),
            read_bytes=_sum(figures.read_bytes for figures in self._seen.values()),
            written_bytes=_sum(figures.written_bytes for figures in self._seen.values()),
        )

    def usage(self) -> ResourceUsage:
        """Return what all readings so far add up to."""
        if not self._seen:
            return ResourceUsage()
        seen = self._seen.values()
        return ResourceUsage(
            cpu_s=sum(figures.cpu_s for figures in seen),
            peak_memory_bytes=self._peak_bytes,
            read_bytes=_sum(figures.read_bytes for figures in seen),
            written_bytes=_sum(figures.written_bytes for figures in seen),
        )

    def _process(self) -> Process:
        if self._root is None:
            from psutil import Process

            self._root = Process(self._pid)
        return self._root

    def _processes(self) -> list[Process]:
        from psutil import Error

        try:
            root = self._process()
            return [root, *root.children(recursive=True)] if self._tree else [root]
        except Error:
            return []

    def _percent(self, cpu_s: float) -> float:
        now_s = self._now_s()
        before, self._before = self._before, (now_s, cpu_s)
        if before is None or now_s <= before[0]:
            return 0.0
        return 100.0 * max(0.0, cpu_s - before[1]) / (now_s - before[0])


class _Figures(NamedTuple):
    """One process as it was last seen."""

    pid: int
    rss_bytes: int
    cpu_s: float
    threads: int
    open_files: int | None
    read_bytes: int | None
    written_bytes: int | None


_WANTED = ("cpu_times", "memory_info", "num_threads", "num_fds", "io_counters")
"""What a process is asked. Windows counts no descriptors, macOS no bytes of a single process."""


def _figures(process: Process) -> _Figures | None:
    """Return what a process uses, or None if it has ended. Another user's process may tell less."""
    from psutil import Error

    try:
        names = [name for name in _WANTED if hasattr(process, name)]
        held: dict[str, Any] = process.as_dict(names)  # pyright: ignore[reportUnknownMemberType]
    except Error:
        return None
    times, memory, traffic = held["cpu_times"], held["memory_info"], held.get("io_counters")
    return _Figures(
        process.pid,
        rss_bytes=memory.rss if memory else 0,
        cpu_s=times.user + times.system if times else 0.0,
        threads=held["num_threads"] or 0,
        open_files=held.get("num_fds"),
        read_bytes=traffic.read_bytes if traffic else None,
        written_bytes=traffic.write_bytes if traffic else None,
    )


def _sum(figures: Iterable[int | None]) -> int | None:
    """Return the sum of what is known, None if nothing is."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) if known else None


class Sampler:
    """Calls for a sample at once when the first turn begins, and at every interval while one runs.

    When the last turn has ended, the interval that has begun is waited for and no further one: an engine at rest wakes
    nothing, and many short turns share one wake-up.

    Args:
        take: takes a sample; called in the event loop, must be quick and not raise.
        interval_s: between two samples, in seconds.
    """

    def __init__(self, take: Callable[[], object], interval_s: float = INTERVAL_S) -> None:
        self._take = take
        self._interval_s = interval_s
        self._turns = 0
        self._begun: Bell | None = None
        self._serving = False

    @contextmanager
    def turn(self) -> Generator[None, None, None]:
        """Let samples be taken while the block runs."""
        self._turns += 1
        if self._begun is not None:
            self._begun.ring()
        try:
            yield
        finally:
            self._turns -= 1

    async def serve(self) -> None:
        """Sample until cancelled.

        Raises:
            UsageError: it is being served already.
        """
        if self._serving:
            raise UsageError("this sampler is being served already; make another one for another task")
        self._serving = True
        timer = new_bell()
        try:
            while True:
                await self._wait_for_turn()
                self._take()
                await timer.wait(anyio.current_time() + self._interval_s)
        finally:
            self._serving = False

    async def _wait_for_turn(self) -> None:
        if self._turns:
            return
        self._begun = new_bell()
        await self._begun.wait()
        self._begun = None
