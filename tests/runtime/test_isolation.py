"""Tools in processes of their own, in the living engine: what is killed, what goes on, and that nothing is left."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from engine import Engine, EngineSettings, Limits, ModelReply, Outcome, Prompt, ToolStatus, TransitionRecord
from engine.core.events import ToolFinished
from engine.core.notices import Notice, ToolProgress
from engine.models import FunctionModel, ScriptedModel
from engine.ports import Model, Tool
from engine.tools.function import FunctionTool
from examples import misbehaving_tools as bad
from tests.runtime.scenes import call, check_closed, history
from tests.tools.workers import functions, living
from tests.tools.workers.talking import PATIENCE_S, lives

pytestmark = pytest.mark.anyio

ONE, TWO = Limits(max_concurrent_tools=1), Limits(max_concurrent_tools=2)
"""As many workers as the test needs: each costs an interpreter."""

BOMB = living.bounded(living.forks_and_forks)
HOG = living.bounded(bad.eats_memory, PATIENCE_S)


class Watching:
    """Notes which processes the tools report, and which of them live when a record of a call's end is durable."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.alive_at_end: list[int] = []
        self._of_call: dict[str, list[int]] = {}
        self._reported = anyio.Event()
        self._expected: tuple[int, Callable[[], object]] = (0, list)

    async def report(self) -> None:
        """Wait for the first process."""
        with anyio.fail_after(PATIENCE_S):
            await self._reported.wait()

    def when(self, count: int, act: Callable[[], object]) -> None:
        """Do something once so many processes are there."""
        self._expected = count, act

    def on_record(self, record: TransitionRecord) -> None:
        """Look at the processes of a call that has ended."""
        if isinstance(record.event, ToolFinished):
            self.alive_at_end += filter(lives, self._of_call.pop(record.event.call_id, []))

    def on_notice(self, session: str, notice: Notice) -> None:
        """Note what a tool reports."""
        if isinstance(notice, ToolProgress):
            self.started.append(int(notice.text))
            self._of_call.setdefault(notice.call_id, []).append(self.started[-1])
            self._reported.set()
            count, act = self._expected
            if len(self.started) == count:
                act()


