"""`predict evaluate`: how good the predictions on a journal or chat log would have been, and what they cost.

Learned online, as an engine would have: session after session in the order in which they began, for each owner apart,
every decision predicted before it is learned. So every figure is one on data not seen before. May import predict,
replay's lessons and its neighbours. Must never learn from a decision before it is scored.
"""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

from ..core.values import JsonObject
from ..errors import UsageError
from ..predict import Predictor, Score
from ..replay.lessons import Follower, teach
from ..runtime.shelf import Owner
from .lessons import Told, named, opened
from .terminal import Screen

_K = 64
"""How many guesses a decision is scored by, as in the evaluation the predictor was designed with."""


@dataclass
class Evaluation:
    """What an evaluation has found so far.

    Attributes:
        whole: the score of all decisions.
        blocks: the scores of the 1st session, the 2nd and 3rd, the 4th to 7th, and so on: how it was learned.
    """

    whole: Score = field(default_factory=Score)
    blocks: list[Score] = field(default_factory=list[Score])
    sessions: int = 0
    predict_ns: int = 0
    update_ns: int = 0
    predictors: dict[Owner, Predictor] = field(default_factory=dict[Owner, Predictor])

    async def take(self, told: Told) -> None:
        """Go through a history: predict, score, learn."""
        predictor = self.predictors.setdefault(told.owner, Predictor())
        self.sessions += 1
        if self.sessions.bit_length() > len(self.blocks):
            self.blocks.append(Score())
        follower, now, key = Follower(), time.perf_counter_ns, told.session
        async for record in told.records:
            for lesson in follower.take(record):
                started = now()
                guesses = predictor.predict(key, _K, situation=lesson.situation)
                predicted = now()
                teach(predictor, key, lesson)
                self.update_ns += now() - predicted
                self.predict_ns += predicted - started
                self.whole.add(guesses, lesson.tool)
                self.blocks[-1].add(guesses, lesson.tool)
        predictor.forget(key)

    def as_json(self) -> JsonObject:
        """Return everything that was found."""
        each = 1000 * max(1, self.whole.decisions)
        return {
            "sessions": self.sessions, "predictors": len(self.predictors), **_figures(self.whole),
            "predict_us": round(self.predict_ns / each, 1), "update_us": round(self.update_ns / each, 1),
            "contexts": sum(predictor.contexts for predictor in self.predictors.values()),
            "calibration": [one._asdict() for one in self.whole.bins],
            "curve": [
                {"first_session": 2**place, "last_session": min(self.sessions, 2 ** (place + 1) - 1), **_figures(score)}
                for place, score in enumerate(self.blocks)
            ],
        }  # fmt: skip


async def evaluate(options: Namespace, screen: Screen) -> int:
    """Evaluate on a journal or chat log."""
    [name] = named(options, 1, 1)
    if options.plot is not None:
        from .plots import check_plot

        check_plot(options.plot)
    found = Evaluation()
    async with opened(name, "evaluate") as source:
        async for told in source.histories():
            await found.take(told)
    if not found.whole.decisions:
        raise UsageError(f"{name!r} holds no turn that has ended, so there is nothing to predict")
    _show(found, screen)
    if options.plot is not None:
        from .plots import plot

        plot(Path(options.plot), found.whole.bins, [(score.top_1, score.bits) for score in found.blocks])
        screen.line(f"drawn into {options.plot}")
    screen.result(found.as_json())
    return 0


def _figures(score: Score) -> JsonObject:
    return {
        "decisions": score.decisions, "top_1": round(score.top_1, 4), "top_3": round(score.top_3, 4),
        "bits": round(score.bits, 4), "calibration_error": round(score.calibration_error, 4),
    }  # fmt: skip


def _show(found: Evaluation, screen: Screen) -> None:
    names = f"{'first':>8} {'of three':>9} {'bits':>7} {'calibration error':>18}"
    screen.line(screen.paint(f"{'sessions':<16} {'decisions':>10} {names}", "bold"))
    for place, score in enumerate(found.blocks):
        first, last = 2**place, min(found.sessions, 2 ** (place + 1) - 1)
        screen.line(_row(f"{first:,}" if first == last else f"{first:,} to {last:,}", score))
    screen.line(screen.paint(_row("all", found.whole), "bold"))
    screen.heading(f"{'said':>8} {'was right':>10} {'guesses':>10}")
    for one in found.whole.bins:
        screen.line(f"{one.probability:>8.1%} {one.right:>10.1%} {one.guesses:>10,}")
    cost = found.as_json()
    screen.line()
    screen.line(
        f"{cost['predict_us']} µs a prediction, {cost['update_us']} µs an update, {cost['contexts']:,} contexts"
    )


def _row(name: str, score: Score) -> str:
    shares = f"{score.top_1:>8.1%} {score.top_3:>9.1%} {score.bits:>7.3f} {score.calibration_error:>18.3f}"
    return f"{name:<16} {score.decisions:>10,} {shares}"
