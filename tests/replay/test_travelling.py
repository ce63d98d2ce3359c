"""Going through a history in any order shows at each place what folding up to there gives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from engine.errors import ReplayError
from engine.replay import Timeline, state_at
from engine.replay.travelling import STRIDE
from engine.testing.records import chain

RECORDS = chain("s", 3 * STRIDE + 5)
STATES = [state_at(RECORDS, seq) for seq in range(1, len(RECORDS) + 1)]


@settings(max_examples=60)
@given(st.lists(st.integers(1, len(RECORDS)), max_size=12))
def test_every_place_is_what_folding_gives(places: list[int]) -> None:
    """Wherever one comes from, the session at a record is the one that the records up to it lead to."""
    timeline = Timeline(RECORDS)
    for seq in places:
        assert timeline.go(seq) == STATES[seq - 1]
        assert timeline.record == RECORDS[seq - 1]


def test_forward_and_back_are_one_record() -> None:
    """A step forward and a step back lead to where one was; before the first record is a session without any."""
    timeline = Timeline(RECORDS)
    timeline.go(STRIDE + 1)
    assert timeline.back() == STATES[STRIDE - 1]
    assert timeline.forward() == STATES[STRIDE]
    assert timeline.back(STRIDE + 1).seq == 0
    assert timeline.record is None


def test_a_step_back_costs_no_more_than_a_stride() -> None:
    """At the end of a history, a step back steps the core as often as there are records since the last snapshot."""
    taken: list[int] = []

    class Watched(list):  # type: ignore[type-arg]
        def __getitem__(self, place):  # type: ignore[no-untyped-def]
            found = super().__getitem__(place)
            if isinstance(place, slice):
                taken.append(len(found))
            return found

    timeline = Timeline(Watched(RECORDS))
    timeline.go(len(RECORDS))
    taken.clear()
    for _ in range(2 * STRIDE):
        timeline.back()
    assert max(taken) <= STRIDE
    timeline.forward()
    assert taken[-1] == 1


@pytest.mark.parametrize("seq", [-1, len(RECORDS) + 1])
def test_place_outside_the_history_is_refused(seq: int) -> None:
    """There is nothing before the beginning and after the end, and one stays where one was."""
    timeline = Timeline(RECORDS)
    timeline.go(7)
    with pytest.raises(ReplayError, match="count from 1 to"):
        timeline.go(seq)
    assert timeline.session.seq == 7


def test_broken_history_is_refused_where_it_breaks() -> None:
    """A history with a gap can be walked up to the gap."""
    timeline = Timeline([*RECORDS[:4], *RECORDS[5:]])
    assert timeline.go(4) == STATES[3]
    with pytest.raises(ReplayError, match="sequence 6 follows 4"):
        timeline.forward()
    assert timeline.session == STATES[3]


def test_no_history_no_timeline() -> None:
    """An empty history has no place to be at."""
    with pytest.raises(ReplayError, match="empty"):
        Timeline([])
