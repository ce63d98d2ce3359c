"""What an engine is doing at one moment, as plain data. May import core and its neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.values import ResourceUsage, State
from ..tools.cache import CacheStats
from .driver import Driver
from .dwell import Dwell, Stuck
from .governor import GateSnapshot
from .lanes import Lane, LaneStats
from .memory import MemoryStep
from .parts import Parts
from .sampling import Reading
from .watchdog import LoopBlocked

if TYPE_CHECKING:
    from .loading import Nursery
    from .warmer import WarmReport


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine is doing, and what it has noticed since it was opened; of reports the newest are kept.

    Attributes:
        sessions: how many open sessions are in which state; states without one are left out.
        paged_out: how many of the idle ones are not in memory.
        running_tools: tools that run, those included whose calls have been given up.
        waiting_tools: calls that wait for a place or for a call of the same conflict key.
        process: what the process uses, the host's own part included.
        used: what the process has used since it began, its memory at the most that a look has seen.
        places: how many tools of one session may run at once now.
        places_in_all: how many calls of all sessions may run at once now; None where those have no bound.
        admitting: whether turns may begin; not while the process is at its memory limit.
        dwell: how long sessions stayed in each state.
        stuck: sessions that worked in one state for too long.
        blocked: tools that kept the event loop from everybody else.
        lanes: how the lanes stand, where the engine has places of its own.
        gates: how the gates before the models stand, by quota key: those that were used.
        cache: how the cache of results has served; None where no tool asks for one.
        memory_steps: what was done about memory, with the bytes that were freed.
        warming: what was prepared ahead, where a predictor says what.
    """

    sessions: Mapping[State, int]
    running_tools: int
    waiting_tools: int
    process: Reading
    used: ResourceUsage
    places: int
    admitting: bool
    dwell: Mapping[State, Dwell]
    lanes: Mapping[Lane, LaneStats]
    gates: Mapping[str, GateSnapshot]
    stuck: tuple[Stuck, ...] = ()
    blocked: tuple[LoopBlocked, ...] = ()
    memory_steps: tuple[MemoryStep, ...] = ()
    places_in_all: int | None = None
    cache: CacheStats | None = None
    warming: WarmReport | None = None
    paged_out: int = 0


def stats_of(drivers: Iterable[Driver], parts: Parts, nursery: Nursery | None, paged_out: int) -> EngineStats:
    """Return the figures of the moment.

    Args:
        drivers: those of the sessions in memory.
        parts: what the engine is made of.
        nursery: its gates and who prepares ahead, while it is open.
        paged_out: how many of its sessions are not in memory.
    """
    monitor, lanes, cache = parts.monitor, parts.pipeline.lanes, parts.pipeline.cache
    drivers, process = tuple(drivers), monitor.gauge.read()
    warmer = None if nursery is None else nursery.warmer
    states = Counter(driver.session.state for driver in drivers)
    if paged_out:
        states[State.IDLE] += paged_out
    return EngineStats(
        sessions=dict(states),
        running_tools=sum(driver.running_tools for driver in drivers),
        waiting_tools=sum(batch.waiting for batch in monitor.batches),
        process=process,
        used=monitor.gauge.usage(),
        places=monitor.places,
        admitting=monitor.admitting,
        dwell=monitor.dwell.times(),
        stuck=tuple(monitor.stuck),
        blocked=tuple(monitor.blocked),
        memory_steps=tuple(monitor.steps),
        places_in_all=None if lanes is None else lanes.cap,
        gates={} if nursery is None else nursery.asking.governor.snapshot(),
        cache=None if cache is None else cache.stats,
        lanes={} if lanes is None else {lane: lanes.stats(lane) for lane in Lane},
        warming=None if warmer is None else warmer.report(),
        paged_out=paged_out,
    )
