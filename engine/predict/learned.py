"""Everything a predictor has learned, as one bundle that can be saved, merged and trimmed.

May import this package's parts and errors. Must never hold anything of an open session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..errors import UsageError
from . import books as accounts
from .arguments import ArgumentRules, Habit, Score, strongest_rules, strongest_shapes
from .counts import K, Tables, V, added, merged as merged_tables
from .favourites import Favourites
from .horizon import Horizon, merged as merged_ahead
from .mixing import Mixture, averaged
from .patterns import Pattern, Patterns, total
from .words import Words

MAX_FAVOURITES = 2048
"""Distinct argument values that are counted."""


@dataclass(frozen=True, slots=True)
class PredictorSettings:
    """What a predictor may hold, and whose it is.

    Attributes:
        salt: the tenant's secret, 16 random bytes or more; the same for everything the tenant learns. Without one,
            digests of short arguments can be guessed by whoever has the file.
        max_contexts: contexts in all; at most a quarter of them are the horizon's.
        max_sessions: open sessions; the one not heard of for longest is forgotten.
        horizon: calls that `within` looks ahead at most.
        arguments: whether to learn where arguments come from. It costs time with every call, and keeps the values of
            open sessions in memory.

    Raises:
        UsageError: a bound is smaller than it can be.
    """

    salt: bytes = field(default=b"", repr=False)
    max_contexts: int = 10_000
    max_sessions: int = 256
    horizon: int = 12
    arguments: bool = False

    def __post_init__(self) -> None:
        for name, least in (("max_contexts", 32), ("max_sessions", 1), ("horizon", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}; it has to be {least} or more")


class Learned:
    """The learned state of one tenant and workflow."""

    def __init__(self, settings: PredictorSettings) -> None:
        self.settings = settings
        self.words = Words(settings.salt)
        self.observations = 0
        self.tables = Tables(settings.max_contexts)
        self.mixture = Mixture()
        self.horizon = Horizon(settings.horizon, settings.max_contexts // 4)
        self.favourites = Favourites(self.words, MAX_FAVOURITES)
        self.rules = ArgumentRules(self.words)
        self.patterns = Patterns()
        self.books = accounts.Books()

    def make_room(self) -> None:
        """Forget the weakest contexts when there are too many."""
        self.horizon.keep_within_bound()
        self.tables.keep_within_bound(len(self.horizon.by_key))

    def keep_within_bounds(self) -> None:
        """Forget the weakest of whatever there is too much of."""
        self.make_room()
        self.favourites.keep_within_bound()
        self.rules.keep_within_bounds()
        self.patterns.keep_within_bound()
        self.patterns.weigh()

    def decay(self) -> int:
        """Forget the weakest contexts while nobody waits, so that the next turns find room.

        Returns:
            How many were forgotten; 0 while a fifth of the room is free.
        """
        room = self.settings.max_contexts * 4 // 5
        forgotten = self.horizon.by_key.keep_heaviest(room // 4, 0.0)
        return forgotten + self.tables.by_key.keep_heaviest(room - len(self.horizon.by_key), 0.0)


def merged(one: Learned, other: Learned) -> Learned:
    """Return what both have learned: counts are added, mixing weights averaged by how much each has observed.

    `merged(a, b)` equals `merged(b, a)` to the last bit, because everything is added in the order of its keys.

    Raises:
        UsageError: their settings differ.
    """
    if one.settings != other.settings:
        raise UsageError("two predictors are merged only if their settings (salt, bounds, horizon) are the same")
    both = Learned(one.settings)
    both.observations = one.observations + other.observations
    both.tables.fill(_paired(dict(one.tables), dict(other.tables), merged_tables).items())
    both.mixture.weights = [
        averaged(mine, theirs, one.observations, other.observations)
        for mine, theirs in zip(one.mixture.weights, other.mixture.weights, strict=True)
    ]
    both.horizon.fill(
        _paired(dict(one.horizon.by_key.items()), dict(other.horizon.by_key.items()), merged_ahead).items()
    )
    both.horizon.distances = _paired(one.horizon.distances, other.horizon.distances, _merged_distances)
    both.favourites.counts = added(one.favourites.counts, other.favourites.counts)
    both.rules.scores = _paired(one.rules.scores, other.rules.scores, _merged_scores)
    both.rules.habits = _paired(one.rules.habits, other.rules.habits, _merged_habits)
    both.patterns.by_pair = _paired(one.patterns.by_pair, other.patterns.by_pair, _merged_patterns)
    both.books = accounts.merged(one.books, other.books)
    both.keep_within_bounds()
    return both


def _paired(one: Mapping[K, V], other: Mapping[K, V], merge: Callable[[V | None, V | None], V]) -> dict[K, V]:
    """Return new values for the keys of both, in the order of the keys."""
    return {key: merge(one.get(key), other.get(key)) for key in sorted(one.keys() | other.keys())}


def _merged_distances(one: list[int] | None, other: list[int] | None) -> list[int]:
    if one is None or other is None:
        return list(one or other or ())
    return [a + b for a, b in zip(one, other, strict=True)]


def _merged_scores(one: Score | None, other: Score | None) -> Score:
    one, other = one or Score(), other or Score()
    return Score(one.calls + other.calls, strongest_rules(added(one.hits, other.hits)))


def _merged_habits(one: Habit | None, other: Habit | None) -> Habit:
    one, other = one or Habit(), other or Habit()
    shapes = strongest_shapes(added(one.shapes, other.shapes))
    return Habit(one.right + other.right, one.tried + other.tried, shapes)


def _merged_patterns(one: Pattern | None, other: Pattern | None) -> Pattern:
    return total(pattern for pattern in (one, other) if pattern is not None)
