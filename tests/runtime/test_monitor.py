"""The engine watching itself: memory, dwell times, sessions that do not get on, tools that block the event loop."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import psutil
import pytest

from engine import Engine, EngineSettings, Limits, ModelReply, ModelRequest, Outcome, State, ToolStatus, tool
from engine.core.events import Faulted
from engine.errors import UsageError
from engine.models import FunctionModel, ScriptedModel
from engine.ports import Tool
from engine.runtime.clock import SystemClock
from engine.runtime.lanes import Lane, LaneLimits, LaneStats
from engine.runtime.memory import MEBIBYTE
from engine.runtime.monitor import Monitor, Watching
from tests.runtime.scenes import calls, check_closed, history

pytestmark = pytest.mark.anyio


class Alarm(logging.Handler):
    """Sets an event when a line of the engine's log is about something."""

    def __init__(self, about: str, then: Callable[[], object]) -> None:
        super().__init__()
        self._about = about
        self._then = then

    def emit(self, record: logging.LogRecord) -> None:
        """Look at a line of the log."""
        if json.loads(record.getMessage())["event"] == self._about:
            self._then()


@contextmanager
def alarm(about: str, then: Callable[[], object]) -> Iterator[None]:
    """Call `then` when the engine's log says something."""
    handler = Alarm(about, then)
    logging.getLogger("engine").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("engine").removeHandler(handler)


def limit_with_room(room_mb: int) -> int:
    """Return a limit in MiB whose soft bound lies so far above what the process holds now."""
    return int((psutil.Process().memory_info().rss / MEBIBYTE + room_mb) / 0.8)


class Hoard:
    """A tool that holds memory until it is let go or cancelled."""

    def __init__(self, size_mb: int) -> None:
        self.size_mb = size_mb
        self.let_go = anyio.Event()

    def tools(self) -> list[Tool]:
        """Return the tool."""

        @tool(effect="read")
        async def hoard() -> str:
            held = bytearray(b"x") * (self.size_mb * MEBIBYTE)
            await self.let_go.wait()
            return str(len(held))

        return [hoard]


async def test_v23_memory_limit_ends_the_turn_and_the_session_goes_on() -> None:
    """A turn that takes the process beyond its limit ends with a fault; the tool ends; the next prompt is taken."""
    limits = Limits(max_memory_mb=limit_with_room(60))
    hoard = Hoard(2 * limit_with_room(60))
    async with Engine(model=ScriptedModel([calls("hoard"), "done"]), tools=hoard.tools(), limits=limits) as engine:
        session = await engine.open("s")
        with anyio.fail_after(60):
            result = await session.ask("go")
        assert (result.outcome, [made.status for made in result.tool_calls]) == (
            Outcome.FAILED, [ToolStatus.CANCELLED],
        )  # fmt: skip
        assert "raise max_memory_mb" in result.reason
        assert {"shed", "refuse"} <= {step.step for step in engine.stats().memory_steps}
        assert (await session.ask("again")).text == "done"
        records = await history(engine.journal)
    (fault,) = [record.event.fault for record in records if isinstance(record.event, Faulted)]
    assert fault.kind == "memory_limit"
    assert fault.freed_bytes is not None
    check_closed(records)


async def test_v23_no_turn_begins_at_the_limit() -> None:
    """While the process is at its limit a prompt opens a turn that ends at once, without asking the model."""
    limits = Limits(max_memory_mb=limit_with_room(60))
    model = ScriptedModel([calls("hoard"), "done"])
    held: list[bytearray] = []

    @tool(effect="read")
    async def hoard() -> str:
        held.append(bytearray(b"x") * (2 * limit_with_room(60) * MEBIBYTE))
        await anyio.sleep_forever()
        return ""

    async with Engine(model=model, tools=[hoard], limits=limits) as engine:
        session = await engine.open("s")
        with anyio.fail_after(60):
            await session.ask("go")
            assert not engine.stats().admitting
            refused = await session.ask("again")
        assert (refused.outcome, len(model.requests)) == (Outcome.FAILED, 1)
        held.clear()
        assert (await session.ask("now")).outcome is Outcome.COMPLETED
        check_closed(await history(engine.journal))


async def test_v23_v27_tools_are_halved_under_pressure_and_come_back() -> None:
    """Above the soft bound memory is freed, on record with its bytes, and fewer tools run; quiet brings them back."""
    limits = Limits(max_memory_mb=limit_with_room(200))
    hoard = Hoard(250)
    shed, restored = anyio.Event(), anyio.Event()

    def look() -> None:
        steps = [step.step for step in engine.stats().memory_steps]
        if "shed" in steps:
            shed.set()
        if "restore" in steps:
            restored.set()

    async def think(request: ModelRequest) -> ModelReply:
        if request.round == 1:
            return calls("hoard")
        await restored.wait()
        return ModelReply(text="done")

    async def relieve() -> None:
        await shed.wait()
        places.append(engine.stats().places)
        hoard.let_go.set()

    places: list[int] = []
    async with Engine(model=FunctionModel(think), tools=hoard.tools(), limits=limits) as engine:
        session = await engine.open("s")
        with alarm("memory", look), anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(relieve)
                assert (await session.ask("go")).text == "done"
        stats = engine.stats()
    assert places == [2]
    assert stats.places >= 2
    first = next(step for step in stats.memory_steps if step.step == "shed")
    assert {freed.name for freed in first.freed} >= {"cycles", "heap"}


