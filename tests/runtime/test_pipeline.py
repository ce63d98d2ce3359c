"""What calls share: the cache, the store of long results, the places of the engine, counts, late results."""

from __future__ import annotations

import json
import logging
import re
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from engine import (
    Engine,
    EngineSettings,
    LaneLimits,
    Limits,
    ModelReply,
    ModelRequest,
    Outcome,
    Priority,
    Prompt,
    ToolCall,
    ToolContext,
    ToolStatus,
    tool,
)
from engine.core.budgets import ToolLimits
from engine.core.events import LateResult, ToolFinished
from engine.core.values import State
from engine.journal import MemoryJournal, open_journal
from engine.models import FunctionModel, ScriptedModel
from engine.replay import fold
from engine.testing.scheduling import counting_steps
from tests.runtime.scenes import Crowd, calling, calls, check_closed, check_sound, history

pytestmark = pytest.mark.anyio


# --- long results -----------------------------------------------------------------------------------------------------


async def test_demand20_a_long_result_is_shortened_and_can_be_read_back(tmp_path: Path) -> None:
    """The model gets a preview within the limit and is offered `read_result` from then on, and not before; with it, it
    reads the rest, also in an engine that opened the session later; the record names the whole.
    """
    text = "".join(f"line {n}\n" for n in range(20_000))
    offered: list[bool] = []

    @tool(effect="read")
    async def dump() -> str:
        return text

    def think(request: ModelRequest) -> ModelReply:
        offered.append("read_result" in [spec.name for spec in request.tools])
        newest = request.messages[-1].text or ""
        if newest == "go":
            return calls("dump")
        if request.messages[-1].role == "user":
            shown = next(m.text for m in request.messages if m.role == "tool")
            handles = re.findall(r'handle="([0-9a-f]{64})", offset=(\d+)', shown or "")
            arguments: dict[str, Any] = {"handle": handles[0][0], "offset": int(handles[0][1]), "length": 64}
            return ModelReply(tool_calls=[ToolCall(id="r", name="read_result", arguments=arguments)])
        return ModelReply(text="done")

    path = str(tmp_path / "journal.jsonl")
    async with Engine(model=FunctionModel(think), tools=[dump], journal=open_journal(path)) as engine:
        result = await (await engine.open("s")).ask("go")
        assert len(result.tool_calls[0].content.encode()) <= engine.limits.max_output_bytes
    async with Engine(model=FunctionModel(think), tools=[dump], journal=open_journal(path)) as engine:
        session = await engine.open("s")
        result = await session.ask("read on")
        records = [record async for record in session.history()]
    (made,) = result.tool_calls
    assert made.status is ToolStatus.COMPLETED
    piece = made.content.split("]\n", 1)[1]
    assert len(piece) == 64
    assert piece in text
    assert offered == [False, True, True, True]
    assert check_sound(records).spilled
    blobs = [record.event.blob for record in records if isinstance(record.event, ToolFinished)]
    assert len(blobs[0] or "") == 64
    assert blobs[1] is None


async def test_limit_of_a_tool_goes_before_the_engines() -> None:
    """`max_output_bytes` of a tool replaces that of the engine, in both directions."""

    @tool(effect="read", max_output_bytes=2000)
    async def small() -> str:
        return "é" * 1500

    @tool(effect="read", max_output_bytes=100_000)
    async def large() -> str:
        return "y" * 90_000

    async with Engine(model=ScriptedModel([calls("small", "large"), "done"]), tools=[small, large]) as engine:
        result = await (await engine.open("s")).ask("go")
    first, second = (made.content for made in result.tool_calls)
    assert len(first.encode()) <= 2000
    assert "too long" in first
    assert second == "y" * 90_000


