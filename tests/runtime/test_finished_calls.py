"""What stays in memory of calls that have ended: those of the newest turns, and nothing of how they were run."""

from __future__ import annotations

import gc

import anyio
import pytest

from engine import Engine, Limits, ModelReply, ModelRequest, Outcome, ToolCall, ToolStatus, tool
from engine.core.session import CallState
from engine.core.values import State
from engine.models import FunctionModel
from tests.runtime.scenes import Verdicts

pytestmark = pytest.mark.anyio

ENDS = {
    "v26_reads": ToolStatus.COMPLETED,
    "v26_breaks": ToolStatus.FAILED,
    "v26_hangs": ToolStatus.TIMED_OUT,
    "v26_forbidden": ToolStatus.DENIED,
    "v26_unheard_of": ToolStatus.FAILED,
}
"""How the calls of a turn end: every way that needs no second turn."""


@tool(effect="read")
async def v26_reads() -> str:
    """Read."""
    return "read"


@tool
async def v26_breaks() -> str:
    """Fail."""
    raise RuntimeError("broken")


@tool(effect="read", timeout_s=0.001)
async def v26_hangs() -> str:
    """Hang."""
    await anyio.sleep_forever()
    return ""


@tool
async def v26_forbidden() -> str:
    """Be denied."""
    return ""


def think(request: ModelRequest) -> ModelReply:
    """Call every tool in the first round of a turn."""
    if request.round > 1:
        return ModelReply(text="done")
    return ModelReply(tool_calls=[ToolCall(id=f"c{n}", name=name) for n, name in enumerate(ENDS)])


def census() -> int:
    """Return how many calls of these tools the process still holds, however they ended."""
    gc.collect()
    # `type` and not `isinstance`: what other modules hold may answer questions about its class in ways of its own.
    return sum(item.call.name in ENDS for item in gc.get_objects() if type(item) is CallState)


async def test_v26_finished_calls_leave_memory_with_their_turn() -> None:
    """With room for two turns, the states of the calls of two turns are held after the third turn and after the
    twelfth, however the calls have ended; at rest nothing is open.
    """
    limits = Limits(turns_ring=2, history_ring=4)
    tools = (v26_reads, v26_breaks, v26_hangs, v26_forbidden)
    policy = Verdicts(v26_forbidden="deny")
    async with Engine(model=FunctionModel(think), tools=tools, limits=limits, policy=policy) as engine:
        session = await engine.open("s")
        held: list[int] = []
        for _ in range(12):
            result = await session.ask("go")
            assert result.outcome is Outcome.COMPLETED
            assert [made.status for made in result.tool_calls] == list(ENDS.values())
            assert session.state is State.IDLE
            assert engine.stats().running_tools == engine.stats().waiting_tools == 0
            held.append(census())
        assert len(set(held[2:])) == 1
        assert 0 < held[-1] <= 3 * len(ENDS)
        await session.close()
    del session, result, engine
    assert census() == 0
