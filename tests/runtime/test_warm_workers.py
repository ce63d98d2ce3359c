"""Worker processes that are started before they are needed."""

from __future__ import annotations

import anyio
import pytest

from engine import Engine, EngineSettings, ModelReply, ModelRequest, WarmSettings, tool
from engine.models import FunctionModel
from tests.runtime.scenes import calls
from tests.runtime.test_warmer import taught

pytestmark = pytest.mark.anyio


@tool(effect="read", isolation="process")
def compute() -> str:
    """Compute."""
    return "42"


async def test_v9_worker_process_is_started_ahead() -> None:
    """While the model thinks, a process is started for the isolated tool that will probably be called."""
    ready: list[int] = []

    async def think(request: ModelRequest) -> ModelReply:
        if request.round == 1:
            # The preparation has begun when everything else waits.
            await anyio.wait_all_tasks_blocked()
            ready.append(len(engine._parts.toolbox._workers.pool()._idle))
        return calls("compute") if request.round == 1 else ModelReply(text="done")

    settings = EngineSettings(warming=WarmSettings(mode="on"), loop_limit_s=None)
    async with Engine(
        model=FunctionModel(think), tools=[compute], predictor=taught("compute"), settings=settings
    ) as engine:
        result = await (await engine.open("s")).ask("go")
    assert ready == [1]
    assert result.tool_calls[0].content == "42"
