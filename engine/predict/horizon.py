"""Predicts what will be used within the next few calls, which is what decides whether a warm cache pays.

Every decision point is kept until the next `horizon` calls have been seen, or the session is over; then it counts, in
the tables of its contexts, each tool that was used in between. An estimate shrinks towards that of the wider context:
with n decision points after a context, k of which were followed by the tool, and p the estimate of the wider context,
it is (k + 2p) / (n + 2). The contexts are, from wide to narrow: none, the last tool, the last two, the last and the
set of all used. May import this package's counts and packing. Must never look at the session but through the keys it is
given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .counts import MAX_SYMBOLS, MAX_TOTAL, added, keep_strongest
from .packed import Packed

KAPPA = 2.0
"""How many observations the wider context's estimate counts for."""


READY = 96
"""Contexts that are held ready for use; the others are packed."""


class Pending(NamedTuple):
    """A decision point whose future is not known yet: its keys, and how many calls later each tool was first used."""

    keys: tuple[int, ...]
    first_use: dict[str, int]


class Ahead:
    """What was used within the horizon after a context: decision points seen, and those followed by each tool."""

    __slots__ = ("counts", "total")
    unit = 1.0

    def __init__(self, seen: float = 0, counts: dict[str, float] | None = None) -> None:
        self.total = seen
        self.counts: dict[str, float] = {} if counts is None else counts

    @property
    def seen(self) -> float:
        """How many decision points were seen."""
        return self.total

    def add(self, tools: dict[str, int]) -> None:
        """Count one decision point that these tools followed."""
        self.total += 1
        counts = self.counts
        for tool in tools:
            counts[tool] = counts.get(tool, 0) + 1
        if self.total > MAX_TOTAL or len(counts) > MAX_SYMBOLS:
            self.total /= 2
            self.counts = {tool: count / 2 for tool, count in counts.items() if count > 1}


class Horizon:
    """Learns and predicts use within the next `horizon` calls.

    Args:
        horizon: calls for which a warmed cache stays warm; the longest that can be asked for.
        bound: how many contexts are kept.
    """

    def __init__(self, horizon: int, bound: int) -> None:
        self.horizon = horizon
        self.bound = bound
        self.by_key: Packed[Ahead] = Packed(_made, READY)
        self.distances: dict[str, list[int]] = {}

    def within(self, keys: tuple[int, ...], horizon: int) -> dict[str, float]:
        """Return the probability that each tool is used within the next `horizon` calls, at most `self.horizon`.

        A shorter horizon takes from each estimate the share of the tool's first uses that came as early as that.
        """
        estimate: dict[str, float] = {}
        for key in keys:
            ahead = self.by_key.get(key)
            if ahead is None:
                continue
            counts, weight = ahead.counts, ahead.total + KAPPA
            narrower = {tool: (counts.get(tool, 0) + KAPPA * p) / weight for tool, p in estimate.items()}
            for tool, count in counts.items():
                if tool not in narrower:
                    narrower[tool] = count / weight
            estimate = narrower
        if horizon < self.horizon:
            estimate = {tool: p * self._early(tool, horizon) for tool, p in estimate.items()}
        return estimate

    def see(self, pending: list[Pending], keys: tuple[int, ...], tool: str, learn: bool) -> None:
        """Tell every open decision point of a session, and the one just taken, that a tool was used."""
        pending.append(Pending(keys, {}))
        newest = len(pending)
        for position, point in enumerate(pending):
            point.first_use.setdefault(tool, newest - position)
        if newest >= self.horizon:
            self._close(pending.pop(0), learn)

    def end(self, pending: list[Pending], learn: bool) -> None:
        """Close every decision point of a session that is over."""
        for point in pending:
            self._close(point, learn)
        pending.clear()

    def keep_within_bound(self) -> None:
        """Make room when there are too many contexts or tools."""
        self.by_key.keep_heaviest(self.bound)
        keep_strongest(self.distances, MAX_SYMBOLS, sum)

    def fill(self, aheads: Iterable[tuple[int, Ahead]]) -> None:
        """Take over what others have seen."""
        for key, ahead in aheads:
            self.by_key[key] = ahead
        self.by_key.keep_heaviest(self.bound)

    def _close(self, point: Pending, learn: bool) -> None:
        if not learn:
            return
        for key in point.keys:
            ahead = self.by_key.get(key)
            if ahead is None:
                ahead = self.by_key[key] = Ahead()
            ahead.add(point.first_use)
        for tool, distance in point.first_use.items():
            distances = self.distances.get(tool)
            if distances is None:
                distances = self.distances[tool] = [0] * self.horizon
            distances[distance - 1] += 1

    def _early(self, tool: str, horizon: int) -> float:
        distances = self.distances.get(tool)
        return 0.0 if distances is None else sum(distances[:horizon]) / sum(distances)


def _made(counts: dict[str, float], unit: float, total: float) -> Ahead:
    return Ahead(total, counts)


def merged(one: Ahead | None, other: Ahead | None) -> Ahead:
    """Return what both have seen; the order of the two does not matter."""
    one, other = one or Ahead(), other or Ahead()
    counts = added(one.counts, other.counts)
    strongest = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_SYMBOLS]
    return Ahead(one.seen + other.seen, dict(strongest))
