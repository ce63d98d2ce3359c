"""What the page is given says what the core says: at every record, however the history was cut into chunks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from engine.core.events import PromptReceived
from engine.core.record import TransitionRecord
from engine.core.values import State
from engine.errors import UsageError
from engine.inspect import inspect_page
from engine.inspect.encoding import KEYFRAME, Encoder
from engine.inspect.viewing import view
from engine.journal.canonical import canonical
from engine.journal.codec import seal
from engine.replay import state_at, states
from engine.testing.strategies import histories

from .pages import Reading, example, nasty, stored_json

HISTORIES = {"example": example, "nasty": nasty}


def read(records: Sequence[TransitionRecord], *cuts: int) -> Reading:
    encoder = Encoder(records[0].session)
    places = sorted({0, *cuts, len(records)})
    chunks = [encoder.encode(records[start:end]) for start, end in pairwise(places)]
    return Reading(records[0].session, json.loads(json.dumps(chunks)))


@pytest.mark.parametrize("name", HISTORIES)
def test_states_of_the_page_are_those_of_the_core(name: str) -> None:
    """After each record the decoded changes give exactly what `state_at` gives."""
    records = HISTORIES[name]()
    assert read(records).states == [json.loads(json.dumps(view(state_at(records, one.seq)))) for one in records]


@given(records=histories(), data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_history_in_any_chunks_decodes_to_its_states(records: list[TransitionRecord], data: st.DataObject) -> None:
    """Wherever a history is cut, states and messages come back as the core has them."""
    if not records:
        return
    cuts = data.draw(st.lists(st.integers(1, len(records)), max_size=3))
    found = read(records, *cuts)
    sessions = list(states(records))
    assert found.states == [json.loads(json.dumps(view(session))) for session in sessions]
    assert found.messages == [json.loads(canonical(message)) for message in sessions[-1].transcript]


def test_whole_states_stand_between_the_changes() -> None:
    """Every so many records the whole state is written, and it is what the changes lead to."""
    from benchmarks.histories import history
    from benchmarks.workload import STANDARD

    found = read(history("long", 80, STANDARD))
    assert sorted(found.whole) == [KEYFRAME, 2 * KEYFRAME]
    assert all(found.states[seq - 1] == whole for seq, whole in found.whole.items())


@pytest.mark.parametrize("name", HISTORIES)
def test_stored_text_is_the_event_and_its_effects(name: str) -> None:
    """What words are looked for in reads back as what the journal holds, whatever letters it is made of."""
    for record in HISTORIES[name]():
        line = json.loads(record.line)
        assert stored_json(record) == [line["event"], line["effects"]]


def test_history_that_stops_to_hold_is_shown_whole_and_says_where() -> None:
    """A record that no step gives breaks the states from there on, not the page."""
    records = example()
    tenth = records[9]
    wrong = seal(
        session=tenth.session, seq=10, at=tenth.at, mono_ns=tenth.mono_ns, source=tenth.source, dest=State.ERROR,
        event=PromptReceived(), effects=(), prev=tenth.prev,
    )  # fmt: skip
    broken = [*records[:9], wrong, *records[10:]]
    encoder = Encoder("order-4711")
    chunk = encoder.encode(broken)
    assert chunk["count"] == len(records)
    assert len(str(chunk["changes"]).split("\n")) == 9
    assert encoder.broken is not None
    assert encoder.broken["seq"] == 10


def test_page_of_no_record_is_refused() -> None:
    """There is nothing to show, and the error says what to give."""
    with pytest.raises(UsageError, match="from sequence 1"):
        inspect_page([])
