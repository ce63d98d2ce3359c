"""The headline limits: each fires, at its default or one set on purpose, and the session is usable afterwards.

`max_memory_mb` fires in tests/runtime/test_monitor.py, with real memory.
"""

from __future__ import annotations

import threading
from typing import Any, Literal

import anyio
import pytest

from engine import Engine, Limits, ModelReply, ModelRequest, Outcome, Session, State, ToolStatus, TransitionRecord, tool
from engine.api import Extras
from engine.core.notices import Notice
from engine.models import FunctionModel
from engine.ports import Middleware
from engine.testing.scheduling import virtual_time
from tests.runtime.scenes import call, calls, check_closed, history


async def check_usable(engine: Engine, session: Session) -> None:
    """Assert that the next turn completes and that the history is closed."""
    assert session.state is State.IDLE
    with anyio.fail_after(60):
        assert (await session.ask("again")).outcome is Outcome.COMPLETED
    check_closed(await history(engine.journal))


def model_of(reply: ModelReply) -> FunctionModel:
    """Return a model that gives the reply in the first round of the first turn, and words from then on."""

    async def think(request: ModelRequest) -> ModelReply:
        return reply if (request.turn, request.round) == (1, 1) else ModelReply(text="done")

    return FunctionModel(think)


class Threads:
    """Threads that outlive their calls: each ends when the record of its timeout is durable, and no earlier. Then it
    stays for a moment longer: one thread too many would be seen beside it.

    Attributes:
        most: how many lived at the same time, at most.
    """

    def __init__(self, total: int, cap: int) -> None:
        self.most = self._live = 0
        self._cap = cap
        self._crowd = threading.Event()
        self._lock = threading.Lock()
        self._gates = [threading.Event() for _ in range(total)]

    def enter(self, n: int) -> None:
        with self._lock:
            self._live += 1
            self.most = max(self.most, self._live)
            if self._live > self._cap:
                self._crowd.set()
        self._gates[n].wait(60)
        self._crowd.wait(0.1)
        with self._lock:
            self._live -= 1

    def on_record(self, record: TransitionRecord) -> None:
        if record.trigger == "tool_finished":
            event: Any = record.event
            self._gates[int(event.call_id[1:])].set()

    def on_notice(self, session: str, notice: Notice) -> None:
        """Do nothing."""


@pytest.mark.anyio
@pytest.mark.parametrize("cap", [2, Limits().max_concurrent_tools])
async def test_v16_f5_max_concurrent_tools_counts_threads_until_they_end(cap: int) -> None:
    """Eight sync tools that time out and go on: never more threads live than the cap says, and all eight are run."""
    await check_live_threads(cap)


async def check_live_threads(cap: int, *middleware: Middleware) -> None:
    """Run the eight tools and count."""
    threads = Threads(8, cap)

    @tool(effect="read", timeout_s=0.02)
    def stuck(n: int) -> None:
        threads.enter(n)

    model = model_of(ModelReply(tool_calls=[call("stuck", f"c{n}", n=n) for n in range(8)]))
    limits = Limits(max_concurrent_tools=cap)
    around: Extras = {"observers": [threads], "middleware": middleware}
    async with Engine(model=model, tools=[stuck], limits=limits, **around) as engine:
        session = await engine.open("s")
        with anyio.fail_after(60):
            result = await session.ask("go")
        assert [made.status for made in result.tool_calls] == [ToolStatus.TIMED_OUT] * 8
        assert threads.most == cap
        await check_usable(engine, session)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_v16_a10_max_execution_time_ends_the_turn(backend: Literal["asyncio", "trio"]) -> None:
    """A turn whose tools never end is over after the default 300 seconds, and each of its calls has an end."""

    async def main() -> None:
        @tool(effect="read", timeout_s=10_000)
        async def hang() -> None:
            await anyio.sleep_forever()

        async with Engine(model=model_of(calls("hang", "hang")), tools=[hang]) as engine:
            session = await engine.open("s")
            began_s = anyio.current_time()
            result = await session.ask("go")
            assert anyio.current_time() - began_s == pytest.approx(300)
            assert (result.outcome, result.reason) == (Outcome.FAILED, "the turn ran longer than 300 s")
            assert [made.status for made in result.tool_calls] == [ToolStatus.CANCELLED] * 2
            await check_usable(engine, session)

    name, options = virtual_time(backend)
    anyio.run(main, backend=name, backend_options=options)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_v16_max_tool_retries_ends_the_attempts(backend: Literal["asyncio", "trio"]) -> None:
    """A tool that never succeeds runs once and three times more, by the default; then the model is told."""

    async def main() -> None:
        runs = 0

        @tool(effect="read", on_failure="retry")
        async def flaky() -> None:
            nonlocal runs
            runs += 1
            raise ConnectionError("no answer")

        async with Engine(model=model_of(calls("flaky")), tools=[flaky]) as engine:
            session = await engine.open("s")
            result = await session.ask("go")
            assert runs == 1 + Limits().max_tool_retries == 4
            assert (result.outcome, result.tool_calls[0].status) == (Outcome.COMPLETED, ToolStatus.FAILED)
            await check_usable(engine, session)

    name, options = virtual_time(backend)
    anyio.run(main, backend=name, backend_options=options)
