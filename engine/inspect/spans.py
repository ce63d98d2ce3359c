"""A history as spans of time: what state a session was in and for how long, and which tool runs lay side by side.

Times are microseconds since the first record: by the monotonic clock within a process, by the time of day between
processes. May import core and its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..core.record import TransitionRecord
from ..core.values import ToolStatus
from .encoding import elapsed_us
from .wording import Asked, Mark, Reader, Told


class Span(NamedTuple):
    """Something that lasted, in µs."""

    name: str
    start_us: int
    end_us: int


class Run(NamedTuple):
    """One run of a call: `lane` is the first that was free when it began, from 0; runs of one lane never overlap."""

    call: Asked
    start_us: int
    end_us: int
    status: ToolStatus
    mark: Mark
    seq: int
    lane: int = 0


@dataclass(frozen=True)
class Spans:
    """What of a history has a length, and when each record was written."""

    times_us: list[int] = field(default_factory=list[int])
    turns: list[Span] = field(default_factory=list[Span])
    states: list[Span] = field(default_factory=list[Span])
    runs: list[Run] = field(default_factory=list[Run])


def spans_of(records: Iterable[TransitionRecord]) -> Spans:
    """Return the spans of a history, in the order in which they begin."""
    found, reader = Spans(), Reader()
    before: TransitionRecord | None = None
    now = 0
    for record in records:
        since, now = now, now + elapsed_us(before, record)
        told = reader.tell(record)
        found.times_us.append(now)
        if told.turn:
            # What lies before a prompt is not part of its turn.
            start = now if record.trigger == "prompt_received" else since
            _extend(found.turns, f"turn {told.turn}", start, now)
            _extend(found.states, record.source.value, start, now)
        if told.status is not None and told.call >= 0:
            found.runs.append(_run(record, told, reader.calls[told.call], found.times_us))
        before = record
    found.runs[:] = _in_lanes(found.runs)
    return found


def _extend(spans: list[Span], name: str, start: int, end: int) -> None:
    """Let the last span go on, or begin another."""
    if spans and spans[-1].name == name and spans[-1].end_us == start:
        start = spans.pop().start_us
    spans.append(Span(name, start, end))


def _run(record: TransitionRecord, told: Told, call: Asked, times_us: Sequence[int]) -> Run:
    """Return the run that a record ends: as long as it says, and not begun before it was asked for."""
    end = times_us[-1]
    start = max(times_us[call.seq - 1], end - round(told.duration_s * 1e6))
    assert told.status is not None
    return Run(call, start, end, told.status, told.mark, record.seq)


def _in_lanes(runs: Sequence[Run]) -> list[Run]:
    free: list[int] = []
    placed: list[Run] = []
    for run in sorted(runs, key=lambda run: (run.start_us, run.seq)):
        lane = next((lane for lane, end in enumerate(free) if end <= run.start_us), len(free))
        free[lane : lane + 1] = [max(run.end_us, run.start_us + 1)]
        placed.append(run._replace(lane=lane))
    return placed
