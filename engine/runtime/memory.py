"""The memory governor: what is done when the process uses more memory than it should.

`Pressure` decides, purely: a small state machine over samples. `MemoryGovernor` acts: it frees what can be freed and
says what came of it, as data for the records. The limit is advisory. It is for the whole process; between two samples
memory may grow past it by what a program can allocate in that time (172 MiB in 100 ms were measured); and memory that
is still in use is not given back by any force. May import the log and its neighbours. Must never end a turn itself.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Literal, NamedTuple, TypeAlias

from ..log import logger

MEBIBYTE = 1024 * 1024

Step: TypeAlias = Literal["shed", "refuse", "admit", "restore"]
"""Free memory and halve the tools; end running turns and begin none; begin turns again; allow one more tool."""


class MemoryBounds(NamedTuple):
    """When to do what.

    `limit_bytes` is the hard bound, `soft_bytes` where shedding begins; `places` are the tools of one session that may
    run at once while there is no pressure, `in_all` the calls of all sessions, 0 where those have no bound; `patience`
    samples pass before the next step in the same direction.
    """

    limit_bytes: int
    soft_bytes: int
    places: int
    patience: int = 10
    in_all: int = 0

    def level(self, rss_bytes: int) -> Level:
        """Return where so much memory lies."""
        return Level((rss_bytes >= self.soft_bytes) + (rss_bytes >= self.limit_bytes))

    def above(self, used_bytes: int) -> MemoryBounds:
        """Return the bounds for a process that holds so much before any turn: as far apart, and as far above it."""
        gap_bytes = self.limit_bytes - self.soft_bytes
        return self._replace(limit_bytes=used_bytes + 2 * gap_bytes, soft_bytes=used_bytes + gap_bytes)

    @classmethod
    def of(cls, max_memory_mb: int, places: int, in_all: int = 0, soft_share: float = 0.8) -> MemoryBounds:
        """Return the bounds of a limit in MiB."""
        limit_bytes = max_memory_mb * MEBIBYTE
        return cls(limit_bytes, int(limit_bytes * soft_share), places, in_all=in_all)


class Level(IntEnum):
    """Where a sample lies."""

    QUIET = 0
    SOFT = 1
    HARD = 2


class Pressure(NamedTuple):
    """What the samples so far have led to. `waited` counts the samples at this level since a step was taken for it."""

    places: int
    admitting: bool = True
    level: Level = Level.QUIET
    waited: int = 0
    in_all: int = 0

    def after(self, rss_bytes: int, bounds: MemoryBounds) -> tuple[Pressure, tuple[Step, ...]]:
        """Return the pressure after one more sample, and the steps to take, in order.

        A level that is higher than before sheds at once, and again after `patience` samples; each time the number of
        tools is halved, down to one. A second sample at the limit, after shedding, ends the running turns and lets none
        begin, until a sample is below it. Below the soft bound one tool more is allowed after every `patience` samples.
        The places of the whole engine go the same way.
        """
        level = bounds.level(rss_bytes)
        waited = self.waited + 1 if level is self.level else 0
        sheds = level > self.level or (level > Level.QUIET and waited >= bounds.patience)
        fewer = self.places < bounds.places or self.in_all < bounds.in_all
        restores = fewer and level is Level.QUIET and waited >= bounds.patience
        refuses = self.admitting and level is self.level is Level.HARD
        admits = not self.admitting and level < Level.HARD
        taken: tuple[tuple[bool, Step], ...] = (
            (sheds, "shed"), (refuses, "refuse"), (admits, "admit"), (restores, "restore"),
        )  # fmt: skip
        places, in_all = (
            min(most, max(1, count // 2) if sheds else count + restores)
            for count, most in ((self.places, bounds.places), (self.in_all, bounds.in_all))
        )
        admitting = admits or (self.admitting and not refuses)
        waited = 0 if sheds or restores else min(waited, bounds.patience)
        return Pressure(places, admitting, level, waited, in_all), tuple(step for applies, step in taken if applies)


class Freer(NamedTuple):
    """Something that can give memory back. `free` returns how many bytes it let go of, as far as it knows."""

    name: str
    free: Callable[[], int]


class Freed(NamedTuple):
    """What one freer did: the bytes that it says it let go of, and those that the process has fewer since."""

    name: str
    claimed_bytes: int
    rss_bytes: int


class MemoryStep(NamedTuple):
    """One step that was taken, for the record.

    So many tools of one session may run at once from now on: `places`; and so many calls of all sessions:
    `places_in_all`, None where those have no bound.
    """

    step: Step
    rss_bytes: int
    limit_bytes: int
    places: int
    freed: tuple[Freed, ...] = ()
    places_in_all: int | None = None

    @property
    def freed_bytes(self) -> int:
        """By how much the process became smaller."""
        return sum(freed.rss_bytes for freed in self.freed)

    @property
    def message(self) -> str:
        """What a fault of this step says."""
        return (
            f"the process uses {self.rss_bytes / MEBIBYTE:.0f} MB after all that could be freed was, its limit is "
            f"{self.limit_bytes / MEBIBYTE:.0f} MB; raise max_memory_mb, or let tools hold less"
        )


class MemoryGovernor:
    """Takes samples of the process's memory and acts on them.

    A process that lies above the soft bound already, with a large model in it for instance, can still be worked in,
    under bounds that are raised by what it held before; the log says so.

    Args:
        bounds: when to do what.
        read_bytes: returns the memory of the process now.
        freers: the ladder, in the order in which it is climbed: caches first, then idle sessions. The collection of
            cycles and the return of free heap to the system follow by themselves.
        on_step: told of every step, in the event loop: sets the number of tools, ends turns, records.
    """

    def __init__(
        self,
        bounds: MemoryBounds,
        read_bytes: Callable[[], int],
        freers: Sequence[Freer],
        on_step: Callable[[MemoryStep], object],
    ) -> None:
        used_bytes = read_bytes()
        if used_bytes >= bounds.soft_bytes:
            limit_bytes, bounds = bounds.limit_bytes, bounds.above(used_bytes)
            logger.warning(
                "the process uses as much memory as it may before any turn: raise max_memory_mb",
                used_bytes=used_bytes, limit_bytes=limit_bytes, raised_to_bytes=bounds.limit_bytes,
            )  # fmt: skip
        self._bounds = bounds
        self._read_bytes = read_bytes
        self._freers = (*freers, Freer("cycles", _collect), Freer("heap", _trim))
        self._on_step = on_step
        self._pressure = Pressure(bounds.places, in_all=bounds.in_all)

    @property
    def admitting(self) -> bool:
        """Whether a turn may begin, by the newest sample."""
        return self._pressure.admitting

    @property
    def places(self) -> int:
        """How many tools may run at once now."""
        return self._pressure.places

    def admits(self) -> bool:
        """Whether a turn may begin. Where the last sample said no, memory is freed and another one is taken.

        No turn ran since then, and those that were ended have left what they held to the collector.
        """
        if not self._pressure.admitting:
            for freer in self._freers:
                self._free(freer)
            self.sample()
        return self._pressure.admitting

    def sample(self) -> None:
        """Take a sample and the steps that follow from it. Shedding may take as long as a full garbage collection."""
        if self._take() and self._pressure.level is Level.HARD:
            # Whether the turns have to end depends on what shedding has achieved.
            self._take()

    def _take(self) -> bool:
        """Read, decide, act; return whether memory was shed."""
        rss_bytes = self._read_bytes()
        self._pressure, steps = self._pressure.after(rss_bytes, self._bounds)
        for step in steps:
            freed = tuple(map(self._free, self._freers)) if step == "shed" else ()
            places, in_all = self._pressure.places, self._pressure.in_all or None
            self._on_step(MemoryStep(step, rss_bytes, self._bounds.limit_bytes, places, freed, in_all))
        return "shed" in steps

    def _free(self, freer: Freer) -> Freed:
        before = self._read_bytes()
        try:
            claimed = freer.free()
        except Exception:
            # One that fails must not keep the others from helping.
            logger.exception("memory could not be freed", freer=freer.name)
            claimed = 0
        return Freed(freer.name, claimed, max(0, before - self._read_bytes()))


def _collect() -> int:
    gc.collect()
    return 0


def _trim() -> int:
    """Give free pages of the heap back to the system, where the C library has a function for it (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
    return 0


__all__ = ["Freed", "Freer", "MemoryBounds", "MemoryGovernor", "MemoryStep", "Pressure"]
