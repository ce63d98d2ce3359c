"""What is known of each call: how far it is, when it began, what it used; and that it is forgotten with its turn."""

from __future__ import annotations

import gc
from datetime import UTC, datetime

import anyio
import pytest

from engine import Engine, Limits, ModelReply, ModelRequest, ToolStatus, tool
from engine.core.session import CallState
from engine.journal import MemoryJournal
from engine.models import FunctionModel, ScriptedModel
from tests.runtime.scenes import Verdicts, calls

pytestmark = pytest.mark.anyio


@tool(effect="read")
async def look() -> str:
    """Look."""
    return "seen"


@tool(effect="write")
async def save() -> str:
    """Save."""
    return "saved"


@tool(effect="read", timeout_s=0.01)
async def hang() -> str:
    """Hang."""
    await anyio.sleep_forever()
    return ""


async def test_v14_every_call_says_when_it_began() -> None:
    """The moment is in the result, in the record, and there again after a restart; one that never ran has none."""
    journal = MemoryJournal()
    model = ScriptedModel([calls("look", "save", "hang", "nowhere"), "done"])
    began = datetime.now(UTC)
    async with Engine(model=model, tools=[look, save, hang], journal=journal) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        moments = [datetime.fromisoformat(made.started_at or "") for made in result.tool_calls[:-1]]
        refused = result.tool_calls[-1]
        assert all(began <= moment <= datetime.now(UTC) for moment in moments)
        assert (refused.status, refused.started_at) == (ToolStatus.FAILED, None)
        assert session.calls == result.tool_calls == session.turns[0].tool_calls
    async with Engine(model=model, tools=[look, save, hang], journal=journal) as engine:
        assert (await engine.open("s")).calls == result.tool_calls


async def test_v14_calls_of_an_open_turn_show_how_far_they_are() -> None:
    """While one call waits for a person its siblings have their ends: each has a name, a status and its times."""
    model = ScriptedModel([calls("look", "save"), "done"])
    async with Engine(model=model, tools=[look, save], policy=Verdicts(save="ask")) as engine:
        session = await engine.open("s")
        assert not session.calls
        (request,) = (await session.ask("go")).pending
        seen, asked = session.calls
        assert (seen.name, seen.status, seen.content) == ("look", ToolStatus.COMPLETED, "seen")
        assert (asked.name, asked.status, asked.started_at) == ("save", ToolStatus.QUEUED, None)
        await session.answer(request.id, approve=True)
        assert [made.status for made in session.calls] == [ToolStatus.COMPLETED] * 2
        assert session.calls[1].started_at is not None


async def test_v26_finished_calls_leave_memory_with_their_turn() -> None:
    """After fifty turns of three calls only those of the turns that are kept are in memory, failed ones too."""

    def think(request: ModelRequest) -> ModelReply:
        return calls("look", "save", "nowhere") if request.round == 1 else ModelReply(text="done")

    def living() -> int:
        gc.collect()
        return sum(type(found) is CallState for found in gc.get_objects())

    before = living()
    limits = Limits(turns_ring=2, history_ring=4)
    async with Engine(model=FunctionModel(think), tools=[look, save], limits=limits) as engine:
        session = await engine.open("s")
        for _ in range(50):
            await session.ask("go")
        assert len(session.turns) == 2
        assert living() - before == 2 * 3
