"""Mixes what the tables say into one probability, and learns how far to trust each of them.

With tables i of weight w_i that have counted c_i(s) of n_i observations for the symbol s, and A symbols known,

    p(s) = (1 - u) · Σ w_i · c_i(s)/n_i / Σ w_i + u/A

A weight belongs to a kind of context and a cell of its table, so it is learned from all contexts of that kind. After
the symbol s came, each weight is multiplied by exp(rate · g_i), where g_i is the derivative of log p(s) by log w_i:
exponentiated gradient (J. Kivinen and M. K. Warmuth, 1997) on the loss that is evaluated, in bits a symbol. May import
this package's contexts, counts and prior. Must never hold a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log
from operator import itemgetter
from typing import NamedTuple

from .contexts import Kind
from .counts import Table
from .prior import first_weights

UNIFORM = 0.012
"""u: the share of probability that is spread evenly over all symbols, so that none is impossible."""

RATE = 0.7
"""How fast the weights are learned."""

LARGEST = exp(6.0)
SMALLEST = exp(-6.0)
"""Bounds of a weight."""

Evidence = list[tuple[int, Table]]
"""Kinds, each with the table of the context of that kind."""

_by_probability = itemgetter(1)


class Share(NamedTuple):
    """What one table adds to a probability: `weight` (the weights of all tables add up to 1) times `probability`."""

    kind: Kind
    weight: float
    probability: float
    seen: float


class Mixture:
    """The mixing weights of one tenant."""

    def __init__(self) -> None:
        self.weights = [[exp(weight) for weight in first_weights(kind)] for kind in Kind]

    def ranked(self, evidence: Evidence, k: int, symbols: int) -> list[tuple[str, float]]:
        """Return the `k` most probable symbols with their probabilities, best first.

        Args:
            evidence: what the tables say; nothing said gives an empty list.
            k: how many are wanted.
            symbols: A, how many symbols there are.
        """
        weights = self.weights
        shares = [weights[kind][table.cell] for kind, table in evidence]
        certain = (1 - UNIFORM) / (sum(shares) or 1.0)
        mixed: dict[str, float] = {}
        so_far = mixed.get
        for share, (_, table) in zip(shares, evidence, strict=True):
            factor = share * certain / table.total
            for symbol, count in table.counts.items():
                mixed[symbol] = so_far(symbol, 0.0) + factor * count
        even = UNIFORM / max(symbols, len(mixed) + 2)
        best = sorted(mixed.items(), key=_by_probability, reverse=True)[:k]
        return [(symbol, probability + even) for symbol, probability in best]

    def learn(self, evidence: Evidence, symbol: str, symbols: int) -> None:
        """Shift the weights towards the tables that expected `symbol`."""
        weights = self.weights
        shares = [weights[kind][table.cell] for kind, table in evidence]
        whole = sum(shares)
        said = [table.counts.get(symbol, 0.0) / table.total for _, table in evidence]
        mixed = sum([share * one for share, one in zip(shares, said, strict=True)])
        # d log p / d log w_i = share_i · (certain · said_i - 1)
        certain = (1 - UNIFORM) / ((1 - UNIFORM) * mixed / whole + UNIFORM / symbols)
        rate = RATE / whole
        for (kind, table), share, one in zip(evidence, shares, said, strict=True):
            moved = share * exp(rate * share * (certain * one - 1))
            weights[kind][table.cell] = min(LARGEST, max(SMALLEST, moved))

    def explain(self, evidence: Evidence, symbol: str) -> list[Share]:
        """Return what each table adds to the probability of `symbol`, the largest first.

        The sum of weight times probability is what `ranked` gives, before the even share.
        """
        shares = [self.weights[kind][table.cell] for kind, table in evidence]
        whole = sum(shares) or 1.0
        found = [
            Share(Kind(kind), (1 - UNIFORM) * share / whole, table.counts.get(symbol, 0) / table.total, table.seen)
            for share, (kind, table) in zip(shares, evidence, strict=True)
        ]
        return sorted(found, key=lambda share: (-share.weight * share.probability, -share.weight, share.kind))


def averaged(one: Sequence[float], other: Sequence[float], seen: int, seen_by_other: int) -> list[float]:
    """Return the geometric means of two rows of weights, each as heavy as the observations behind it."""
    whole = max(1, seen + seen_by_other)
    return [
        exp((seen * log(a) + seen_by_other * log(b)) / whole) if seen + seen_by_other else a
        for a, b in zip(one, other, strict=True)
    ]
