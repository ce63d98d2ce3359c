"""Keeps account of preparing for one owner: what it cost, what it saved, and so whether it may be done at all.

Preparing begins in the shadow: what would be prepared is only noted, and settled by the calls that come. After 20 runs
(turns) with a net saving it is done, after 20 runs without one it is only noted again; the net saving fades by 5 % a
run, so that the newest count most. All seconds are handed in. May import this package's decision. Must never prepare
anything, or read a clock.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import exp, log

from .decision import Benefit, WarmRule

RUNS = 20
"""Runs after which it is judged whether preparing pays."""

FADING = 0.95
"""What the seconds of a run still weigh after one more."""


@dataclass(slots=True)
class Tally:
    """What became of preparations.

    `expected` adds up the probabilities that they were chosen by: where those are right it comes to `used`. `failed`
    ones came to nothing: the hook raised, ran too long, or gave way to input. Seconds were spent in vain on what failed
    or was not used.
    """

    prepared: int = 0
    used: int = 0
    wasted: int = 0
    failed: int = 0
    expected: float = 0.0
    saved_s: float = 0.0
    wasted_s: float = 0.0

    @property
    def net_s(self) -> float:
        """Seconds saved, less seconds spent in vain."""
        return self.saved_s - self.wasted_s

    @property
    def doubted(self) -> float:
        """How many of those that were used or wasted had to be expected to be wasted."""
        return (self.prepared - self.expected) * (self.used + self.wasted) / max(1, self.prepared)

    def add(self, other: Tally) -> None:
        """Add what another tally counted."""
        self.prepared += other.prepared
        self.used += other.used
        self.wasted += other.wasted
        self.failed += other.failed
        self.expected += other.expected
        self.saved_s += other.saved_s
        self.wasted_s += other.wasted_s


class Books:
    """The account of one owner.

    Attributes:
        rule: what waste costs.
        benefit: what a preparation saves.
        noted: preparations that were only noted.
        done: preparations that were carried out.
        acting: whether preparing has shown that it pays.
        runs: runs since that was last decided.
        recent_s: the net saving, in seconds, of the newest runs.
    """

    def __init__(self) -> None:
        self.rule = WarmRule()
        self.benefit = Benefit()
        self.noted = Tally()
        self.done = Tally()
        self.acting = False
        self.runs = 0
        self.recent_s = 0.0

    def tally(self, really: bool) -> Tally:
        """Return where preparations are counted that were carried out, or only noted."""
        return self.done if really else self.noted

    def trusted(self, probability: float) -> float:
        """Return a probability, or what is left of it if more was wasted than may be.

        Then the doubt in it is multiplied by how often preparations were in vain, by how often they should have been;
        one of each is taken for granted. Without this, what seems surer than the budget asks for would be prepared at
        any price of waste, however often that turns out wrong.
        """
        wasted = self.noted.wasted + self.done.wasted
        settled = wasted + self.noted.used + self.done.used
        if wasted <= self.rule.waste * settled:
            return probability
        doubt = (1 + wasted) / (1 + self.noted.doubted + self.done.doubted)
        return max(0.0, min(probability, 1 - (1 - probability) * doubt))

    def settle(self, net_s: float, *, wasted: bool) -> None:
        """Take in what became of a preparation: whether it was in vain, and the seconds saved, or negative, spent."""
        self.recent_s += net_s
        self.rule.settle(wasted)

    def end_run(self) -> None:
        """Count a run, and judge after enough of them whether to act from now on."""
        self.runs += 1
        if self.runs >= RUNS and (self.recent_s > 0) is not self.acting:
            self.acting = not self.acting
            self.runs = 0
        self.recent_s *= FADING


def numbers_of(books: Books) -> list[object]:
    """Return books as JSON values."""
    benefit = {name: list(sums) for name, sums in books.benefit.sums().items()}
    return [
        books.rule.price, list(astuple(books.noted)), list(astuple(books.done)), books.acting, books.runs,
        books.recent_s, benefit,
    ]  # fmt: skip


def merged(one: Books, other: Books) -> Books:
    """Return books that know what both do; the order of the two does not matter.

    The price is the geometric mean, each as heavy as the preparations behind it. Preparing goes on if both do it.
    """
    both = Books()
    for books in (one, other):
        both.noted.add(books.noted)
        both.done.add(books.done)
    both.rule.price = one.rule.price
    if one.rule.price != other.rule.price:
        weights = [1 + books.noted.prepared + books.done.prepared for books in (one, other)]
        logs = [weight * log(books.rule.price) for weight, books in zip(weights, (one, other), strict=True)]
        both.rule.price = exp(sum(logs) / sum(weights))
    both.benefit = one.benefit.merged(other.benefit)
    both.acting = one.acting and other.acting
    both.runs = one.runs + other.runs if one.acting is other.acting else 0
    both.recent_s = one.recent_s + other.recent_s
    return both