async def test_v23_v27_a14_the_places_of_the_engine_are_halved_under_pressure_and_come_back() -> None:
    """Where an engine has places of its own, shedding halves them too: another session's call waits that would have
    run. Quiet brings them back one by one, also where a session's own places are all there, and whoever waits goes on.
    """
    limits = Limits(max_memory_mb=limit_with_room(200), max_concurrent_tools=1)
    hoard, shed, restored = Hoard(250), anyio.Event(), anyio.Event()
    halved: list[tuple[int | None, LaneStats]] = []

    def look() -> None:
        step = engine.stats().memory_steps[-1].step
        (restored if step == "restore" else shed).set()

    async def think(request: ModelRequest) -> ModelReply:
        if request.session == "s" and request.round == 1:
            return calls("hoard")
        if request.session == "s":
            await restored.wait()
        return ModelReply(text="done")

    async def be_rival() -> None:
        await shed.wait()
        rival = await engine.open("rival")
        async with anyio.create_task_group() as group:
            group.start_soon(rival.ask, "go")
            await anyio.wait_all_tasks_blocked()
            halved.append((engine.stats().places_in_all, engine.stats().lanes[Lane.GENERATE]))
            hoard.let_go.set()

    parts: dict[str, Any] = {"limits": limits, "settings": EngineSettings(lanes=LaneLimits(total=2))}
    async with Engine(model=FunctionModel(think), tools=hoard.tools(), **parts) as engine:
        session = await engine.open("s")
        with alarm("memory", look), anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(be_rival)
                assert (await session.ask("go")).text == "done"
        stats = engine.stats()
    assert halved == [(1, LaneStats(running=0, waiting=1, granted=1))]
    assert (stats.places_in_all, stats.lanes[Lane.GENERATE]) == (2, LaneStats(running=0, waiting=0, granted=3))
    assert [step.places_in_all for step in stats.memory_steps if step.step == "restore"] == [2]


async def test_no_memory_limit_takes_no_samples_of_it() -> None:
    """`max_memory_mb=None` switches the governor off: whatever the process holds, turns begin."""
    async with Engine(model=ScriptedModel(["done"]), limits=Limits(max_memory_mb=None)) as engine:
        assert (await (await engine.open("s")).ask("go")).text == "done"
        assert (engine.stats().memory_steps, engine.stats().admitting, engine.stats().places) == ((), True, 4)


async def test_f4_a_tool_that_blocks_the_loop_is_named_in_the_stats() -> None:
    """An async tool that keeps the event loop for longer than the bound is in the log and in the figures."""
    noticed = threading.Event()

    @tool(effect="read")
    async def block() -> str:
        assert noticed.wait(30)
        return "over"

    settings = EngineSettings(loop_limit_s=0.05)
    async with Engine(model=ScriptedModel([calls("block"), "done"]), tools=[block], settings=settings) as engine:
        with alarm("event loop blocked", noticed.set):
            await (await engine.open("s")).ask("go")
        await anyio.wait_all_tasks_blocked()
        (blocked,) = engine.stats().blocked
    assert (blocked.tool, "noticed.wait(30)" in blocked.stack) == ("block", True)


async def test_v28_a_session_that_does_not_get_on_is_reported() -> None:
    """A model that does not answer leaves its session in one state: the figures name both."""
    stuck = anyio.Event()

    async def think(request: ModelRequest) -> ModelReply:
        await stuck.wait()
        return ModelReply(text="at last")

    async with Engine(model=FunctionModel(think), settings=EngineSettings(stuck_after_s=0.05)) as engine:
        session = await engine.open("s")
        with alarm("session does not get on", stuck.set), anyio.fail_after(30):
            await session.ask("go")
        (report,) = engine.stats().stuck
    assert (report.session, report.state) == ("s", State.GENERATING_RESPONSE)


async def test_v28_stats_say_what_the_engine_is_doing() -> None:
    """Sessions by state, running and waiting tools, the process's own use, and how long sessions stayed where."""
    begun, let_go = anyio.Event(), anyio.Event()

    @tool(effect="read")
    async def hold() -> str:
        begun.set()
        await let_go.wait()
        return ""

    limits = Limits(max_concurrent_tools=1)
    model = ScriptedModel([calls("hold", "hold"), "done"])
    async with Engine(model=model, tools=[hold], limits=limits) as engine:
        session = await engine.open("s")
        await engine.open("idle")

        async def ask() -> None:
            await session.ask("go")

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await begun.wait()
            stats = engine.stats()
            let_go.set()
        assert stats.sessions == {State.EXECUTING_TOOLS: 1, State.IDLE: 1}
        assert (stats.running_tools, stats.waiting_tools) == (1, 1)
        assert stats.process.rss_bytes > MEBIBYTE
        after = engine.stats()
        assert (stats.used.cpu_s, after.used.cpu_s) == (stats.process.cpu_s, after.process.cpu_s)
        assert (after.used.peak_memory_bytes or 0) >= max(stats.process.rss_bytes, after.process.rss_bytes)
    assert (after.running_tools, after.waiting_tools, after.sessions) == (0, 0, {State.IDLE: 2})
    assert after.dwell[State.EXECUTING_TOOLS].stays == 1
    assert after.dwell[State.GENERATING_RESPONSE].stays == 2


async def test_v28_a_second_start_is_an_error() -> None:
    """A monitor that watches is not started again; one that was closed is."""
    monitor = Monitor(Watching(Limits(), SystemClock(), loop_limit_s=1.0))
    async with anyio.create_task_group() as group:
        monitor.start(group, {})
        with pytest.raises(UsageError, match="watches already"):
            monitor.start(group, {})
        monitor.close()
        group.cancel_scope.cancel()
