"""A recorded model gives the replies of a history at their places, and complains about everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from engine import Message, ModelRequest, Outcome, TransitionRecord
from engine.core.notices import Notice
from engine.core.session import Session
from engine.core.step import advance
from engine.errors import RecordedModelMismatch, ReplayError
from engine.journal import MemoryJournal
from engine.models import RecordedModel
from engine.models.wire import to_wire
from engine.replay import fold
from engine.testing.records import read_all
from tests.replay.logs import SAMPLE_CHATS, history_of, run_again

pytestmark = pytest.mark.anyio

CHAT = SAMPLE_CHATS[0]


def ignore(notice: Notice) -> None:
    """Show a notice to nobody."""


def asked_at(records: Sequence[TransitionRecord], turn: int, round_: int) -> ModelRequest:
    """Return what the model was asked in a round of a history."""
    session = Session(records[0].session)
    for record in records:
        session = advance(session, record)
        open_turn = session.turn
        if record.trigger == "context_prepared" and open_turn and (open_turn.number, open_turn.round) == (turn, round_):
            return ModelRequest(list(session.transcript), turn=turn, round=round_)
    raise AssertionError("no such round")


@pytest.mark.parametrize(("turn", "round_", "text"), [(1, 2, "Yes, two copies at 31.50."), (3, 1, "You are welcome.")])
async def test_reply_is_found_by_turn_and_round(turn: int, round_: int, text: str) -> None:
    """Any reply can be asked for first: a resumed run begins in the middle."""
    records = await history_of(CHAT)
    reply = await RecordedModel(records).generate(asked_at(records, turn, round_), ignore)
    assert reply.text == text


async def test_missing_reply_is_a_mismatch() -> None:
    """A round that the history does not have is an error that names it and is not worth trying again."""
    records = await history_of(CHAT)
    with pytest.raises(RecordedModelMismatch, match="no reply for turn 9, round 1") as caught:
        await RecordedModel(records).generate(ModelRequest((), turn=9, round=1), ignore)
    assert not caught.value.retryable


async def test_longer_conversation_is_a_mismatch() -> None:
    """The conversation must be as long as it was."""
    records = await history_of(CHAT)
    request = asked_at(records, 2, 1)
    longer = ModelRequest([*request.messages, Message(role="user", text="?")], turn=2, round=1)
    with pytest.raises(RecordedModelMismatch, match="saw 6 messages, now there are 7"):
        await RecordedModel(records).generate(longer, ignore)


@pytest.mark.parametrize("index", [0, 3, 5])
async def test_other_words_are_a_mismatch(index: int) -> None:
    """The conversation must say what it said, at every place."""
    records = await history_of(CHAT)
    messages = list(asked_at(records, 2, 1).messages)
    messages[index] = messages[index].model_copy(update={"text": "other"})
    with pytest.raises(RecordedModelMismatch, match=f"message {index} differs"):
        await RecordedModel(records).generate(ModelRequest(messages, turn=2, round=1), ignore)


async def test_words_that_change_after_they_were_compared_are_a_mismatch() -> None:
    """What an earlier request was compared for is compared again where a later one says something else there."""
    records = await history_of(CHAT)
    model = RecordedModel(records)
    await model.generate(asked_at(records, 1, 1), ignore)
    messages = list(asked_at(records, 2, 1).messages)
    messages[0] = messages[0].model_copy(update={"text": "other"})
    with pytest.raises(RecordedModelMismatch, match="message 0 differs"):
        await model.generate(ModelRequest(messages, turn=2, round=1), ignore)
    reply = await model.generate(asked_at(records, 3, 1), ignore)
    assert reply.text == "You are welcome."


async def test_empty_history_is_no_model() -> None:
    """Without a record there is nothing to give."""
    with pytest.raises(ReplayError, match="empty"):
        RecordedModel([])


async def test_history_that_does_not_reproduce_is_no_model() -> None:
    """A forged history is refused before anything is asked of it."""
    records = list(await history_of(CHAT))
    with pytest.raises(ReplayError):
        RecordedModel([*records[:3], *records[4:]])


async def test_malformed_arguments_reach_the_recorded_tools() -> None:
    """Arguments that are no JSON were dealt with when they were recorded: a re-run gives that, as it was written."""
    [chat] = [chat for chat in SAMPLE_CHATS if chat["id"] == "odd-arguments"]
    records = await history_of(chat)
    journal = MemoryJournal()
    assert await run_again(records, journal) == chat["messages"]
    again = await read_all(journal, records[0].session)
    turn = fold(again).last_turn
    assert turn is not None
    assert (turn.outcome, [call.plan.decision for call in turn.calls]) == (Outcome.COMPLETED, ["run"] * 5)


async def test_run_again_history_can_be_run_again() -> None:
    """A re-run is a history like any other: run again itself, it gives the same messages, for every sample."""
    for chat in SAMPLE_CHATS:
        first, second = MemoryJournal(), MemoryJournal()
        records = await history_of(chat)
        await run_again(records, first)
        messages: list[dict[str, Any]] = await run_again(await read_all(first, records[0].session), second)
        assert messages == chat["messages"]


async def test_providers_see_text_that_parses() -> None:
    """What a provider would be sent of a re-run has arguments that are JSON."""
    [chat] = [chat for chat in SAMPLE_CHATS if chat["id"] == "odd-arguments"]
    records = await history_of(chat)
    journal = MemoryJournal()
    await run_again(records, journal)
    wires = [to_wire(message) for message in fold(await read_all(journal, records[0].session)).messages()]
    texts = [call["function"]["arguments"] for wire in wires for call in wire.get("tool_calls", ())]
    assert texts[:3] == ["{}", "{}", "{}"]
