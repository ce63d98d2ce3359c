"""Traces, diagrams and text say when what ran; other programs' readers are asked in the browser."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from hypothesis import given, settings

from engine.core.record import TransitionRecord
from engine.inspect import exports
from engine.inspect.spans import spans_of
from engine.testing.strategies import histories

from .pages import example, nasty


def test_spans_are_as_long_as_the_history_says() -> None:
    """Runs that lay side by side have lanes of their own, and each begins its duration before its end."""
    spans = spans_of(example())
    assert [(run.call.tool, run.lane, run.end_us - run.start_us) for run in spans.runs[:4]] == [
        ("customer_history", 0, 94_000),
        ("find_order", 1, 183_000),
        ("track_parcel", 2, 642_000),
        ("refund_rules", 0, 310_000),
    ]
    assert [span.name for span in spans.turns] == ["turn 1", "turn 2", "turn 3"]
    assert next(span for span in spans.states if span.name == "waiting_for_user").end_us == 79_832_000


@given(histories())
@settings(max_examples=30, deadline=None)
def test_runs_of_one_lane_never_overlap(records: list[TransitionRecord]) -> None:
    """Whatever a history says of times, a lane shows one run at a time, and none runs backwards."""
    lanes: dict[int, list[tuple[int, int]]] = {}
    for run in spans_of(records).runs:
        lanes.setdefault(run.lane, []).append((run.start_us, run.end_us))
    for runs in lanes.values():
        assert all(start <= end for start, end in runs)
        assert all(before[1] <= after[0] for before, after in pairwise(runs))


@given(histories())
@settings(max_examples=30, deadline=None)
def test_events_of_a_thread_nest(records: list[TransitionRecord]) -> None:
    """Of two events of one thread one holds the other or they lie apart: what trace viewers ask for."""
    threads: dict[Any, list[tuple[int, int]]] = {}
    events: Any = exports.trace(records)["traceEvents"]
    for event in events:
        if event["ph"] == "X":
            threads.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    for spans in threads.values():
        open_until: list[int] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= start:
                open_until.pop()
            assert not open_until or end <= open_until[-1]
            open_until.append(end)


def test_trace_holds_every_run() -> None:
    """Each run is an event with its call, status and sequence; a problem is marked on the session's thread."""
    events: Any = exports.trace(example())["traceEvents"]
    assert Counter(event["name"] for event in events if event.get("cat") == "done")["track_parcel"] == 2
    [failed] = [event for event in events if event.get("cat") == "problem" and event["ph"] == "X"]
    assert failed["args"] == {"call": 'track_parcel(parcel="XK-12")', "status": "timed_out", "seq": 27}
    assert [event["args"]["seq"] for event in events if event["ph"] == "i"] == [27]


def test_state_diagram_counts_the_moves_of_the_history() -> None:
    """A move that happened has its number, one that did not has none."""
    lines = exports.states(example()).splitlines()
    assert "  processing --> generating_response: 8" in lines
    assert "  error --> processing: 1" in lines
    assert "  error --> idle" in lines


def test_sequence_diagram_can_be_filtered() -> None:
    """Only what passes is drawn, and tools take part from their first appearance."""
    drawn = exports.sequence(example(), "turn:2")
    assert "u->>s: Yes, please refund it." in drawn
    assert "s->>u: Refund 49.90 EUR?" in drawn
    assert "as find_order" not in drawn
    assert drawn.count("participant t") == 3


def test_sequence_diagram_gives_nothing_to_act_on() -> None:
    """Whatever a tool wrote, a line of the diagram stays one line and holds no mark-up."""
    lines = exports.sequence(nasty()).splitlines()[1:]
    assert all("<" not in line and '"' not in line and "`" not in line for line in lines)
    assert all(line.startswith("  ") for line in lines)


def test_text_tells_every_record_by_turns() -> None:
    """There is a line a record, in order, and one before each turn."""
    lines = list(exports.text(example()))
    assert [line for line in lines if line.startswith("turn")] == ["turn 1", "turn 2", "turn 3"]
    assert [int(line[:6]) for line in lines if line.startswith(" ")] == list(range(1, 34))