async def test_v16_limits_of_one_tool_bound_its_output() -> None:
    """`max_output_bytes` of `Limits.tools` goes before the tool's own and the engine's, in both directions, also for a
    task of the host's and for `read_result`.
    """

    @tool(effect="read", max_output_bytes=100_000)
    async def small() -> str:
        return "x" * 90_000

    @tool(effect="read", max_output_bytes=2000)
    async def large() -> str:
        return "y" * 90_000

    @tool(external=True)
    def ship() -> str:
        raise AssertionError("an external tool is never run")

    def think(request: ModelRequest) -> ModelReply:
        if request.round == 1:
            return calls("small", "large", "ship")
        handle = next(found[1] for m in request.messages if (found := re.search(r'handle="(.{64})"', m.text or "")))
        reads = ToolCall(id="r", name="read_result", arguments={"handle": handle})
        return ModelReply(tool_calls=[reads]) if request.round == 2 else ModelReply(text="done")

    bounds = {"small": 1500, "large": 100_000, "ship": 1024, "read_result": 1100}
    limits = Limits(tools={name: ToolLimits(max_output_bytes=most) for name, most in bounds.items()})
    async with Engine(model=FunctionModel(think), tools=[small, large, ship], limits=limits) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        result = await session.answer(request.id, approve=True, text="z" * 90_000)
    sizes = {made.name: len(made.content) for made in result.tool_calls}
    assert {name: size for name, size in sizes.items() if size > bounds[name]} == {}
    assert sizes["large"] == 90_000
    assert result.tool_calls[-1].content.startswith("[Bytes 0 to 940 of 90000; offset=940 reads on]")


# --- the cache --------------------------------------------------------------------------------------------------------


class Shop:
    """A thing to read and to write, with a count of how often it was really read."""

    def __init__(self) -> None:
        self.reads = 0
        self.price = 1

    def tools(self) -> list[Any]:
        """Return a cached read, and a write."""

        @tool(effect="read", cache_ttl_s=60)
        async def price_of(item: str = "tea") -> int:
            self.reads += 1
            await anyio.lowlevel.checkpoint()
            return self.price

        @tool
        async def set_price() -> str:
            self.price += 1
            return "set"

        return [price_of, set_price]


async def test_v34_a_read_is_answered_from_the_cache_until_a_write() -> None:
    """The same read again does not run and gives the same result; after a write it runs again. The counts say so."""
    shop, journal = Shop(), MemoryJournal()
    script: list[ModelReply | str] = [
        calls("price_of"),
        calls("price_of"),
        calls("set_price"),
        calls("price_of"),
        "done",
    ]
    async with Engine(model=ScriptedModel(script), tools=shop.tools(), journal=journal) as engine:
        result = await (await engine.open("s", user="u")).ask("go")
        stats, cache = engine.tool_metrics["price_of"], engine.stats().cache
    assert [made.content for made in result.tool_calls] == ["1", "1", "set", "2"]
    assert cache is not None
    assert (cache.total, cache.hits, cache.joined) == (3, 1, 0)
    assert shop.reads == 2
    assert (stats.total, stats.ok, stats.failed, stats.cache_hits) == (3, 3, 0, 1)
    assert stats.mean_ms > 0
    check_closed(await history(journal))


async def test_v34_identical_calls_in_flight_are_one() -> None:
    """Four identical reads of one reply run once, and all four have the result."""
    shop = Shop()
    async with Engine(model=ScriptedModel([calls(*["price_of"] * 4), "done"]), tools=shop.tools()) as engine:
        result = await (await engine.open("s")).ask("go")
        assert engine.tool_metrics["price_of"].cache_hits == 3
    assert [made.content for made in result.tool_calls] == ["1"] * 4
    assert shop.reads == 1


async def test_v34_nobody_sees_what_another_user_read() -> None:
    """Sessions of one user share results, those of another user do not."""
    shop = Shop()
    script: list[ModelReply | str] = [calls("price_of"), "a", calls("price_of"), "b", calls("price_of"), "c"]
    async with Engine(model=ScriptedModel(script), tools=shop.tools()) as engine:
        for name, user, reads in (("a", "u", 1), ("b", "u", 1), ("c", "v", 2)):
            await (await engine.open(name, user=user)).ask("go")
            assert shop.reads == reads


async def test_v34_a_thread_that_still_writes_makes_the_cache_forget() -> None:
    """A read between the timeout of a synchronous write and the real end of its thread is not kept beyond that end."""
    shop, free = Shop(), threading.Event()
    ended = anyio.Event()

    @tool(timeout_s=0.02)
    def slow_write() -> None:
        free.wait(60)
        shop.price = 9

    class Watch:
        def on_record(self, record: Any) -> None:
            if isinstance(record.event, LateResult):
                ended.set()

        def on_notice(self, session: str, notice: Any) -> None:
            """Do nothing."""

    script: list[ModelReply | str] = [calls("slow_write"), "a", calls("price_of"), "b", calls("price_of"), "c"]
    parts: dict[str, Any] = {"settings": EngineSettings(on_unknown="tell_model"), "observers": [Watch()]}
    async with Engine(model=ScriptedModel(script), tools=[*shop.tools(), slow_write], **parts) as engine:
        session = await engine.open("s")
        with anyio.fail_after(60):
            await session.ask("go")
            assert (await session.ask("go")).tool_calls[0].content == "1"
            free.set()
            await ended.wait()
            assert (await session.ask("go")).tool_calls[0].content == "9"


