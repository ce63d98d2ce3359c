"""Export gives a proper log of any session: live, interrupted, named by its host."""

from __future__ import annotations

import pytest

from engine import Engine, ModelReply, ToolCall, tool
from engine.errors import JournalCorrupt, UnknownSession
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from engine.replay import export_chats
from engine.testing.records import read_all

from .logs import SAMPLE_CHATS, exported, imported, stored
from .test_verification import ReadingOf

pytestmark = pytest.mark.anyio


@tool(effect="read")
async def double(n: int) -> int:
    return 2 * n


LIVE = [
    {"role": "user", "content": "twice 4 and 5"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "double", "arguments": '{"n":4}'}},
            {"id": "b", "type": "function", "function": {"name": "double", "arguments": '{"n":5}'}},
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "8"},
    {"role": "tool", "tool_call_id": "b", "content": "10"},
    {"role": "assistant", "content": "8 and 10"},
]


async def live(**who: str) -> MemoryJournal:
    calls = [ToolCall(id=name, name="double", arguments={"n": n}) for name, n in (("a", 4), ("b", 5))]
    model = ScriptedModel([ModelReply(tool_calls=calls), ModelReply(text="8 and 10")])
    journal = MemoryJournal()
    async with Engine(model=model, tools=[double], journal=journal) as engine:
        session = await engine.open("s", external_id=who.get("external_id"))
        await session.ask("twice 4 and 5")
    return journal


async def test_live_session_leaves_as_a_proper_log() -> None:
    """A live session is exported in the OpenAI format: arguments as text, results in the order of their calls."""
    assert await exported(await live()) == [{"id": "s", "messages": LIVE}]


async def test_hosts_own_name_is_not_taken_for_the_id() -> None:
    """Two sessions may share an external id; a live one is exported under the id it was opened with."""
    assert [chat["id"] for chat in await exported(await live(external_id="Order 42"))] == ["s"]


async def test_exported_live_session_imports_and_leaves_equal() -> None:
    """What export gives, import takes."""
    [chat] = await exported(await live())
    assert await exported(await imported(chat)) == [chat]


async def test_every_prefix_of_a_history_exports_pairs() -> None:
    """An interrupted session is exported with a result for each of its calls."""
    records = await read_all(await live(), "s")
    for length in range(1, len(records) + 1):
        [chat] = await exported(await stored(records[:length]))
        asked = [call["id"] for message in chat["messages"] for call in message.get("tool_calls", ())]
        assert asked == [message["tool_call_id"] for message in chat["messages"] if message["role"] == "tool"]


async def test_only_the_named_sessions_are_exported() -> None:
    """The sessions can be named, in any order; one that is not there is an error."""
    journal = await imported(*SAMPLE_CHATS)
    assert [chat["id"] async for chat in export_chats(journal, ["shop-2", "shop-1"])] == ["shop-2", "shop-1"]
    with pytest.raises(UnknownSession):
        _ = [chat async for chat in export_chats(journal, ["nobody"])]


async def test_f9_damaged_history_is_not_exported() -> None:
    """A history that does not hold raises; nothing is made up and nothing is left out."""
    lines = [record.line for record in await read_all(await live(), "s")]
    lines[2] = lines[2].replace("context", "contexT")
    with pytest.raises(JournalCorrupt):
        _ = [chat async for chat in export_chats(ReadingOf(lines), ["s"])]
