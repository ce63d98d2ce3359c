"""Stepping and folding: what replay holds a record against."""

from __future__ import annotations

from typing import Any

import pytest

from engine.core.effects import effect_id, model_call
from engine.core.events import HISTORY_PRUNED, UnknownEvent, UserAnswered
from engine.core.session import Session
from engine.core.step import advance, step
from engine.core.values import State, ToolStatus
from engine.errors import InvalidEvent, ReplayError
from engine.testing.recording import Recording

from .scenarios import ASKED, BACK, CONTEXT, READ, RUN, ended, reply, says, session, started


def recorded() -> Recording:
    return Recording().play([*ASKED, reply(READ), ended(1)])


def test_advance_takes_what_was_recorded() -> None:
    """Folding the records gives the session that wrote them."""
    recording = recorded()
    folded = Session("s")
    for record in recording.records:
        folded = advance(folded, record)
    assert folded == recording.session


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"source": State.IDLE}, "starts in idle, the session is in executing_tools"),
        ({"dest": State.IDLE}, "recorded as executing_tools → idle with .prepare_context.; now it gives processing"),
        (
            {"effects": ()},
            "recorded as executing_tools → processing with ..; now it gives processing with .prepare_context.",
        ),
        ({"effects": (model_call(3),)}, "with .call_model."),
        ({"seq": 9}, "s:9: tool_finished was recorded"),
        ({"event": ended(2)}, "call 'c2' is not running"),
        ({"event": says()}, "model_replied is not legal in state executing_tools"),
    ],
    ids=["source", "dest", "no effects", "other effects", "sequence", "refused call", "illegal event"],
)
def test_record_that_does_not_reproduce_is_an_error(changes: dict[str, Any], complaint: str) -> None:
    """Each way in which a record can differ from its step is told, with session and sequence."""
    recording = recorded()
    before = Recording().play([*ASKED, reply(READ)]).session
    with pytest.raises(ReplayError, match=complaint):
        advance(before, recording.records[-1]._replace(**changes))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({}, "s:7: the pruned history begins with no session"),
        ({"session": {"id": "other", "seq": 7}, "messages": []}, "s:7: the pruned history begins with 'other' at 7"),
    ],
    ids=["no session", "another session"],
)
def test_history_that_begins_with_no_session_of_its_own_is_refused(data: dict[str, Any], complaint: str) -> None:
    """What a pruned history begins with has to be its session as it was then."""
    event = UnknownEvent(kind=HISTORY_PRUNED, data=data)
    record = (
        recorded()
        .records[0]
        ._replace(
            seq=7,
            trigger=HISTORY_PRUNED,
            source=State.IDLE,
            dest=State.IDLE,
            event=event,
            effects=(),
            rewritten="f" * 64,
        )
    )
    with pytest.raises(ReplayError, match=complaint):
        advance(Session("s"), record)


def test_objection_meets_only_an_answer_that_lets_a_task_go() -> None:
    """An answer about a budget lets nothing go to the host, so nothing can be said against that."""
    waiting = session("waiting for more to spend")
    (request,) = waiting.pending
    answer = UserAnswered(request_id=request.id, approve=True, objection="not today")
    with pytest.raises(InvalidEvent, match="can meet an objection"):
        step(waiting, answer)


def test_unknown_event_moves_state_and_sequence_only() -> None:
    """A record of a newer kind is taken over as far as it can be."""
    record = recorded().records[-1]._replace(event=UnknownEvent(kind="newer", data={}), dest=State.ERROR)
    before = Recording().play([*ASKED, reply(READ)]).session
    assert advance(before, record) == before._replace(seq=record.seq, state=State.ERROR)


def test_effect_ids_are_derived() -> None:
    """The id of an effect is its place in the history, so it is the same in every process."""
    assert effect_id("s", 4, 1) == "s:4:1"
    turn = Recording().play([*ASKED, reply(RUN, RUN)]).session.turn
    assert turn is not None
    assert [call.key for call in turn.calls] == ["s:4:0", "s:4:1"]


def test_open_calls_have_a_result_that_says_so() -> None:
    """Messages of a session with an open batch show each call as it stands; none is without a result."""
    now = Recording().play([*ASKED, reply(RUN, RUN, RUN), started(1), ended(2)]).session
    assert [message.text for message in now.messages()][-3:] == [
        "running: no result yet", "result 2", "queued: no result yet",
    ]  # fmt: skip
    assert len(now.transcript) == 1


def test_calls_of_a_turn_are_all_its_calls() -> None:
    """A turn lists the calls of closed batches before those of the open one."""
    turn = Recording().play([*ASKED, reply(RUN), ended(1), CONTEXT, reply(READ)]).session.turn
    assert turn is not None
    assert [call.status for call in turn.calls] == [ToolStatus.COMPLETED, ToolStatus.QUEUED]


def test_shutdown_of_an_idle_session_comes_back_idle() -> None:
    """Nothing was open, so nothing is issued again."""
    before = session("shut down: idle")
    assert before.left is State.IDLE
    after, effects = step(before, BACK)
    assert (after.state, after.left, effects) == (State.IDLE, None, ())
