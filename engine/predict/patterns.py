"""Keeps how tools behave when they run: how often, how long, how well, how much memory; by what came before.

A pattern belongs to a pair of tools called one after the other, so a search that follows a login may have another
duration than one that opens a session. Durations are counted in classes a quarter of an octave wide, which merge and
give quantiles within 9 %. May import this package's counts. Must never measure anything: durations are handed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import floor, log2
from operator import attrgetter
from typing import NamedTuple

from .counts import keep_strongest

MAX_PATTERNS = 1024
"""Pairs of tools that are kept; the least frequent are forgotten."""

HEAVY_BYTES = 64 * 2**20
"""Memory from which on a tool is one that takes much."""

CLASSES_PER_OCTAVE = 4
SHORTEST_S = 1e-4
LONGEST_S = 1e5
"""Durations outside are counted as these: from 100 µs to a day."""


class Execution(NamedTuple):
    """How one call ran. What is not known is None.

    `duration_s` is its time in seconds, `memory_bytes` its peak, `result` what it returned, as JSON.
    """

    ok: bool | None = None
    duration_s: float | None = None
    memory_bytes: int | None = None
    result: object = None


class Pattern:
    """What is known of a tool after another. Sums, so that two patterns can be added."""

    __slots__ = ("calls", "classes", "failures", "memory_bytes", "seconds", "timed")

    def __init__(self) -> None:
        self.calls = 0
        self.failures = 0
        self.timed = 0
        self.seconds = 0.0
        self.memory_bytes = 0
        self.classes: dict[int, int] = {}

    def add(self, execution: Execution) -> None:
        """Count one execution."""
        self.calls += 1
        self.failures += execution.ok is False
        self.memory_bytes = max(self.memory_bytes, execution.memory_bytes or 0)
        if execution.duration_s is not None:
            duration_s = min(LONGEST_S, max(SHORTEST_S, execution.duration_s))
            self.timed += 1
            self.seconds += duration_s
            place = floor(CLASSES_PER_OCTAVE * log2(duration_s))
            self.classes[place] = self.classes.get(place, 0) + 1

    @property
    def success_rate(self) -> float:
        """The share of calls that did not fail."""
        return 1 - self.failures / self.calls if self.calls else 1.0

    @property
    def mean_s(self) -> float | None:
        """The mean duration in seconds, None while none is known."""
        return self.seconds / self.timed if self.timed else None

    def quantile_s(self, share: float) -> float | None:
        """Return the duration in seconds that the given share of calls (0 to 1) did not exceed; None while none is
        known.
        """
        left = share * self.timed
        for place in sorted(self.classes):
            left -= self.classes[place]
            if left <= 0:
                return float(2.0 ** ((place + 0.5) / CLASSES_PER_OCTAVE))
        return None


def total(patterns: Iterable[Pattern]) -> Pattern:
    """Return the sum of patterns: all counts added, the largest memory."""
    whole = Pattern()
    for pattern in patterns:
        whole.calls += pattern.calls
        whole.failures += pattern.failures
        whole.timed += pattern.timed
        whole.seconds += pattern.seconds
        whole.memory_bytes = max(whole.memory_bytes, pattern.memory_bytes)
        for place, count in pattern.classes.items():
            whole.classes[place] = whole.classes.get(place, 0) + count
    return whole


CALLS = attrgetter("calls")
"""The weight of a pattern."""


class Patterns:
    """The patterns of one tenant, by (tool before, tool).

    Attributes:
        by_pair: the patterns.
        heavy: the tools that have taken much memory, with the most that one call did, in bytes.
    """

    def __init__(self) -> None:
        self.by_pair: dict[tuple[str, str], Pattern] = {}
        self.heavy: dict[str, int] = {}

    def add(self, before: str, tool: str, execution: Execution) -> None:
        """Count an execution of `tool` that followed `before`."""
        pattern = self.by_pair.get((before, tool))
        if pattern is None:
            pattern = self.by_pair[before, tool] = Pattern()
        pattern.add(execution)
        if execution.memory_bytes is not None:
            self._weigh(tool, execution.memory_bytes)
        self.keep_within_bound()

    def keep_within_bound(self) -> None:
        """Make room when there are too many pairs."""
        keep_strongest(self.by_pair, MAX_PATTERNS, CALLS)

    def weigh(self) -> None:
        """Find out anew which tools take much memory."""
        self.heavy = {}
        for (_, tool), pattern in self.by_pair.items():
            self._weigh(tool, pattern.memory_bytes)

    def _weigh(self, tool: str, memory_bytes: int) -> None:
        if memory_bytes >= HEAVY_BYTES and len(self.heavy) < MAX_PATTERNS:
            self.heavy[tool] = max(memory_bytes, self.heavy.get(tool, 0))

    def of(self, tool: str, before: str | None = None) -> Pattern:
        """Return what is known of a tool, after a certain one or after any."""
        return total(pattern for pair, pattern in self.by_pair.items() if pair[1] == tool and before in (None, pair[0]))

    def most_frequent(self, k: int) -> list[tuple[tuple[str, str], Pattern]]:
        """Return the `k` most frequent pairs with their patterns."""
        return sorted(self.by_pair.items(), key=lambda item: (-item[1].calls, item[0]))[:k]