# --- late results -----------------------------------------------------------------------------------------------------


async def test_f5_a_late_result_is_recorded_and_ignored() -> None:
    """When the thread of a timed-out call ends at last, that is on record, also after the turn; the call keeps its end,
    the conversation is as before, and the history replays.
    """
    free, ended = threading.Event(), anyio.Event()

    # Long enough for the thread to begin on a busy machine: one that never began has no late result.
    @tool(effect="read", timeout_s=0.5)
    def stuck() -> str:
        free.wait(60)
        return "too late"

    class Watch:
        def on_record(self, record: Any) -> None:
            if isinstance(record.event, LateResult):
                ended.set()

        def on_notice(self, session: str, notice: Any) -> None:
            """Do nothing."""

    journal = MemoryJournal()
    parts: dict[str, Any] = {"journal": journal, "observers": [Watch()]}
    async with Engine(model=ScriptedModel([calls("stuck"), "done"]), tools=[stuck], **parts) as engine:
        session = await engine.open("s")
        with anyio.fail_after(60):
            result = await session.ask("go")
            before = list(session.messages)
            free.set()
            await ended.wait()
        assert list(session.messages) == before
        assert session.state is State.IDLE
    assert result.tool_calls[0].status is ToolStatus.TIMED_OUT
    records = await history(journal)
    late = [record for record in records if isinstance(record.event, LateResult)]
    assert [(record.source, record.dest, record.effects) for record in late] == [(State.IDLE, State.IDLE, ())]
    check_sound(records)
    assert list(fold(records).transcript) == before


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False])
async def test_a14_the_engine_caps_what_all_sessions_run(alone: bool) -> None:
    """Of six sessions that each run one or two reads under a cap of two for the engine, never more than two run at
    once, and all end.
    """
    crowd = Crowd()

    @tool(effect="read")
    async def look() -> str:
        await crowd.visit(steps=3)
        return "seen"

    settings = EngineSettings(lanes=LaneLimits(query=2))
    async with Engine(model=calling(*["look"] * (1 if alone else 2)), tools=[look], settings=settings) as engine:

        async def ask(name: str) -> None:
            outcomes.append((await (await engine.open(name)).ask("go")).outcome)

        outcomes: list[Outcome] = []
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for number in range(6):
                    group.start_soon(ask, f"s{number}")
    assert outcomes == [Outcome.COMPLETED] * 6
    assert crowd.most == 2


async def test_v34_a14_urgent_calls_go_first() -> None:
    """While the only place is taken, a critical call that came last starts before normal ones that came earlier."""
    free = anyio.Event()
    order: list[str] = []

    @tool(effect="read")
    async def look(context: ToolContext) -> str:
        order.append(context.session)
        if context.session == "first":
            await free.wait()
        return "seen"

    settings = EngineSettings(lanes=LaneLimits(query=1))
    async with Engine(model=calling("look"), tools=[look], settings=settings) as engine:

        async def ask(name: str, priority: Priority) -> None:
            await (await engine.open(name)).ask(Prompt(text="go", priority=priority))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for name, priority in (
                    ("first", Priority.NORMAL), ("normal", Priority.NORMAL), ("low", Priority.LOW),
                    ("critical", Priority.CRITICAL),
                ):  # fmt: skip
                    group.start_soon(ask, name, priority)
                    await anyio.wait_all_tasks_blocked()
                free.set()
    assert order == ["first", "critical", "normal", "low"]


async def test_a14_pressure_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """When more calls wait for a place than the bound says the log tells it once, and once when that is over."""
    caplog.set_level(logging.WARNING, "engine")
    free = anyio.Event()

    @tool(effect="read")
    async def look() -> str:
        await free.wait()
        return "seen"

    def think(request: ModelRequest) -> ModelReply:
        return ModelReply(text="done") if request.round > 1 else calls("look")

    def said() -> list[tuple[str, int]]:
        lines = [json.loads(record.getMessage()) for record in caplog.records]
        return [(line["event"], line["bound"]) for line in lines if "bound" in line]

    settings = EngineSettings(lanes=LaneLimits(query=1, queue_alert=2))
    async with Engine(model=FunctionModel(think), tools=[look], settings=settings) as engine:

        async def ask(name: str) -> None:
            await (await engine.open(name)).ask("go")

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for number, expected in enumerate([0, 0, 0, 1, 1]):
                    group.start_soon(ask, f"s-{number}")
                    await anyio.wait_all_tasks_blocked()
                    assert said() == [("many calls wait for a place", 2)] * expected
                free.set()
    assert said() == [("many calls wait for a place", 2), ("fewer calls wait for a place", 2)]


