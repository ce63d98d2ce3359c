"""Recorded tools give what the conversation held of each call in the end, and do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from engine import (
    Engine,
    EngineSettings,
    ModelReply,
    Prompt,
    ToolCall,
    ToolContext,
    ToolOutput,
    ToolStatus,
    TransitionRecord,
    tool,
)
from engine.core.events import ToolStarted
from engine.errors import ReplayError
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from engine.ports import Probing
from engine.testing.records import read_all
from engine.tools.recorded import RecordedTool, recorded_tools
from tests.replay.logs import exported, history_of, run_again, stored
from tests.replay.test_importing import REPLY, USER, asking, chat, result

pytestmark = pytest.mark.anyio


async def outcome(records: Sequence[TransitionRecord], call_id: str, turn: int = 1, round_: int = 1) -> ToolOutput:
    """Return what the recorded tool `look` gives for a call."""
    [look] = [each for each in recorded_tools(records) if each.spec.name == "look"]
    context = ToolContext(call_id, "look", {}, "key", 1.0, "c", turn, round_)
    return await look.run(look.bind({}), context)


async def test_result_is_found_by_turn_round_and_call() -> None:
    """The same call id in other rounds and turns has its own results."""
    records = await history_of(
        chat(
            USER,
            asking("a"),
            result("a", "1"),
            asking("a"),
            result("a", "2"),
            REPLY,
            USER,
            asking("a"),
            result("a", "3"),
        )
    )
    found = [(await outcome(records, "a", *place)).content for place in ((1, 1), (1, 2), (2, 1))]
    assert found == ["1", "2", "3"]


async def test_call_that_was_not_recorded_fails() -> None:
    """A call at another place is a failed result that says so: the model is told, nothing is made up."""
    output = await outcome(await history_of(chat(USER, asking("a"), result("a"))), "b")
    assert (output.status, output.error) == (ToolStatus.FAILED, "not_recorded")


async def test_there_is_one_tool_a_name() -> None:
    """Every name that is called has a tool, in the order of the first calls."""
    calls = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in "xyx"]
    records = await history_of(chat(USER, {"role": "assistant", "tool_calls": [calls[0], calls[1]]}))
    assert [each.spec.name for each in recorded_tools(records)] == ["x", "y"]
    assert all(isinstance(each, RecordedTool) and isinstance(each, Probing) for each in recorded_tools(records))


async def test_history_that_does_not_reproduce_has_no_tools() -> None:
    """A forged history is refused."""
    records = list(await history_of(chat(USER, REPLY)))
    with pytest.raises(ReplayError):
        recorded_tools(records[1:])


async def test_f1_interrupted_write_runs_again_with_its_result() -> None:
    """A recorded write does nothing, so after a crash behind its durable intent it runs again, and nobody is asked."""
    original = chat(USER, asking("a", "b"), {**result("a", "1"), "name": "look"}, result("b", "2"), REPLY)
    records = await history_of(original)
    journal = MemoryJournal()
    await run_again(records, journal)
    whole = await read_all(journal, "c")
    cuts = [record.seq for record in whole if isinstance(record.event, ToolStarted)]
    assert len(cuts) == 2
    for cut in cuts:
        prefix = await stored(whole[:cut])
        assert await run_again(records, prefix) == original["messages"]
        assert all(record.trigger != "user_answered" for record in await read_all(prefix, "c"))


@tool
async def look(n: int) -> str:
    if n < 0:
        raise RuntimeError("too low")
    return f"saw {n}"


@tool(effect="read")
async def glance() -> str:
    return "glanced"


async def live_messages(
    replies: list[ModelReply], prompt: Prompt | str, journal: MemoryJournal
) -> list[dict[str, Any]]:
    """Run one turn of a live session and return its messages."""
    async with Engine(
        model=ScriptedModel(replies), tools=[look, glance], journal=journal, settings=EngineSettings(system="Be kind.")
    ) as engine:
        session = await engine.open("c")
        await session.ask(prompt)
    [exported_chat] = await exported(journal)
    messages: list[dict[str, Any]] = exported_chat["messages"]
    return messages


LIVE = {
    "refusals and failures": [
        ModelReply(
            tool_calls=[
                ToolCall(id="a", name="look", arguments={"n": "x"}),
                ToolCall(id="b", name="nothing"),
                ToolCall(id="c", name="look", arguments={"n": -1}),
                ToolCall(id="d", name="look", arguments={"n": 1}),
            ]
        ),
        ModelReply(text="done"),
    ],
    "hopeless arguments": [ModelReply(tool_calls=[ToolCall(id="a", name="look", arguments_text="{")])] * 3,
    "only refusals": [ModelReply(tool_calls=[ToolCall(id="b", name="nothing")]), ModelReply(text="sorry")],
    "mixed effects": [
        ModelReply(tool_calls=[ToolCall(id="a", name="glance"), ToolCall(id="b", name="look", arguments={"n": 1})]),
        ModelReply(text="a long answ", finish="length"),
        ModelReply(text="er"),
    ],
}


@pytest.mark.parametrize("replies", LIVE.values(), ids=LIVE.keys())
async def test_live_history_runs_again_to_the_same_messages(replies: list[ModelReply]) -> None:
    """Refusals, failures, stopped turns and continued replies of a live session come out of a re-run as they were."""
    journal = MemoryJournal()
    messages = await live_messages(list(replies), "go", journal)
    records = await read_all(journal, "c")
    assert await run_again(records, MemoryJournal()) == messages


async def test_direct_calls_run_again_with_their_results() -> None:
    """Calls that the host asked for without the model give their recorded results, too."""
    journal = MemoryJournal()
    prompt = Prompt(text="go", calls=[ToolCall(id="d", name="look", arguments={"n": 5})])
    messages = await live_messages([ModelReply(text="five")], prompt, journal)
    assert messages[3] == {"role": "tool", "tool_call_id": "d", "content": "saw 5"}
    assert await run_again(await read_all(journal, "c"), MemoryJournal()) == messages