@asynccontextmanager
async def leaving_nothing(
    tools: Sequence[Tool], model: Model | None = None, limits: Limits = ONE
) -> AsyncGenerator[tuple[Engine, Watching]]:
    """Open an engine, and assert at its end that it has left no process behind."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    watching = Watching()
    echo = model or FunctionModel(lambda request: ModelReply(text="I see."))
    settings = EngineSettings(on_unknown="tell_model")
    async with Engine(model=echo, tools=tools, limits=limits, settings=settings, observers=[watching]) as engine:
        yield engine, watching
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before
    assert list(filter(lives, watching.started)) == []


async def test_v11_process_tool_gets_the_recorded_arguments_and_the_hosts_kind_of_loop(anyio_backend_name: str) -> None:
    """What runs elsewhere binds what was recorded, and awaits on the loop that the host has."""
    prompt = Prompt(calls=[call("half", "c1", number="7"), call("where", "c2")])
    async with leaving_nothing([living.half, living.where]) as (engine, _):
        result = await (await engine.open("s")).ask(prompt)
        halved, found = result.tool_calls
        assert (halved.status, halved.content) == (ToolStatus.COMPLETED, "3.5")
        pid, loop = json.loads(found.content)
        assert pid != os.getpid()
        assert loop == anyio_backend_name


async def test_v16_v22_f3_memory_hog_is_killed_and_its_siblings_finish() -> None:
    """A worker that wants 2 GB under 200 MB is memory_exceeded; its sibling, the turn and the session go on."""
    model = ScriptedModel([[call("eats_memory"), call("half", "c2", number=4)], "done", "again"])
    async with leaving_nothing([HOG, living.half], model, TWO) as (engine, watching):
        session = await engine.open("s")
        result = await session.ask("go")
        hog, sibling = result.tool_calls
        assert (result.outcome, result.text) == (Outcome.COMPLETED, "done")
        assert (hog.status, hog.error) == (ToolStatus.MEMORY_EXCEEDED, "memory_exceeded")
        assert (sibling.status, sibling.content) == (ToolStatus.COMPLETED, "2.0")
        assert len(watching.started) == 1
        assert watching.alive_at_end == []
        assert (await session.ask("still there?")).text == "again"
        check_closed(await history(engine.journal))


async def test_v16_what_a_call_used_is_in_its_record_and_replays() -> None:
    """The record of a call in a process says what its tree used; the turn and the folded history say the same."""
    async with leaving_nothing([HOG]) as (engine, _):
        session = await engine.open("s")
        result = await session.ask(Prompt(calls=[call("eats_memory")]))
        used = result.tool_calls[0].resources
        assert used is not None
        assert used.peak_memory_bytes is not None
        assert used.peak_memory_bytes > 200 * 2**20
        assert used.cpu_s is not None
        assert used.cpu_s > 0
        assert used.network_bytes is None
        records = await history(engine.journal)
        (ended,) = (record.event for record in records if isinstance(record.event, ToolFinished))
        assert ended.resources == used
        check_closed(records)


@pytest.mark.parametrize(
    ("made", "reports", "status"),
    [
        (living.bounded(bad.hangs), 1, ToolStatus.TIMED_OUT),
        (living.bounded(bad.ignores_sigterm), 1, ToolStatus.TIMED_OUT),
        (living.bounded(functions.detaches_and_waits), 3, ToolStatus.TIMED_OUT),
        (living.bounded(bad.leaves_its_session, PATIENCE_S), 1, ToolStatus.COMPLETED),
        (living.bounded(bad.forks_twice, PATIENCE_S), 1, ToolStatus.COMPLETED),
        (living.bounded(bad.floods_output, PATIENCE_S), 1, ToolStatus.FAILED),
    ],
    ids=lambda value: value.spec.name if isinstance(value, FunctionTool) else "",
)
async def test_f3_v22_misbehaving_tool_is_gone_when_its_end_is_recorded(
    made: FunctionTool[..., object], reports: int, status: ToolStatus
) -> None:
    """However it tries to stay, nothing of a call lives when its end is in the journal, and the turn goes on."""
    await check_gone(made, reports, status)


async def check_gone(made: FunctionTool[..., object], reports: int, status: ToolStatus) -> None:
    """Let the tool run, and look for its processes when its end is on record."""
    async with leaving_nothing([made]) as (engine, watching):
        result = await (await engine.open("s")).ask(Prompt(calls=[call(made.spec.name)]))
        assert (result.outcome, result.tool_calls[0].status) == (Outcome.COMPLETED, status)
        assert len(watching.started) == reports
        assert watching.alive_at_end == []
        check_closed(await history(engine.journal))


async def test_f3_tree_of_forks_is_gone_with_its_call(tmp_path: Path) -> None:
    """Processes that fork faster than anybody asks them to end are all killed."""
    noted = tmp_path / "pids"
    async with leaving_nothing([BOMB]) as (engine, _):
        prompt = Prompt(calls=[call(BOMB.spec.name, path=str(noted))])
        result = await (await engine.open("s")).ask(prompt)
        assert result.tool_calls[0].status is ToolStatus.TIMED_OUT
        started = [int(line) for line in noted.read_text("ascii").splitlines()]
        assert started
        assert list(filter(lives, started)) == []


async def test_v22_write_in_a_process_that_was_stopped_is_unknown_also_where_it_is_async() -> None:
    """A process that was ended in the middle of a write leaves an unknown outcome, and the model is told."""
    async with leaving_nothing([living.write_that_waits]) as (engine, watching):
        result = await (await engine.open("s")).ask(Prompt(calls=[call("write_that_waits")]))
        made = result.tool_calls[0]
        assert (made.status, made.error) == (ToolStatus.UNKNOWN, "timed_out")
        assert "may have taken effect" in made.content
        assert watching.alive_at_end == []
        check_closed(await history(engine.journal))


async def test_f3_m11_cancelled_turn_kills_the_tree_before_the_end_is_recorded() -> None:
    """When the record of a cancelled call is durable, its process is gone; the next call finds a worker."""
    async with leaving_nothing([living.write_that_hangs, living.half]) as (engine, watching):
        session = await engine.open("s")
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await watching.report()
                await session.cancel("enough")

            group.start_soon(cancel)
            result = await session.ask(Prompt(calls=[call("write_that_hangs")]))
        assert (result.outcome, result.tool_calls[0].status) == (Outcome.CANCELLED, ToolStatus.CANCELLED)
        assert len(watching.started) == 1
        assert watching.alive_at_end == []
        again = await session.ask(Prompt(calls=[call("half", number=2)]))
        assert again.tool_calls[0].content == "1.0"
        check_closed(await history(engine.journal))


async def test_v33_f3_shutdown_ends_running_workers() -> None:
    """Leaving the engine while tools hang leaves no process, and the turn is interrupted."""
    async with leaving_nothing([living.write_that_hangs]) as (engine, watching), anyio.create_task_group() as group:
        session = await engine.open("s")
        outcomes: list[Outcome] = []

        async def ask() -> None:
            outcomes.append((await session.ask(Prompt(calls=[call("write_that_hangs")]))).outcome)

        group.start_soon(ask)
        await watching.report()
        await engine.shutdown()
        assert len(watching.started) == 1
        assert not lives(watching.started[0])
    assert outcomes == [Outcome.INTERRUPTED]


async def test_v22_waiting_for_a_worker_is_not_in_the_time_of_a_call() -> None:
    """A call that finds every worker of the engine taken begins when one is free, and its time begins then."""
    hangs, brief = living.bounded(bad.hangs, timeout_s=2.5), living.bounded(functions.add, timeout_s=1.0)
    async with leaving_nothing([hangs, brief]) as (engine, watching):
        results: dict[str, ToolStatus] = {}

        async def ask(session_id: str, prompt: Prompt) -> None:
            session = await engine.open(session_id)
            results[session_id] = (await session.ask(prompt)).tool_calls[0].status

        async with anyio.create_task_group() as group:
            group.start_soon(ask, "a", Prompt(calls=[call("hangs")]))
            await watching.report()
            group.start_soon(ask, "b", Prompt(calls=[call("add", a=1, b=2)]))
    assert results == {"a": ToolStatus.TIMED_OUT, "b": ToolStatus.COMPLETED}


async def test_m22_tool_is_shared_by_engines_with_workers_of_their_own() -> None:
    """One decorated function serves two engines at a time; the end of one takes nothing from the other, and an engine
    that is opened again has workers again.
    """
    prompt = Prompt(calls=[call("half", number=6)])
    model = FunctionModel(lambda request: ModelReply(text="ok"))
    inner = Engine(model=model, tools=[living.half], limits=ONE)
    async with leaving_nothing([living.half]) as (outer, _):
        session = await outer.open("s")
        for name in ("first", "second"):
            async with inner:
                assert (await (await inner.open(name)).ask(prompt)).tool_calls[0].content == "3.0"
            assert (await session.ask(prompt)).tool_calls[0].content == "3.0"


async def test_v10_process_tools_of_one_reply_run_at_the_same_time(tmp_path: Path) -> None:
    """Two calls hold until both are there, each in a process of its own."""
    gates = [tmp_path / "one", tmp_path / "two"]
    for gate in gates:
        os.mkfifo(gate)
    both = [call("holds", f"c{number}", until=str(gate)) for number, gate in enumerate(gates)]
    async with leaving_nothing([living.holds], limits=TWO) as (engine, watching):

        def open_gates() -> None:
            for gate in gates:
                gate.write_text("")

        watching.when(2, open_gates)
        result = await (await engine.open("s")).ask(Prompt(calls=both))
    assert [made.content for made in result.tool_calls] == ["held", "held"]
