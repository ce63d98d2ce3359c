"""Resuming after kill -9, a lost journal, an orderly shutdown: nothing runs twice that must not."""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import anyio
import pytest

from engine import Engine, EngineSettings, Limits, Outcome, Prompt, State, ToolStatus, TurnResult, tool
from engine.errors import EngineClosed, JournalUnavailable
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from engine.testing.journals import FailingJournal
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
from tests.runtime.victim import Notes, engine_at

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parent.parent
MOST = 600

every_scene = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name.replace(" ", "-"))


@pytest.fixture
def path(anyio_backend: str, tmp_path: Path) -> Path:
    """Return where the journal lies: each event loop kills its processes over another kind of journal."""
    return tmp_path / ("runs.db" if anyio_backend == "asyncio" else "runs.jsonl")


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    """Return what the tools of both processes note."""
    return Notes(tmp_path / "notes")


async def killed(path: Path, notes: Notes, point: str, prompt: str, backend: str) -> None:
    """Run a turn in another process until it is killed at `point`."""
    script = [
        sys.executable,
        "-m",
        "tests.runtime.victim",
        str(path),
        str(path.parent / "notes"),
        point,
        prompt,
        backend,
    ]
    done = await anyio.run_process(script, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


async def resumed(path: Path, notes: Notes, settings: EngineSettings | None = None) -> TurnResult:
    """Open the session here and return how its turn came to rest; the history must hold."""
    async with engine_at(path, notes, settings=settings) as engine:
        session = await engine.open("s")
        result = await session.result()
        check_sound(await history(engine.journal))
    return result


ONCE_EACH = {
    "at prompt_received": (1, 1, 1),
    "at model_replied": (1, 1, 1),
    "in look": (2, 1, 1),
    "at tool_finished": (1, 1, 1),
    "in bump": (1, 2, 1),
    "in model": (1, 1, 1),
    "in the rest": (1, 1, 1),
}
"""Where the process dies → how often the read, the idempotent call and the write have run in the end."""


@pytest.mark.parametrize(("point", "times"), ONCE_EACH.items(), ids=[point.replace(" ", "-") for point in ONCE_EACH])
async def test_f2_m6_killed_process_goes_on_where_it_was(
    path: Path, notes: Notes, point: str, times: tuple[int, int, int], anyio_backend: str
) -> None:
    """Finished calls never run again, unstarted ones run, an interrupted read or idempotent one runs again."""
    await killed(path, notes, point, "look bump save", anyio_backend)
    result = await resumed(path, notes)
    assert (result.outcome, result.text) == (Outcome.COMPLETED, "done")
    assert [made.status for made in result.tool_calls] == [ToolStatus.COMPLETED] * 3
    assert (notes.times("look"), notes.times("bump"), notes.times("save")) == times
    assert [len(notes.keys(name)) for name in ("look", "bump", "save")] == [1, 1, 1]


@pytest.mark.parametrize("point", ["before save", "in save"])
async def test_f2_killed_write_is_asked_about_and_never_silently_repeated(
    path: Path, notes: Notes, point: str, anyio_backend: str
) -> None:
    """Whether or not the write took effect, the engine cannot know: it asks, and does as it is told."""
    await killed(path, notes, point, "look save", anyio_backend)
    async with engine_at(path, notes) as engine:
        session = await engine.open("s")
        result = await session.result()
        assert (session.state, result.outcome) == (State.WAITING_FOR_USER, Outcome.WAITING)
        assert [request.kind for request in session.pending] == ["outcome"]
        happened = notes.times("save") == 1
        result = await session.answer(session.pending[0].id, approve=happened)
        check_sound(await history(engine.journal))
    assert result.outcome is Outcome.COMPLETED
    assert (notes.times("look"), notes.times("save")) == (1, 1)


async def test_f2_killed_write_is_told_to_the_model_by_policy(path: Path, notes: Notes, anyio_backend: str) -> None:
    """With on_unknown="tell_model" the turn goes on at once; the model reads that nobody knows."""
    await killed(path, notes, "in save", "look save", anyio_backend)
    result = await resumed(path, notes, EngineSettings(on_unknown="tell_model"))
    assert result.outcome is Outcome.COMPLETED
    assert [made.status for made in result.tool_calls] == [ToolStatus.COMPLETED, ToolStatus.UNKNOWN]
    assert "may or may not" in result.tool_calls[1].content
    assert notes.times("save") == 1


@pytest.mark.parametrize(("point", "content"), [("before post", "posted"), ("in post", "found saved")])
async def test_f2_killed_write_with_a_probe_needs_nobody(
    path: Path, notes: Notes, point: str, content: str, anyio_backend: str
) -> None:
    """A probe that finds the write gives its result; one that certainly does not find it lets the write run."""
    await killed(path, notes, point, "post", anyio_backend)
    result = await resumed(path, notes)
    assert (result.outcome, result.tool_calls[0].content) == (Outcome.COMPLETED, content)
    assert notes.times("post") == 1


async def test_f17_killed_while_waiting_keeps_the_question(path: Path, notes: Notes, anyio_backend: str) -> None:
    """A pending approval survives the process with its id, and the answer given to the next one runs the call once."""
    await killed(path, notes, "waiting", "look post", anyio_backend)
    async with engine_at(path, notes) as engine:
        session = await engine.open("s")
        assert session.state is State.WAITING_FOR_USER
        (request,) = session.pending
        assert (request.kind, request.call_id) == ("approval", "c1")
        assert notes.times("post") == 0
        result = await session.answer(request.id, approve=True)
    assert result.outcome is Outcome.COMPLETED
    assert (notes.times("look"), notes.times("post")) == (1, 1)


async def test_m6_killed_twice_still_ends_once(path: Path, notes: Notes, anyio_backend: str) -> None:
    """A process that dies while it resumes leaves a history that the next one resumes."""
    await killed(path, notes, "at model_replied", "look bump save", anyio_backend)
    await killed(path, notes, "at resumed", "unused", anyio_backend)
    await killed(path, notes, "in bump", "unused", anyio_backend)
    async with engine_at(path, notes) as engine:
        session = await engine.open("s")
        await session.result()
        assert session.turns[0].response == "done"
    assert (notes.times("look"), notes.times("bump"), notes.times("save")) == (1, 2, 1)


async def test_f8_torn_tail_is_cut_and_the_turn_goes_on(tmp_path: Path, notes: Notes, anyio_backend: str) -> None:
    """What a crash left of an unfinished line is cut off, reported, and the turn resumes from the record before it."""
    path = tmp_path / "runs.jsonl"
    await killed(path, notes, "in look", "look", anyio_backend)
    with path.open("ab") as file:
        file.write(b'{"at":"2026-01-01T00:00')
    async with engine_at(path, notes) as engine:
        session = await engine.open("s")
        assert session.cut_bytes == 23
        assert (await session.result()).outcome is Outcome.COMPLETED


# --- every append, every step, in one process -------------------------------------------------------------------------


def engine_of(scene: Scene, world: World, journal: MemoryJournal | FailingJournal) -> Engine:
    limits = Limits(backoff_base_s=0, loops=None)
    settings = EngineSettings(exit_grace_s=0)
    return Engine(
        model=model_of(scene), tools=world.tools(), journal=journal, limits=limits, settings=settings,
        policy=Verdicts(ask="ask"),
    )  # fmt: skip


async def check_resumes(scene: Scene, store: MemoryJournal, world: World, prompted: bool) -> None:
    """Open the session in a new engine and assert that its turn ends, writes at most once, nothing changed."""
    before = [record.hash for record in await history(store)] if prompted else []
    async with engine_of(scene, world, store) as engine:
        session = await engine.open("s")
        await answer_all(session, await session.result())
        assert session.state is State.IDLE
        if not session.turns:
            await play(scene, session)
        assert session.turns[-1].outcome is Outcome.COMPLETED
    records = await history(store)
    assert [record.hash for record in records[: len(before)]] == before
    check_sound(records)
    assert world.undeclared == []
    assert all(times == 1 for key, times in world.done.items() if key not in world.reads), world.done


@every_scene
async def test_f2_m6_a_history_that_ends_anywhere_resumes(scene: Scene) -> None:
    """An engine that loses its journal for good after the n-th append, for every n: another one finishes the turn."""
    for number in count(2):
        assert number < MOST
        store = MemoryJournal()
        journal = FailingJournal(store, range(number, 10_000))
        world = World(store)
        async with engine_of(scene, world, journal) as engine:
            session = await engine.open("s")
            with suppress(JournalUnavailable):
                await play(scene, session)
        await check_resumes(scene, store, world, prompted=True)
        if not journal.failures:
            return


@every_scene
async def test_v33_a_shutdown_at_every_step_resumes(scene: Scene) -> None:
    """An engine that shuts down at the n-th step of a turn, for every n, leaves a history that another one finishes."""
    for number in count(1):
        assert number < MOST
        store = MemoryJournal()
        world = World(store)
        async with anyio.create_task_group() as group, engine_of(scene, world, store) as engine:
            session = await engine.open("s")
            stop = partial(group.start_soon, engine.shutdown)
            with counting_steps(number, stop) as steps, suppress(EngineClosed):
                await play(scene, session)
            await engine.shutdown()
        await check_resumes(scene, store, world, prompted=True)
        if not steps.acted:
            return


async def test_m12_shutdown_inside_a_turn_is_an_interruption() -> None:
    """`ask` returns INTERRUPTED, the calls stay open, the state it left is kept, and a read runs again on reopening."""
    store = MemoryJournal()
    started = anyio.Event()
    results: list[TurnResult] = []

    @tool(effect="read")
    async def linger() -> str:
        started.set()
        await anyio.sleep_forever()
        return ""

    async def ask() -> None:
        results.append(await session.ask("go"))

    async with (
        anyio.create_task_group() as group,
        Engine(model=ScriptedModel([calls("linger")]), tools=[linger], journal=store) as engine,
    ):
        session = await engine.open("s")
        group.start_soon(ask)
        await started.wait()
        await engine.shutdown()
    assert results[0].outcome is Outcome.INTERRUPTED
    records = await history(store)
    assert triggers(records)[-1] == "shutdown_requested"
    assert (records[-1].source, records[-1].dest) == (State.EXECUTING_TOOLS, State.SHUTDOWN)

    @tool(effect="read", name="linger")
    async def quick() -> str:
        return "at last"

    async with Engine(model=ScriptedModel(["done"]), tools=[quick], journal=store) as engine:
        session = await engine.open("s")
        result = await session.result()
    assert [made.content for made in result.tool_calls] == ["at last"]
    assert result.outcome is Outcome.COMPLETED


@pytest.mark.parametrize("on_unknown", ["ask", "tell_model"])
async def test_v33_settings_of_the_reopening_engine_count(on_unknown: str) -> None:
    """After an orderly shutdown inside a write, the engine that reopens the session says who decides about it."""
    store = MemoryJournal()
    started = anyio.Event()

    @tool
    async def save() -> str:
        started.set()
        await anyio.sleep_forever()
        return ""

    async with (
        anyio.create_task_group() as group,
        Engine(model=ScriptedModel([calls("save")]), tools=[save], journal=store) as engine,
    ):
        session = await engine.open("s")
        group.start_soon(session.ask, "go")
        await started.wait()
        await engine.shutdown()
    settings = EngineSettings.model_validate({"on_unknown": on_unknown})
    async with Engine(model=ScriptedModel(["done"]), tools=[save], journal=store, settings=settings) as engine:
        result = await (await engine.open("s")).result()
    assert result.outcome is (Outcome.WAITING if on_unknown == "ask" else Outcome.COMPLETED)
    assert [made.status for made in result.tool_calls] == [ToolStatus.UNKNOWN]


async def test_f17_answer_after_a_restart_runs_the_recorded_arguments_once() -> None:
    """An approval is about the call as it was recorded; after a restart it runs with those arguments, once."""
    store = MemoryJournal()
    ran: list[int] = []

    @tool
    async def pay(amount: int) -> str:
        ran.append(amount)
        return "paid"

    prompt = Prompt(text="go", calls=[call("pay", "ask", amount=7)])
    for _ in range(2):
        async with Engine(
            model=ScriptedModel(["done"]), tools=[pay], journal=store, policy=Verdicts(ask="ask")
        ) as engine:
            session = await engine.open("s")
            if not session.pending:
                assert (await session.ask(prompt)).outcome is Outcome.WAITING
                first = session.pending
                continue
            assert session.pending == first
            result = await session.answer(first[0].id, approve=True, by="me")
    assert (result.outcome, ran) == (Outcome.COMPLETED, [7])
