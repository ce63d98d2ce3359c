"""What an engine knows about its own health, and what it does about it: one `Monitor` an engine.

Memory is sampled while turns run, and shed or turns refused where the process uses too much; dwell times and sessions
that do not get on are seen from the records; a thread watches for tools that block the event loop; calls that do not
end when they are cancelled are given up. At rest nothing wakes. May import anyio, core, ports and its neighbours. Must
never change a session: it tells drivers and batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import anyio
from anyio.abc import TaskGroup

from ..core.limits import Limits
from ..core.record import TransitionRecord
from ..core.values import Fault
from ..errors import UsageError
from ..log import logger
from ..ports import Clock
from ..tools.threads import poster
from .dwell import DwellTimes, Stuck, StuckWatch
from .lanes import Lanes
from .memory import Freer, MemoryBounds, MemoryGovernor, MemoryStep
from .sampling import Gauge, Sampler
from .watchdog import LoopBlocked, LoopWatchdog

KEPT = 16
"""How many of the newest reports of each kind are kept."""

_LOOKS = 10
"""Samples between two looks for calls that have not ended."""


class Batch(Protocol):
    """An open batch of calls, as far as the monitor is concerned."""

    @property
    def waiting(self) -> int:
        """How many calls wait for a place."""
        ...

    def wake(self) -> None:
        """Look again whether a call may start."""
        ...

    def leave_overdue(self, now_s: float) -> None:
        """Give calls up that have not ended within the grace after their deadline."""
        ...


class Turns(Protocol):
    """A session's driver, as far as the monitor is concerned."""

    def fail(self, fault: Fault) -> None:
        """End the turn that runs, if any, with a fault."""
        ...


class Watching(NamedTuple):
    """What is watched; see `EngineSettings` for the two bounds, in seconds. `lanes` are the places of the engine."""

    limits: Limits
    clock: Clock
    loop_limit_s: float | None = None
    stuck_after_s: float | None = None
    lanes: Lanes | None = None


class Monitor:
    """Watches one engine.

    Attributes:
        batches: the batches that are open now.
        freers: what can give memory back, in the order in which it is asked to.
        dwell: how long sessions stayed in their states.
        stuck: sessions that did not get on, the newest reports.
        blocked: tools that blocked the event loop, the newest reports.
        steps: what was done about memory, the newest steps.
        watchdog: what watches the event loop, where that is wanted.
        gauge: reads what the process uses.
    """

    def __init__(self, watching: Watching) -> None:
        self.batches: set[Batch] = set()
        self.freers: list[Freer] = []
        self.dwell = DwellTimes()
        self.stuck: deque[Stuck] = deque(maxlen=KEPT)
        self.blocked: deque[LoopBlocked] = deque(maxlen=KEPT)
        self.steps: deque[MemoryStep] = deque(maxlen=KEPT)
        self.watchdog: LoopWatchdog | None = None
        self.gauge = Gauge(now_s=lambda: watching.clock.monotonic_ns() / 1e9)
        self._watching = watching
        self._governor: MemoryGovernor | None = None
        self._sampler = Sampler(self._sample)
        self._samples = 0
        self._freed_bytes = 0
        self._started = False
        self._drivers: Mapping[str, Turns] = {}
        bound_s, clock = watching.stuck_after_s, watching.clock
        self._stays = None if bound_s is None else StuckWatch(bound_s, clock, self.stuck.append)

    def start(self, group: TaskGroup, drivers: Mapping[str, Turns]) -> None:
        """Watch until the group ends.

        Args:
            group: the engine's.
            drivers: the engine's, by session, as they are at each moment.

        Raises:
            UsageError: it watches already.
        """
        if self._started:
            raise UsageError("this monitor watches already: close it first, or make another one")
        self._started, self._drivers = True, drivers
        limits = self._watching.limits
        if limits.max_memory_mb is not None:
            bounds = MemoryBounds.of(limits.max_memory_mb, limits.max_concurrent_tools, self._all_places())
            self._governor = MemoryGovernor(bounds, self.gauge.rss_bytes, self.freers, self._note)
        if self._watching.loop_limit_s is not None:
            self.watchdog = LoopWatchdog(poster(), self.blocked.append, self._watching.loop_limit_s)
        group.start_soon(self._sampler.serve)
        if self._stays is not None:
            group.start_soon(self._stays.serve)

    def close(self) -> None:
        """End the thread that watches the event loop. Idempotent."""
        self._started = False
        if self.watchdog is not None:
            self.watchdog.close()

    def turn(self) -> AbstractContextManager[None]:
        """Take samples while the block runs."""
        return self._sampler.turn()

    def see(self, records: Sequence[TransitionRecord]) -> None:
        """Take note of records of one session that have become durable together."""
        self.dwell.see(records)
        if self._stays is not None:
            # Where a session only passes through it cannot get stuck.
            self._stays.see(records[-1])

    def forget(self, session: str) -> None:
        """Drop a session that was closed."""
        self.dwell.forget(session)
        if self._stays is not None:
            self._stays.forget(session)

    def _all_places(self) -> int:
        """Give the engine all its places back, whatever an earlier run has left, and return their number."""
        lanes = self._watching.lanes
        while lanes is not None and lanes.cap < lanes.most:
            lanes.restore()
        return 0 if lanes is None else lanes.most

    @property
    def places(self) -> int:
        """How many tools of one session may run at once now."""
        return self._watching.limits.max_concurrent_tools if self._governor is None else self._governor.places

    @property
    def free_bytes(self) -> int:
        """How much memory the machine has left."""
        return self.gauge.free_bytes()

    @property
    def admitting(self) -> bool:
        """Whether turns may begin, by the newest sample."""
        return self._governor is None or self._governor.admitting

    def objection(self) -> Fault | None:
        """Return why no turn may begin now, if none may."""
        if self._governor is None or self._governor.admits():
            return None
        return self._fault(next(step for step in reversed(self.steps) if step.step == "refuse"))

    def _sample(self) -> None:
        if self._governor is not None:
            self._governor.sample()
        self._samples += 1
        if self._samples % _LOOKS == 0:
            now_s = anyio.current_time()
            for batch in tuple(self.batches):
                batch.leave_overdue(now_s)

    def _note(self, step: MemoryStep) -> None:
        self.steps.append(step)
        logger.warning(
            "memory", step=step.step, used_bytes=step.rss_bytes, freed_bytes=step.freed_bytes, places=step.places
        )
        lanes = self._watching.lanes
        if step.step == "shed":
            self._freed_bytes += step.freed_bytes
            if lanes is not None:
                lanes.halve()
        elif step.step == "refuse":
            for driver in self._drivers.values():
                driver.fail(self._fault(step))
        elif step.step == "restore":
            self._freed_bytes = 0
            if lanes is not None:
                lanes.restore()
            for batch in tuple(self.batches):
                batch.wake()

    def _fault(self, step: MemoryStep) -> Fault:
        return Fault(kind="memory_limit", message=step.message, freed_bytes=self._freed_bytes)


__all__ = ["KEPT", "Batch", "Monitor", "Turns", "Watching"]
