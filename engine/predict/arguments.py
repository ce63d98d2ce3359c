"""Guesses the arguments of a call from rules with known success rates, for reads that are worth running ahead.

An argument often repeats an earlier one, stands in an earlier result, is always the same, or runs through a list. For
each argument of each tool it is counted how often each such rule would have been right; the best one that yields a
value now makes the guess. How often *all* arguments were right is counted by guessing before every call. Old counts
fade by 0.5 % a call. May import this package's words,
counts and sources. Must never save a value: a constant is kept as its
salted digest, and its value only in memory, until it is seen again in a later process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from operator import attrgetter
from typing import NamedTuple

from .counts import keep_strongest
from .sources import MAX_VALUE, Rule, Sources, Target, canonical
from .words import Words

FADING = 0.995
"""What an observation still weighs after one more call."""

MAX_TARGETS = 512
"""Arguments (of all tools) for which rules are kept, and tools; the least used are forgotten."""

MAX_RULES = 24
"""Rules kept for one argument."""

MAX_NAMES = 16
"""Arguments of one call that are guessed; a call with more is not."""

MAX_GUESSES = 8
"""Calls that one fan-out yields."""

MAX_SHAPES = 8
"""Sets of arguments that are told apart for one tool."""

_PRIOR_RIGHT, _PRIOR_TRIED = 0.3, 1.5


class Guess(NamedTuple):
    """The arguments that a call will have, perhaps.

    `rate` is how often the first guess for this tool was right in every argument; `because` names, for each argument,
    the rule that gave it and how often that rule was right.
    """

    arguments: dict[str, object]
    rate: float
    because: tuple[tuple[str, Rule, float], ...]


class Score:
    """How often each rule would have been right for one argument, of `calls` calls (faded)."""

    __slots__ = ("calls", "hits")

    def __init__(self, calls: float = 0.0, hits: dict[Rule, float] | None = None) -> None:
        self.calls = calls
        self.hits: dict[Rule, float] = {} if hits is None else hits

    def add(self, right: set[Rule]) -> None:
        """Count one call, for which these rules were right."""
        self.calls = self.calls * FADING + 1
        hits = {rule: count * FADING for rule, count in self.hits.items()}
        for rule in right:
            hits[rule] = hits.get(rule, 0.0) + 1
        self.hits = strongest_rules(hits)


class Habit:
    """How a tool is usually called: which arguments it gets, and how often all were guessed right."""

    __slots__ = ("right", "shapes", "tried")

    def __init__(
        self, right: float = 0.0, tried: float = 0.0, shapes: dict[tuple[str, ...], float] | None = None
    ) -> None:
        self.right = right
        self.tried = tried
        self.shapes: dict[tuple[str, ...], float] = {} if shapes is None else shapes

    @property
    def rate(self) -> float:
        """How often the first guess was right, with a little doubt as long as little was seen."""
        return (self.right + _PRIOR_RIGHT) / (self.tried + _PRIOR_TRIED)

    def add(self, shape: tuple[str, ...], right: bool) -> None:
        """Count one call with these arguments, guessed right or not."""
        self.right = self.right * FADING + right
        self.tried = self.tried * FADING + 1
        shapes = {known: count * FADING for known, count in self.shapes.items()}
        shapes[shape] = shapes.get(shape, 0.0) + 1
        self.shapes = strongest_shapes(shapes)


class ArgumentRules:
    """Learns the rules of one tenant."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self.scores: dict[Target, Score] = {}
        self.habits: dict[str, Habit] = {}
        self._constants: dict[str, str] = {}

    def guess(self, sources: Sources, tool: str) -> list[Guess]:
        """Return guesses of the arguments, best first; several where a rule runs through a list, none without one for
        every argument.
        """
        habit = self.habits.get(tool)
        if habit is None:
            return []
        shape = next(iter(habit.shapes))
        found: list[dict[str, object]] = [{}]
        because: list[tuple[str, Rule, float]] = []
        for name in shape:
            best = self._best(sources, (tool, name))
            if best is None:
                return []
            rule, rate, texts = best
            because.append((name, rule, rate))
            found = [known | {name: json.loads(text)} for known in found for text in texts][:MAX_GUESSES]
        return [Guess(arguments, habit.rate, tuple(because)) for arguments in found]

    def learn(self, sources: Sources, tool: str, args: Mapping[str, object], learn: bool) -> None:
        """Remember the arguments of a call, and (with `learn`) count which rules would have given them."""
        shape = tuple(sorted(args))
        if len(shape) > MAX_NAMES or sum(map(len, shape)) > MAX_VALUE:
            return
        texts = {name: text for name in shape if (text := canonical(args[name])) is not None}
        if learn:
            self._count(sources, tool, shape, texts)
        sources.note_arguments(tool, texts)

    def _count(self, sources: Sources, tool: str, shape: tuple[str, ...], texts: Mapping[str, str]) -> None:
        guesses = self.guess(sources, tool)
        guessed = {name: canonical(value) for name, value in guesses[0].arguments.items()} if guesses else None
        self.habits.setdefault(tool, Habit()).add(shape, guessed == texts and len(texts) == len(shape))
        for name in shape:
            text, target = texts.get(name), (tool, name)
            rules = set[Rule]() if text is None else {*sources.rules_for(text, target), self._constant(text)}
            self.scores.setdefault(target, Score()).add(rules)
        self.keep_within_bounds()

    def _best(self, sources: Sources, target: Target) -> tuple[Rule, float, list[str]] | None:
        score = self.scores.get(target)
        if score is None:
            return None
        for rule, hits in score.hits.items():
            if rule.origin == "constant":
                value = self._constants.get(rule.path)
                texts = [] if value is None else [value]
            else:
                texts = sources.values(rule, target)
            if texts:
                return rule, hits / score.calls, texts
        return None

    def _constant(self, text: str) -> Rule:
        digest = f"{self._words.value(text):016x}"
        self._constants.pop(digest, None)
        self._constants[digest] = text
        if len(self._constants) > MAX_TARGETS:
            del self._constants[next(iter(self._constants))]
        return Rule("constant", "", digest)

    def keep_within_bounds(self) -> None:
        """Make room when there are too many arguments or tools."""
        keep_strongest(self.scores, MAX_TARGETS, attrgetter("calls"))
        keep_strongest(self.habits, MAX_TARGETS, attrgetter("tried"))


def strongest_rules(hits: Mapping[Rule, float]) -> dict[Rule, float]:
    """Return the rules that were right most often, best first."""
    return dict(sorted(hits.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_RULES])


def strongest_shapes(shapes: Mapping[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    """Return the sets of arguments that were given most often, the most usual first."""
    return dict(sorted(shapes.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_SHAPES])
