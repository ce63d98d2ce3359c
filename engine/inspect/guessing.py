"""What a predictor would have said about a run: each call, and each end of a turn, guessed before it is learned.

Learned from this history alone, in its order, as the command `predict evaluate` does, so every guess is one about what
was not seen yet. May import core, predict and replay's lessons.
"""

from __future__ import annotations

from pydantic import JsonValue

from ..core.record import TransitionRecord
from ..predict import Predictor
from ..replay.lessons import Follower, teach

SHOWN = 3
"""How many guesses of a decision are kept."""


class Guesser:
    """Follows one session and learns from it.

    Args:
        session: its id.
    """

    def __init__(self, session: str) -> None:
        self._session = session
        self._follower = Follower()
        self._predictor = Predictor()

    def take(self, record: TransitionRecord) -> list[JsonValue]:
        """Return what was guessed about what a record teaches: `[seq, what came, [[guess, probability], …]]`."""
        found: list[JsonValue] = []
        for lesson in self._follower.take(record):
            guesses = self._predictor.predict(self._session, SHOWN, situation=lesson.situation)
            shown: list[JsonValue] = [[tool, round(probability, 4)] for tool, probability in guesses]
            found.append([record.seq, lesson.tool, shown])
            teach(self._predictor, self._session, lesson)
        return found
