"""Counts what came next after a context: small tables, and the bounded store that holds them.

A table forgets. A slow one halves its counts when it has seen 1,500 observations. A fast one lets every observation
weigh more than the one before, so that older ones fade without being touched: with a growth of n/(n-1) it remembers
about n of them. May import this package's packing. Must never hold a name that its symbol bound has not admitted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from .packed import Packed

MAX_TOTAL = 1500
"""Weight of the observations in a table at which it is scaled down."""

MAX_SYMBOLS = 512
"""Distinct symbols in one table."""

SLOW = 1
FAST = 24 / 23
SESSION = 5 / 4
"""How much more an observation weighs than the one before: remember (almost) all, about 24, about 5."""

EVIDENCE = (1.5, 2.5, 4.5, 9.0, 20.0, 60.0)
PEAKEDNESS = (0.6, 0.85, 0.97)
CELLS = 28
"""A table's cell says how much it has seen (seven classes) and how sure it is (four). Mixing weights are learned for
each cell, because what a table's word is worth depends on little else."""

_FADED = 0.02
"""Share of a fresh observation below which a faded count is dropped."""


class Ordered(Protocol):
    """A key that can be sorted."""

    def __lt__(self, other: Any, /) -> bool: ...
    def __hash__(self) -> int: ...


K = TypeVar("K", bound=Ordered)
N = TypeVar("N", int, float)
V = TypeVar("V")


class Table:
    """What came next, and how often.

    `unit` is what one fresh observation weighs, `total` the weight of all, `peak` that of the most frequent symbol.
    """

    __slots__ = ("cell", "counts", "peak", "total", "unit")

    def __init__(self, counts: dict[str, float], unit: float = 1, total: float | None = None) -> None:
        self.counts = counts
        self.unit = unit
        self.total: float = sum(counts.values()) if total is None else total
        self.peak: float = max(counts.values())
        self._classify()

    @property
    def seen(self) -> float:
        """How many observations the table remembers."""
        return self.total / self.unit

    def add(self, symbol: str, growth: float) -> None:
        """Count one observation that weighs `growth` times as much as the one before."""
        unit = self.unit = self.unit * growth
        count = self.counts[symbol] = self.counts.get(symbol, 0) + unit
        total = self.total = self.total + unit
        if total > MAX_TOTAL or len(self.counts) > MAX_SYMBOLS:
            self._scale_down(symbol)
            return
        if count > self.peak:
            self.peak = count
        # The same as _classify, written out: this is done for twenty tables with every call.
        self.cell = 4 * bisect_right(EVIDENCE, total / unit) + 3 - bisect_left(PEAKEDNESS, self.peak / total)

    def _scale_down(self, newest: str) -> None:
        """Halve a slow table and drop what was seen once; measure a fast one anew and drop what has faded."""
        scale, least = (2.0, 0.5) if self.unit == 1 else (self.unit, _FADED)
        scaled = ((symbol, count / scale) for symbol, count in self.counts.items())
        self.counts = {symbol: count for symbol, count in scaled if count > least or symbol == newest}
        self.unit = 1
        self.total = sum(self.counts.values())
        self.peak = max(self.counts.values())
        self._classify()

    def _classify(self) -> None:
        self.cell = 4 * bisect_right(EVIDENCE, self.seen) + 3 - bisect_left(PEAKEDNESS, self.peak / self.total)


def added(one: Mapping[K, N], other: Mapping[K, N]) -> dict[K, N]:
    """Return the sums of two mappings in the order of their keys, so that the order of the two does not matter."""
    found: dict[K, N] = {}
    for key in sorted(one.keys() | other.keys()):
        if key in one and key in other:
            found[key] = one[key] + other[key]
        else:
            found[key] = one[key] if key in one else other[key]
    return found


def merged(one: Table | None, other: Table | None) -> Table:
    """Return a table that has seen what both have seen; `merged(a, b)` equals `merged(b, a)` to the last bit."""
    counts = added(_in_units(one), _in_units(other))
    strongest = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_SYMBOLS]
    scale = 2 if sum(counts.values()) > MAX_TOTAL else 1
    return Table({symbol: count if scale == 1 else count / scale for symbol, count in strongest})


def _in_units(table: Table | None) -> dict[str, float]:
    if table is None or table.unit == 1:
        return {} if table is None else table.counts
    return {symbol: count / table.unit for symbol, count in table.counts.items()}


def keep_strongest(values: dict[K, V], bound: int, weight: Callable[[V], float], room: float = 0.2) -> int:
    """Drop the values of least weight, the oldest first among equals, when there are more than `bound`.

    Args:
        values: what is trimmed, in place.
        bound: how many there may be.
        weight: what a value is worth.
        room: the share of the bound that is freed when anything is, so that trimming happens rarely.

    Returns:
        How many were dropped.
    """
    if len(values) <= bound:
        return 0
    surplus = len(values) - round(bound * (1 - room))
    for key in sorted(values, key=lambda key: weight(values[key]))[:surplus]:
        del values[key]
    return surplus


READY = 512
"""Tables that are held ready for use; the others are packed."""


class Tables:
    """The tables of all contexts, at most `bound` of them.

    Most contexts are seen once. They share one table per symbol, which is never changed: a context gets a table of its
    own with its second observation.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self.by_key: Packed[Table] = Packed(self._make, READY)
        self._once: dict[str, Table] = {}

    def add(self, key: int, table: Table | None, symbol: str, growth: float) -> None:
        """Count one observation after the context `key`, whose `table` has just been looked up."""
        if table is None:
            self.by_key[key] = self._once.get(symbol) or self.once(symbol)
        elif table.total == 1:
            own = self.by_key[key] = Table(dict(table.counts))
            own.add(symbol, growth)
        else:
            table.add(symbol, growth)

    def once(self, symbol: str) -> Table:
        """Return the table of every context that was seen once, before `symbol`."""
        table = self._once.get(symbol)
        if table is None:
            if len(self._once) >= MAX_SYMBOLS:
                self._once.clear()
            table = self._once[symbol] = Table({symbol: 1})
        return table

    def keep_within_bound(self, taken: int = 0) -> None:
        """Make room when there are too many contexts; `taken` of the places are not ours."""
        self.by_key.keep_heaviest(self.bound - taken)

    def __iter__(self) -> Iterator[tuple[int, Table]]:
        return self.by_key.items()

    def fill(self, tables: Iterable[tuple[int, Table]]) -> None:
        """Take over tables, the shared ones shared again."""
        for key, table in tables:
            self.by_key[key] = self._make(table.counts, table.unit, table.total)
        self.keep_within_bound()

    def _make(self, counts: dict[str, float], unit: float, total: float) -> Table:
        if total == 1 and len(counts) == 1:
            return self.once(next(iter(counts)))
        return Table(counts, unit, total)
