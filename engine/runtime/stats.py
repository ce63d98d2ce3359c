"""What an engine is doing at one moment, as plain data. May import core and its neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..core.values import State
from .driver import Driver
from .dwell import Dwell, Stuck
from .memory import MemoryStep
from .monitor import Monitor
from .sampling import Reading
from .watchdog import LoopBlocked


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine is doing, and what it has noticed since it was opened; of reports the newest are kept.

    Attributes:
        sessions: how many open sessions are in which state; states without one are left out.
        paged_out: how many of the idle ones are not in memory.
        running_tools: tools that run, those included whose calls have been given up.
        waiting_tools: calls that wait for a place or for a call of the same conflict key.
        process: what the process uses, the host's own part included.
        places: how many tools of one session may run at once now.
        admitting: whether turns may begin; not while the process is at its memory limit.
        dwell: how long sessions stayed in each state.
        stuck: sessions that worked in one state for too long.
        blocked: tools that kept the event loop from everybody else.
        memory_steps: what was done about memory, with the bytes that were freed.
    """

    sessions: Mapping[State, int]
    running_tools: int
    waiting_tools: int
    process: Reading
    places: int
    admitting: bool
    dwell: Mapping[State, Dwell]
    stuck: tuple[Stuck, ...] = ()
    blocked: tuple[LoopBlocked, ...] = ()
    memory_steps: tuple[MemoryStep, ...] = ()
    paged_out: int = 0


def stats_of(drivers: Iterable[Driver], monitor: Monitor, paged_out: int) -> EngineStats:
    """Return the figures of the moment; see `EngineStats`."""
    drivers = tuple(drivers)
    states = Counter(driver.session.state for driver in drivers)
    if paged_out:
        states[State.IDLE] += paged_out
    return EngineStats(
        sessions=dict(states),
        running_tools=sum(driver.running_tools for driver in drivers),
        waiting_tools=sum(batch.waiting for batch in monitor.batches),
        process=monitor.gauge.read(),
        places=monitor.places,
        admitting=monitor.admitting,
        dwell=monitor.dwell.times(),
        stuck=tuple(monitor.stuck),
        blocked=tuple(monitor.blocked),
        memory_steps=tuple(monitor.steps),
        paged_out=paged_out,
    )
