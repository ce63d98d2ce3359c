"""A history gives the session at its end, the session at any record, and what was asked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine import Message, Prompt, State, ToolCall, TransitionRecord
from engine.core.events import ContextPrepared, PromptReceived
from engine.core.values import PlannedCall
from engine.errors import ReplayError
from engine.replay import fold, prompts, state_at
from engine.testing.records import chain

from .logs import SAMPLE_CHATS, history_of


@pytest.fixture
async def history() -> Sequence[TransitionRecord]:
    return await history_of(SAMPLE_CHATS[0])


@pytest.mark.anyio
async def test_fold_gives_the_whole_conversation(history: Sequence[TransitionRecord]) -> None:
    """The folded session stands at the last record, and holds every message of the conversation."""
    session = fold(history)
    assert (session.seq, session.state, session.turns) == (len(history), State.IDLE, 3)
    assert len(session.messages()) == len(SAMPLE_CHATS[0]["messages"])


@pytest.mark.anyio
async def test_state_at_every_record_is_what_the_record_says(history: Sequence[TransitionRecord]) -> None:
    """At each sequence the session is where its record led."""
    sessions = [state_at(history, record.seq) for record in history]
    assert [(session.seq, session.state) for session in sessions] == [(record.seq, record.dest) for record in history]


@pytest.mark.parametrize("seq", [-1, 0, 6, 1_000])
def test_state_outside_the_history_is_refused(seq: int) -> None:
    """A sequence that the history does not have is an error that says what there is."""
    with pytest.raises(ReplayError, match="it ends at 5" if seq > 0 else "count from 1"):
        state_at(chain("s", 5), seq)


def test_empty_history_cannot_be_folded() -> None:
    """No record, no session: not even its id is known."""
    with pytest.raises(ReplayError, match="empty"):
        fold([])


def test_fold_refuses_a_gap() -> None:
    """A history that lacks a record is not folded over the gap."""
    records = chain("s", 5)
    with pytest.raises(ReplayError, match="sequence 4 follows 2"):
        fold([*records[:2], *records[3:]])


def test_fold_refuses_a_record_of_another_session() -> None:
    """Records of two sessions are no history."""
    with pytest.raises(ReplayError, match="'other'"):
        fold([*chain("s", 1), chain("other", 2)[1]])


def test_fold_refuses_what_no_step_gives() -> None:
    """A record whose destination is not what the step gives is not folded."""
    first, second = chain("s", 2)
    with pytest.raises(ReplayError, match="now it gives"):
        fold([first, second._replace(dest=State.ERROR)])


@pytest.mark.anyio
async def test_prompts_hold_everything_that_opened_a_turn(history: Sequence[TransitionRecord]) -> None:
    """There is one prompt a turn, with its messages in order, the system message of the first included."""
    spoken = [[(message.role, message.text) for message in prompt.messages] for prompt in prompts(history)]
    first, second, third = SAMPLE_CHATS[0]["messages"][:2], SAMPLE_CHATS[0]["messages"][5:6], [{"content": "Thanks!"}]
    assert spoken == [
        [("system", first[0]["content"]), ("user", first[1]["content"])],
        [("user", second[0]["content"])],
        [("user", third[0]["content"])],
    ]


def test_prompts_hold_direct_calls_and_what_providers_added() -> None:
    """Calls that the host asked for, and messages of context providers, are part of what a re-run asks."""
    asked, added = Message(role="user", text="go"), Message(role="system", text="it rains")
    call = ToolCall(id="d", name="look")
    prompt, context = chain("s", 3)[1:]
    records = [
        prompt._replace(
            event=PromptReceived(messages=(asked,), direct_calls=(call,), plans=(PlannedCall(call_id="d"),))
        ),
        context._replace(event=ContextPrepared(messages=(added,))),
    ]
    assert prompts(records) == [Prompt(messages=(asked, added), calls=[call])]
