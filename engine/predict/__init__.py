"""Learns which tools follow which, says why, and decides what is worth preparing ahead.

`Predictor` is fed calls and asked for the next ones. `Chooser` turns its guesses into what may and should be prepared.
Pure but for `save` and `load`: no clock, no randomness, the same in every process.
"""

from __future__ import annotations

from .arguments import Guess
from .books import Books, Tally
from .contexts import END, START, Situation
from .decision import Allowance, Benefit, Choice, Chooser, Declared, Preparation, WarmRule, permitted
from .learned import PredictorSettings
from .patterns import Execution, Pattern
from .predictor import Predictor, Reason
from .scoring import Score
from .sources import Rule

__all__ = [
    "END",
    "START",
    "Allowance",
    "Benefit",
    "Books",
    "Choice",
    "Chooser",
    "Declared",
    "Execution",
    "Guess",
    "Pattern",
    "Predictor",
    "PredictorSettings",
    "Preparation",
    "Reason",
    "Rule",
    "Score",
    "Situation",
    "Tally",
    "WarmRule",
    "permitted",
]
