"""Decides what is prepared ahead: whether it pays, and whether it may be done at all.

Most seconds saved, with a share w of preparations wasted at most, is a constrained problem; its Lagrangian says to
prepare a tool when

    p · b ≥ mu · (1 - p - w)

p: probability that it is used in time; b: seconds that would be saved; mu: the price of waste. After each preparation
mu is multiplied by exp(0.15 · (wasted - w)), which drives the share of wasted ones to w whatever p is worth (stochastic
approximation: H. Robbins and S. Monro, 1951).

What may be done is asked of the tool's declaration and of nothing else: a tool's own hook may run, because that is what
it is for; a call may run ahead only if the tool is declared a read. May import this package's
counts. Must never look at a tool's name to find out what it does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from itertools import islice
from math import exp, inf
from typing import Literal, NamedTuple, TypeAlias

from .counts import MAX_SYMBOLS

Effect: TypeAlias = Literal["read", "idempotent", "write"]
"""What running a tool twice does; the same words as everywhere in the engine."""

LEAST_PROBABILITY = 0.02
"""Below this nothing is prepared, whatever it might save."""

FIRST_PRICE = 8.0
LOWEST_PRICE = 1e-3
HIGHEST_PRICE = 1e4
STEP = 0.15
"""How mu begins, its bounds, and how fast it moves."""


class Declared(NamedTuple):
    """What a tool says about itself.

    `has_hook`: it can warm what it needs without being called. `may_run_ahead`: its host allows reads of it to run
    before they are asked for; means nothing for a tool that is no read. `cost_s`: seconds of work one preparation
    takes.
    """

    effect: Effect = "write"
    has_hook: bool = False
    may_run_ahead: bool = False
    cost_s: float = 0.0


class Preparation(Enum):
    """How a tool is prepared."""

    HOOK = "hook"
    CALL = "call"


class Choice(NamedTuple):
    """One thing to prepare, and the numbers it was chosen by."""

    tool: str
    preparation: Preparation
    probability: float
    benefit_s: float


class Allowance(NamedTuple):
    """What may be spent at one time: preparations, and seconds of work."""

    preparations: int = 3
    seconds: float = 10.0


def permitted(declared: Declared) -> Preparation | None:
    """Return how a tool may be prepared, None if not at all. A write is never called ahead."""
    if declared.has_hook:
        return Preparation.HOOK
    if declared.effect == "read" and declared.may_run_ahead:
        return Preparation.CALL
    return None


class WarmRule:
    """The price of waste, learned from what became of earlier preparations.

    Args:
        waste: w, the share of preparations that may be wasted, from 0 to 1.
    """

    def __init__(self, waste: float = 0.10) -> None:
        self.waste = waste
        self.price = FIRST_PRICE

    def pays(self, probability: float, benefit_s: float) -> bool:
        """Say whether to prepare something that is used with this probability and then saves this many seconds."""
        if probability < LEAST_PROBABILITY:
            return False
        return probability * benefit_s >= self.price * (1 - probability - self.waste)

    def settle(self, wasted: bool) -> None:
        """Count one preparation that was used, or was not used in time."""
        self.price = min(HIGHEST_PRICE, max(LOWEST_PRICE, self.price * exp(STEP * (wasted - self.waste))))


class _Mean:
    """A mean that forgets: each observation weighs more than the one before. `prior` counts for `heft` of them."""

    __slots__ = ("heft", "keep", "prior", "total", "weight")

    def __init__(self, keep: float, heft: float, prior: float) -> None:
        self.keep = keep
        self.heft = heft
        self.prior = prior
        self.total = self.weight = 0.0

    @property
    def value(self) -> float:
        return (self.total + self.heft * self.prior) / (self.weight + self.heft)

    def add(self, observed: float) -> None:
        self.total = self.total * self.keep + observed
        self.weight = self.weight * self.keep + 1
        self.heft *= self.keep


class Sums(NamedTuple):
    """What a mean is made of."""

    total: float
    weight: float
    prior: float
    heft: float


_THINKING, _ALL, _WARM = "<thinking>", "<all>", "<warm>"
_NOTHING = Sums(0.0, 0.0, 0.0, inf)


class Benefit:
    """Learns how many seconds a preparation saves: a tool's start-up, but no more than the model takes to think.

    A start-up is what a cold call takes beyond warm ones. A tool begins at what it declares, or at the mean of all
    tools, which begins at a second; thinking begins at two.
    """

    def __init__(self) -> None:
        self._means = {_THINKING: _Mean(0.99, 1.0, 2.0), _ALL: _Mean(0.998, 1.0, 1.0)}

    @property
    def thinking_s(self) -> float:
        """The seconds that the model takes to reply."""
        return self._means[_THINKING].value

    def start_s(self, tool: str) -> float:
        """Return the seconds that a tool is expected to need to start up."""
        return self._means.get(tool, self._means[_ALL]).value

    def expected_s(self, tool: str) -> float:
        """Return the seconds that preparing a tool is expected to save."""
        return min(self.start_s(tool), self.thinking_s)

    def declare(self, tool: str, seconds: float) -> None:
        """Take a tool's own word for its start-up, which counts as much as two observations."""
        if tool not in self._means:
            self._add(tool, seconds)

    def started(self, tool: str, seconds: float) -> None:
        """Count the seconds that a tool took to start up cold."""
        everything = self._means[_ALL]
        (self._means.get(tool) or self._add(tool, everything.value)).add(seconds)
        everything.add(seconds)

    def called(self, tool: str, seconds: float, *, cold: bool) -> None:
        """Count the seconds that a call took. A cold one says something once a warm one was seen."""
        warm = self._means.get(_WARM + tool)
        if not cold:
            (warm or self._add(_WARM + tool, seconds)).add(seconds)
        elif warm is not None:
            self.started(tool, max(0.0, seconds - warm.value))

    def thought(self, seconds: float) -> None:
        """Count the seconds that the model took to reply."""
        self._means[_THINKING].add(seconds)

    def sums(self) -> dict[str, Sums]:
        """Return everything that was learned."""
        return {name: Sums(mean.total, mean.weight, mean.prior, mean.heft) for name, mean in self._means.items()}

    @classmethod
    def of(cls, sums: Mapping[str, Sums]) -> Benefit:
        """Return what `sums` described."""
        benefit = cls()
        for name, (total, weight, prior, heft) in sums.items():
            mean = benefit._means.get(name) or benefit._add(name, prior)
            mean.total, mean.weight, mean.heft = total, weight, heft
        return benefit

    def merged(self, other: Benefit) -> Benefit:
        """Return what both have learned; the order of the two does not matter."""
        mine, theirs = self.sums(), other.sums()
        both: dict[str, Sums] = {}
        for name in sorted(mine.keys() | theirs.keys()):
            one, two = mine.get(name, _NOTHING), theirs.get(name, _NOTHING)
            prior, heft = max(one.prior, two.prior), min(one.heft, two.heft)
            both[name] = Sums(one.total + two.total, one.weight + two.weight, prior, heft)
        return Benefit.of(both)

    def _add(self, name: str, prior: float) -> _Mean:
        mean = self._means[name] = _Mean(0.98, 2.0, prior)
        while len(self._means) > MAX_SYMBOLS:
            # The first two are everybody's; after them the oldest stands.
            del self._means[next(islice(self._means, 2, None))]
        return mean


