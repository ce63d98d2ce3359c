"""Drain and shutdown: turns stop where nothing is half-done, everybody shares one end, and nothing is left behind."""

from __future__ import annotations

import gc
import threading
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import anyio
import anyio.lowlevel
import psutil
import pytest

from engine import Engine, Limits, ModelReply, ModelRequest, Outcome, State, TurnResult, tool
from engine.errors import EngineClosed, ModelError
from engine.journal import MemoryJournal, SqliteJournal
from engine.models import FunctionModel, ScriptedModel
from engine.ports import Journal
from engine.runtime.closing import DrainReport
from engine.testing.journals import YieldingJournal
from engine.testing.scheduling import counting_steps
from tests.runtime.scenes import (
    SCENES,
    Scene,
    Verdicts,
    World,
    answer_all,
    call,
    calls,
    check_sound,
    history,
    model_of,
    play,
    triggers,
)

pytestmark = pytest.mark.anyio

FAR_S = 3600.0
"""A deadline that no test reaches: what ends earlier has not waited for it."""


class Gate:
    """A point at which a test holds a model or a tool."""

    def __init__(self) -> None:
        self.reached, self.free = anyio.Event(), anyio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.free.wait()


class Closed(MemoryJournal):
    """Counts how often it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.times += 1
        await super().aclose()


async def test_v33_drain_stops_between_a_reply_and_its_tools() -> None:
    """The reply that was under way is kept, its tools do not start, and the next engine runs them, once."""
    store, gate, runs, results = MemoryJournal(), Gate(), list[str](), list[TurnResult]()

    @tool
    async def save() -> str:
        runs.append("save")
        return "saved"

    async def think(request: ModelRequest) -> ModelReply:
        await gate.wait()
        return calls("save") if request.round == 1 else ModelReply(text="done")

    async def ask() -> None:
        results.append(await session.ask("go"))

    reports: list[DrainReport] = []

    async def drain() -> None:
        reports.append(await engine.drain(FAR_S))

    async with Engine(model=FunctionModel(think), tools=[save], journal=store) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await gate.reached.wait()
            group.start_soon(drain)
            await anyio.wait_all_tasks_blocked()
            assert reports == []
            gate.free.set()
    assert (results[0].outcome, reports, runs) == (Outcome.INTERRUPTED, [DrainReport(("s",), ())], [])
    records = await history(store)
    assert triggers(records)[-2:] == ["model_replied", "shutdown_requested"]
    assert (records[-1].source, records[-1].dest) == (State.EXECUTING_TOOLS, State.SHUTDOWN)
    async with Engine(model=ScriptedModel(["done"]), tools=[save], journal=store) as engine:
        assert (await (await engine.open("s")).result()).outcome is Outcome.COMPLETED
    assert runs == ["save"]


async def test_v33_drain_lets_started_tools_end() -> None:
    """A write that runs comes to its end, on record, and the next round is not begun."""
    store, gate, asked = MemoryJournal(), Gate(), list[int]()

    @tool
    async def save() -> str:
        await gate.wait()
        return "saved"

    async def think(request: ModelRequest) -> ModelReply:
        asked.append(request.round)
        return calls("save", "save")

    async with Engine(model=FunctionModel(think), tools=[save], journal=store) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "go")
            await gate.reached.wait()
            group.start_soon(engine.drain, FAR_S)
            await anyio.wait_all_tasks_blocked()
            gate.free.set()
    assert asked == [1]
    records = await history(store)
    assert triggers(records).count("tool_finished") == 2
    assert (records[-1].trigger, records[-1].source) == ("shutdown_requested", State.GENERATING_RESPONSE)


async def test_v33_drain_interrupts_at_its_deadline() -> None:
    """What does not reach a safe point in time is interrupted, and the report says which session it was."""
    hanging = Gate()

    async def think(request: ModelRequest) -> ModelReply:
        if request.session == "hangs":
            await hanging.wait()
        return ModelReply(text="done")

    async with Engine(model=FunctionModel(think)) as engine:
        slow, idle = await engine.open("hangs"), await engine.open("idle")
        await idle.ask("go")
        async with anyio.create_task_group() as group:
            group.start_soon(slow.ask, "go")
            await hanging.reached.wait()
            assert await engine.drain(0.01) == DrainReport(("idle",), ("hangs",))
        assert slow.state is State.SHUTDOWN
        assert idle.state is State.IDLE


async def test_v33_a_drained_engine_takes_no_prompt() -> None:
    """New prompts, waiting prompts, answers and new sessions are refused with a typed error that says where to go."""
    gate = Gate()
    waiting: list[str] = []

    async def think(request: ModelRequest) -> ModelReply:
        await gate.wait()
        return ModelReply(text="done")

    async def wait_in_line() -> None:
        try:
            await session.ask("second")
        except EngineClosed as error:
            waiting.append(str(error))

    async with Engine(model=FunctionModel(think)) as engine:
        session, other = await engine.open("s"), await engine.open("other")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "first")
            await gate.reached.wait()
            group.start_soon(wait_in_line)
            group.start_soon(engine.drain, FAR_S)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(EngineClosed, match="open it again"):
                await other.ask("new")
            with pytest.raises(EngineClosed, match="another engine"):
                await engine.open("new")
            gate.free.set()
        assert len(waiting) == 1


async def test_v33_drain_does_not_wait_for_people_or_faults() -> None:
    """A session that waits for an answer, and one that waits out a rate limit, are at a safe point as they are."""
    backing_off = anyio.Event()

    @tool
    async def pay() -> str:
        return "paid"

    async def think(request: ModelRequest) -> ModelReply:
        if request.session == "asks":
            return ModelReply(tool_calls=[call("pay", "ask")])
        backing_off.set()
        raise ModelError("slow down", kind="rate_limit", retry_after_s=FAR_S)

    policy = Verdicts(ask="ask")
    limits = Limits(max_execution_time_s=2 * FAR_S, park_after_s=2 * FAR_S)
    async with Engine(model=FunctionModel(think), tools=[pay], policy=policy, limits=limits) as engine:
        asks, waits = await engine.open("asks"), await engine.open("waits")
        await asks.ask("go")
        async with anyio.create_task_group() as group:
            group.start_soon(waits.ask, "go")
            await backing_off.wait()
            await anyio.wait_all_tasks_blocked()
            assert waits.state is State.ERROR
            with anyio.fail_after(30):
                assert await engine.drain(FAR_S) == DrainReport(("asks", "waits"), ())
        assert (asks.state, waits.state) == (State.SHUTDOWN, State.SHUTDOWN)


async def test_v33_drain_is_one_for_all_who_ask() -> None:
    """Whoever drains again gets the same report; one with less patience shortens the wait of all."""
    gate, reports = Gate(), list[DrainReport]()

    async def think(request: ModelRequest) -> ModelReply:
        await gate.wait()
        return ModelReply(text="done")

    async def drain(deadline_s: float) -> None:
        reports.append(await engine.drain(deadline_s))

    async with Engine(model=FunctionModel(think)) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "go")
            await gate.reached.wait()
            group.start_soon(drain, FAR_S)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(30):
                await drain(0)
        await drain(FAR_S)
        assert reports == [DrainReport((), ("s",))] * 3


async def test_v33_shutdown_is_one_for_all_who_ask() -> None:
    """Three at a time close the journal once, and a shutdown without grace cuts the drain short."""
    gate, journal = Gate(), Closed()

    async def think(request: ModelRequest) -> ModelReply:
        await gate.wait()
        return ModelReply(text="done")

    async with Engine(model=FunctionModel(think), journal=journal) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "go")
            await gate.reached.wait()
            group.start_soon(engine.drain, FAR_S)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(30):
                async with anyio.create_task_group() as stopping:
                    for grace_s in (FAR_S, FAR_S, 0):
                        stopping.start_soon(engine.shutdown, grace_s)
        await engine.shutdown()
    assert journal.times == 1
    assert triggers(await history(journal))[-1] == "shutdown_requested"


async def test_i13_a_cancelled_engine_lets_go_of_everything() -> None:
    """Cancelling the scope around an engine closes its journal and leaves its sessions free for the next writer."""
    journal = Closed()
    with anyio.CancelScope() as scope:
        async with Engine(model=ScriptedModel(["done"]), journal=journal) as engine:
            session = await engine.open("s")
            await session.ask("go")
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert journal.times == 1
    async with Engine(model=ScriptedModel(["done"]), journal=journal) as engine:
        assert (await (await engine.open("s")).ask("again")).outcome is Outcome.COMPLETED


async def test_i13_f3_shutdown_leaves_no_task_thread_child_or_descriptor(tmp_path: Path) -> None:
    """Counted before and after twenty sessions, with tools in the loop and in threads, drained in the middle."""
    inside = 0

    @tool(effect="read")
    def compute() -> str:
        nonlocal inside
        with lock:
            inside += 1
        with lock:
            inside -= 1
        return "computed"

    @tool
    async def save() -> str:
        await anyio.lowlevel.checkpoint()
        return "saved"

    async def run(path: Path) -> None:
        model = ScriptedModel([calls("compute", "save", "compute")] * 20 + ["done"] * 20)
        async with (
            anyio.create_task_group() as group,
            Engine(model=model, tools=[compute, save], journal=SqliteJournal(path)) as engine,
        ):
            for number in range(20):
                group.start_soon((await engine.open(f"s{number}")).ask, "go")
            await anyio.wait_all_tasks_blocked()
            await engine.drain(FAR_S)
            await engine.shutdown()

    # Idle worker threads are the event loop's own: it keeps them for a while.
    lock = threading.Lock()
    await run(tmp_path / "first.db")
    before = _held()
    await run(tmp_path / "second.db")
    assert _held() == before
    assert inside == 0


def _held() -> tuple[int, int, int, int]:
    """Return how many tasks, threads that are no idle workers, children and descriptors there are."""
    gc.collect()
    idle = ("AnyIO worker thread", "Trio thread")
    own = [thread for thread in threading.enumerate() if not thread.name.startswith(idle)]
    process = psutil.Process()
    return len(anyio.get_running_tasks()), len(own), len(process.children(recursive=True)), process.num_fds()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name.replace(" ", "-"))
async def test_v33_a_drain_at_every_step_repeats_nothing(scene: Scene) -> None:
    """Drained at the n-th step of a turn, for every n, the turn goes on in another engine and no tool ran twice."""
    stopped = 0
    for number in count(1):
        assert number < 600
        # One that takes its time: there is a step around each append.
        store = YieldingJournal(MemoryJournal())
        world = World(store)
        async with anyio.create_task_group() as group, _engine_of(scene, world, store) as engine:
            session = await engine.open("s")
            drain = partial(group.start_soon, engine.drain, FAR_S)
            with counting_steps(number, drain) as steps, suppress(EngineClosed):
                await play(scene, session)
            assert await engine.drain(FAR_S) == DrainReport(("s",), ())
            stopped += session.state is State.SHUTDOWN
        async with _engine_of(scene, world, store) as engine:
            session = await engine.open("s")
            await answer_all(session, await session.result())
            assert session.state is State.IDLE
        check_sound(await history(store))
        assert world.undeclared == []
        assert set(world.done.values()) <= {1}, world.done
        if not steps.acted:
            break
    # A turn of a single reply may be over before anybody looks.
    assert stopped or not (scene.replies or scene.prompt.calls)


def _engine_of(scene: Scene, world: World, store: Journal) -> Engine:
    limits = Limits(backoff_base_s=0)
    return Engine(model=model_of(scene), tools=world.tools(), journal=store, policy=Verdicts(ask="ask"), limits=limits)
