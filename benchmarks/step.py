"""step: one pure advance, by the compiled index and through the machine, beside transitions alone and a dict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from engine.core.events import KnownEvent
from engine.core.session import Session
from engine.core.step import step
from engine.core.table import fire, fire_through_machine

from .histories import events
from .machines import Bare, run_dict, triggers
from .numbers import Effort, Laps, Number, Result, check, mark
from .workload import STANDARD

_TURNS = 20


def measure(effort: Effort, disk: Path) -> Result:
    """Return the cost of `step` an event over the events of 20 standard turns; the four ways take turns."""
    told = list(events(_TURNS, STANDARD))
    names = triggers(len(told))
    bare = Bare()
    index, machine, transitions, plain = Laps(), Laps(), Laps(), Laps()
    for _ in range(effort.folds):
        since = mark()
        ended = _fold(told)
        index.add(since, len(told))
        since = mark()
        slow = _fold_through_machine(told)
        machine.add(since, len(told))
        check(ended == slow and ended.turns == _TURNS, f"{ended.turns} turns by the index, {slow.turns} by the machine")
        since = mark()
        bare.run(names)
        transitions.add(since, len(names))
        since = mark()
        run_dict(names)
        plain.add(since, len(names))
    against = median(index.cpu_ns) / median(transitions.cpu_ns)
    return Result(
        (
            *index.numbers("step.index"),
            *machine.numbers("step.machine"),
            *transitions.numbers("step.transitions_alone"),
            *plain.numbers("step.dict"),
            Number("step.index_to_transitions.cpu_ratio", "×", against),
        )
    )


def _fold(told: Sequence[KnownEvent]) -> Session:
    session = Session("bench")
    for event in told:
        session = step(session, event, fire).session
    return session


def _fold_through_machine(told: Sequence[KnownEvent]) -> Session:
    session = Session("bench")
    for event in told:
        session = step(session, event, fire_through_machine).session
    return session