class Chooser:
    """Chooses what to prepare.

    Args:
        rule: whether it pays.
        benefit: what it saves.
    """

    def __init__(self, rule: WarmRule, benefit: Benefit) -> None:
        self.rule = rule
        self.benefit = benefit

    def choose(
        self,
        guesses: Iterable[tuple[str, float]],
        declared: Mapping[str, Declared],
        warm: Collection[str] = (),
        allowance: Allowance = Allowance(),  # noqa: B008 - frozen
    ) -> list[Choice]:
        """Return what to prepare, in the order of the guesses.

        Args:
            guesses: tools with the probability that they are used in time, best first.
            declared: the tools that exist, with what they say about themselves; others are not considered.
            warm: tools that are prepared already.
            allowance: how much at most.
        """
        chosen: list[Choice] = []
        seconds_left = allowance.seconds
        for tool, probability in guesses:
            about = declared.get(tool)
            if about is None or tool in warm or len(chosen) >= allowance.preparations:
                continue
            preparation = permitted(about)
            benefit_s = self.benefit.expected_s(tool)
            if preparation is None or about.cost_s > seconds_left or not self.rule.pays(probability, benefit_s):
                continue
            chosen.append(Choice(tool, preparation, probability, benefit_s))
            seconds_left -= about.cost_s
        return chosen