async def test_a14_a_cancelled_turn_gives_its_waiting_places_back() -> None:
    """A session that waits for a place and is cancelled leaves the queue: the next one gets the place."""
    free = anyio.Event()

    @tool(effect="read")
    async def look(context: ToolContext) -> str:
        if context.session == "first":
            await free.wait()
        return "seen"

    settings = EngineSettings(lanes=LaneLimits(query=1))
    async with Engine(model=calling("look"), tools=[look], settings=settings) as engine:

        async def ask(name: str) -> None:
            results[name] = (await (await engine.open(name)).ask("go")).outcome

        results: dict[str, Outcome] = {}
        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for name in ("first", "second", "third"):
                    group.start_soon(ask, name)
                    await anyio.wait_all_tasks_blocked()
                await (await engine.open("second")).cancel()
                free.set()
    assert results == {"first": Outcome.COMPLETED, "second": Outcome.CANCELLED, "third": Outcome.COMPLETED}


async def test_a14_model_calls_have_a_lane() -> None:
    """Under a lane of one for model calls, no two sessions ask the model at the same time, and all end."""
    crowd = Crowd()

    async def think(request: ModelRequest) -> ModelReply:
        await crowd.visit()
        return ModelReply(text="done")

    settings = EngineSettings(lanes=LaneLimits(generate=1))
    async with Engine(model=FunctionModel(think), settings=settings, limits=Limits()) as engine:

        async def ask(name: str) -> None:
            await (await engine.open(name)).ask("go")

        with anyio.fail_after(30):
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(ask, f"s{number}")
    assert crowd.most == 1


async def test_a14_pressure_of_one_turn_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """When more calls wait than `queue_alert`, and again when they are half as many, the log says so once."""
    free = anyio.Event()

    @tool(effect="read")
    async def look() -> str:
        await free.wait()
        return "seen"

    model = ScriptedModel([calls(*["look"] * 6), "done"])
    settings = EngineSettings(lanes=LaneLimits(query=1, queue_alert=2))
    caplog.set_level(logging.WARNING, "engine")
    async with Engine(model=model, tools=[look], settings=settings, limits=Limits(max_concurrent_tools=6)) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "go")
            await anyio.wait_all_tasks_blocked()
            said = [json.loads(record.getMessage())["event"] for record in caplog.records]
            assert said == ["many calls wait for a place"]
            free.set()
        said = [json.loads(record.getMessage())["event"] for record in caplog.records]
        assert said == ["many calls wait for a place", "fewer calls wait for a place"]
        assert session.turns[-1].outcome is Outcome.COMPLETED


async def test_f1_a14_cancelled_at_any_step_no_place_is_lost() -> None:
    """A turn with two reads, of which one fails and is tried again, and a write, under one place a lane, is cancelled
    at every step of the event loop: each time the next session gets its places and ends, and the history holds.
    """
    step, untouched = 0, False
    while not untouched:
        step += 1
        failures = iter([True])

        @tool(effect="read", on_failure="retry")
        async def look() -> str:
            await anyio.lowlevel.checkpoint()
            if next(failures, False):  # noqa: B023
                raise ConnectionError("no answer")
            return "seen"

        @tool
        async def save() -> str:
            await anyio.lowlevel.checkpoint()
            return "saved"

        journal = MemoryJournal()
        parts: dict[str, Any] = {
            "settings": EngineSettings(lanes=LaneLimits(query=1, execute=1, generate=1)),
            "limits": Limits(backoff_base_s=0),
            "journal": journal,
        }
        async with Engine(model=calling("look", "save", "look"), tools=[look, save], **parts) as engine:
            session, other = await engine.open("s"), await engine.open("t")
            with anyio.CancelScope() as scope, counting_steps(step, scope.cancel) as steps:
                await session.ask("go")
            untouched = not steps.acted
            with anyio.fail_after(30):
                assert (await other.ask("go")).outcome is Outcome.COMPLETED
        check_sound(await history(journal))
    assert step > 10
