"""lag: how late the event loop wakes a task while a synchronous tool sleeps in its thread."""

from __future__ import annotations

import time
from pathlib import Path
from time import perf_counter_ns

import anyio

from engine import Engine, ToolCall, tool
from engine.models import ScriptedModel

from .numbers import Effort, Number, Result, check, distribution

_TICK_S = 0.005
_SLEEP_S = {"smoke": 0.05, "quick": 2.0}
_FULL_SLEEP_S = 5.0


def measure(effort: Effort, disk: Path) -> Result:
    """Return the lateness of a task that sleeps 5 ms at a time, while a tool sleeps 5 s (2 s in a quick run)."""
    late_ms = anyio.run(_beside, _SLEEP_S.get(effort.name, _FULL_SLEEP_S))
    number = distribution("lag.beside_sync_tool", "ms", late_ms)
    assert number.p99 is not None
    return Result((number, Number("lag.beside_sync_tool.p99", "ms", number.p99)))


async def _beside(sleep_s: float) -> list[float]:
    @tool(effect="read")
    def doze() -> str:
        """Sleep in a thread."""
        time.sleep(sleep_s)
        return "rested"

    late_ms: list[float] = []

    async def tick() -> None:
        while True:
            due_ns = perf_counter_ns() + int(_TICK_S * 1e9)
            await anyio.sleep(_TICK_S)
            late_ms.append((perf_counter_ns() - due_ns) / 1e6)

    async with Engine(model=ScriptedModel([[ToolCall(id="c1", name="doze")], "done"]), tools=[doze]) as engine:
        session = await engine.open("bench")
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            result = await session.ask("go")
            group.cancel_scope.cancel()
    check(result.tool_calls[0].content == "rested", f"the tool ended with {result.tool_calls[0].content!r}")
    return late_ms
