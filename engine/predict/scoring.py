"""Measures how well guesses fit what came: accuracy, log-loss, calibration.

The measures are those of the evaluation that the predictor was designed with, so figures can be held side by side. May
import the standard library's mathematics. Must never ask a predictor itself, so that a guess is made before it is
scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import NamedTuple

BINS = 10
"""Classes of probability in which calibration is looked at."""

LEAST = 1e-4
"""What a symbol that was not among the guesses is counted as, so that one surprise costs 13.3 bits, not infinity."""


class Bin(NamedTuple):
    """First guesses of about the same probability: how many, their mean probability, and the share that was right."""

    guesses: int
    probability: float
    right: float


class Score:
    """What a series of guesses adds up to."""

    def __init__(self) -> None:
        self.decisions = 0
        self._first = 0
        self._among_three = 0
        self._bits = 0.0
        self._bins = [(0, 0.0, 0)] * BINS

    def add(self, guesses: Sequence[tuple[str, float]], came: str) -> None:
        """Count one decision.

        Args:
            guesses: symbols with probabilities, best first.
            came: the symbol that came.
        """
        self.decisions += 1
        names = [name for name, _ in guesses[:3]]
        self._first += names[:1] == [came]
        self._among_three += came in names
        self._bits -= log2(min(1.0, max(LEAST, dict(guesses).get(came, 0.0))))
        if guesses:
            probability = min(1.0, guesses[0][1])
            place = min(BINS - 1, int(probability * BINS))
            count, mass, right = self._bins[place]
            self._bins[place] = count + 1, mass + probability, right + (names[0] == came)

    @property
    def top_1(self) -> float:
        """The share of decisions whose first guess was right."""
        return self._first / max(1, self.decisions)

    @property
    def top_3(self) -> float:
        """The share of decisions where one of the first three guesses was right."""
        return self._among_three / max(1, self.decisions)

    @property
    def bits(self) -> float:
        """The mean log-loss of a decision, in bits."""
        return self._bits / max(1, self.decisions)

    @property
    def calibration_error(self) -> float:
        """The mean distance of probability and accuracy of the first guess (expected calibration error, ten classes;
        Naeini, Cooper and Hauskrecht 2015).
        """
        return sum(abs(mass - right) for _, mass, right in self._bins) / max(1, self.decisions)

    @property
    def bins(self) -> list[Bin]:
        """The classes of probability that hold a guess, from improbable to sure."""
        return [Bin(count, mass / count, right / count) for count, mass, right in self._bins if count]
