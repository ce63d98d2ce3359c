"""Named numbers with units: what every benchmark returns, and how samples become them.

May import the standard library only. Must never measure anything itself but time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter_ns, process_time_ns
from typing import NamedTuple


class WrongResult(Exception):
    """What was measured did not do the work: a text, a count or a stored item is not what it has to be."""


def check(holds: bool, what: str) -> None:
    """Make sure that the work was done.

    Raises:
        WrongResult: it was not; its number would mean nothing.
    """
    if not holds:
        raise WrongResult(what)


class Number(NamedTuple):
    """A measured number. `p10` and `p99` are None where it is a ratio or a count and not a distribution."""

    name: str
    unit: str
    median: float
    p10: float | None = None
    p99: float | None = None
    samples: int = 1


@dataclass(frozen=True)
class Result:
    """What a benchmark found: its numbers, and what a reader has to know about this run."""

    numbers: tuple[Number, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effort:
    """How much is run.

    Attributes:
        name: how the effort is called.
        turns: turns of each kind in `turn`, alternating with the floor's.
        disk_turns: the same where every commit waits for a disk.
        lengths: the turns at which `growth` looks again.
        window: how many turns `growth` looks at each time.
        history_turns: length of the session that `open` opens.
        replay_turns: length of the session that `replay` verifies.
        runs: how often the long things are repeated.
        sessions: sessions at once in memory.
        group: sessions at once in a durable journal.
        folds: how often `step` folds its history.
    """

    name: str
    turns: int
    disk_turns: int
    lengths: tuple[int, ...]
    window: int
    history_turns: int
    replay_turns: int
    runs: int
    sessions: int
    group: int
    folds: int


SMOKE = Effort("smoke", 2, 2, (6,), 2, 5, 3, 1, 5, 3, 2)
"""Only shows that everything runs; its numbers mean nothing."""

QUICK = Effort("quick", 100, 20, (2_000,), 100, 1_000, 200, 2, 1_000, 100, 30)
"""Under a minute."""

NORMAL = Effort("normal", 500, 50, (2_000,), 100, 10_000, 500, 7, 1_000, 100, 200)
"""A few minutes."""

FULL = Effort("full", 1_000, 100, (2_000, 10_000), 100, 10_000, 1_000, 9, 1_000, 100, 300)
"""As long as it takes."""


class Mark(NamedTuple):
    """A moment: wall clock and processor time of the whole process, threads included, in nanoseconds."""

    cpu_ns: int
    wall_ns: int


def mark() -> Mark:
    """Return this moment."""
    return Mark(process_time_ns(), perf_counter_ns())


class Laps:
    """Wall and processor time of one piece of work, lap by lap, in nanoseconds an item."""

    def __init__(self) -> None:
        self.wall_ns: list[float] = []
        self.cpu_ns: list[float] = []

    def add(self, since: Mark, items: int = 1) -> None:
        """End a lap that did `items` of the same thing."""
        wall_ns, cpu_ns = perf_counter_ns(), process_time_ns()
        self.wall_ns.append((wall_ns - since.wall_ns) / items)
        self.cpu_ns.append((cpu_ns - since.cpu_ns) / items)

    def numbers(self, name: str, unit: str = "µs") -> tuple[Number, Number]:
        """Return `name.wall` and `name.cpu`, in µs, ms or s."""
        scale = {"µs": 1e3, "ms": 1e6, "s": 1e9}[unit]
        wall = [value / scale for value in self.wall_ns]
        cpu = [value / scale for value in self.cpu_ns]
        return distribution(f"{name}.wall", unit, wall), distribution(f"{name}.cpu", unit, cpu)

    def rates(self, name: str, unit: str) -> tuple[Number, Number]:
        """Return how many items a second: `name.wall`, and `name.cpu` a second of processor time."""
        wall = [1e9 / value for value in self.wall_ns]
        cpu = [1e9 / value for value in self.cpu_ns]
        return distribution(f"{name}.wall", unit, wall), distribution(f"{name}.cpu", unit, cpu)

    def ratios(self, name: str, floor: Laps) -> tuple[Number, Number, Number]:
        """Return how often the floor goes into these laps: by the medians of wall and processor time, and by the 10th
        percentiles of wall time, which other work on the machine disturbs least.
        """
        wall = median(self.wall_ns) / median(floor.wall_ns)
        cpu = median(self.cpu_ns) / median(floor.cpu_ns)
        calm = _percentile(self.wall_ns, 0.1) / _percentile(floor.wall_ns, 0.1)
        return (
            Number(f"{name}.wall_ratio", "×", wall),
            Number(f"{name}.wall_p10_ratio", "×", calm),
            Number(f"{name}.cpu_ratio", "×", cpu),
        )


def distribution(name: str, unit: str, samples: Sequence[float]) -> Number:
    """Return the median, the 10th and the 99th percentile (nearest rank) of samples."""
    return Number(name, unit, median(samples), _percentile(samples, 0.1), _percentile(samples, 0.99), len(samples))


def _percentile(samples: Sequence[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[round((len(ordered) - 1) * share)]
