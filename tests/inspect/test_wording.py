"""One line a record: what the inspector and the command line say about every kind of event."""

from __future__ import annotations

import json
from pathlib import Path

from engine.core.events import HISTORY_PRUNED, UnknownEvent
from engine.core.record import TransitionRecord
from engine.core.values import State
from engine.inspect.wording import Mark, Reader
from engine.journal.codec import decode

KEPT = Path(__file__).parents[1] / "histories" / "0.1.0.jsonl"
SAY_MORE = {"session_forked", "budget_lent", "budget_settled", "records_rewritten", "faulted", "grant_revoked"}


def kept() -> list[TransitionRecord]:
    entries = map(json.loads, KEPT.read_text(encoding="ascii").splitlines())
    return [decode(line) for entry in entries for line in entry["lines"]]


def test_every_event_that_says_something_is_told() -> None:
    """Of the kinds whose name alone tells nothing, each record is told with what it is about."""
    words = [(record.trigger, Reader().tell(record).words) for record in kept() if record.trigger in SAY_MORE]
    assert {trigger for trigger, _ in words} == SAY_MORE
    assert [trigger for trigger, said in words if not said] == []


def test_pruned_beginning_is_no_problem_and_a_newer_kind_is() -> None:
    """What a pruned history begins with is told as such; a kind that nobody knows here is marked."""
    record = kept()[0]._replace(dest=State.IDLE)
    pruned = record._replace(trigger=HISTORY_PRUNED, event=UnknownEvent(kind=HISTORY_PRUNED, data={}))
    newer = record._replace(trigger="newer", event=UnknownEvent(kind="newer", data={}))
    assert (Reader().tell(pruned).mark, Reader().tell(pruned).words) == (Mark.PLAIN, "pruned up to here")
    assert (Reader().tell(newer).mark, Reader().tell(newer).words) == (Mark.PROBLEM, "an event of a newer release")
