"""Idle sessions leave memory and come back from the journal, and nobody who waits for them can tell."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Awaitable, Callable

import anyio
import pytest

from engine import (
    Engine,
    EngineSettings,
    Learner,
    Limits,
    Message,
    ModelReply,
    ModelRequest,
    Outcome,
    Session,
    State,
    TurnResult,
    Usage,
    tool,
)
from engine.api import Extras
from engine.core.values import RecoveryPlan
from engine.errors import EngineClosed, InvalidEvent, JournalUnavailable, SessionPagedOut, UsageError
from engine.journal import MemoryJournal
from engine.models import FunctionModel, ScriptedModel
from engine.predict import Predictor
from engine.runtime.driver import Driver
from engine.runtime.ledger import Ledger
from engine.runtime.memory import MEBIBYTE
from engine.testing.journals import FailingJournal
from tests.runtime.scenes import Verdicts, calls, check_closed, history
from tests.runtime.test_monitor import Hoard, alarm, limit_with_room

pytestmark = pytest.mark.anyio

ONE = EngineSettings(sessions_in_memory=1, stuck_after_s=None)
"""Whatever session is used, all other idle ones leave memory."""


def echo() -> FunctionModel:
    """Return a model that repeats the newest message and uses tokens."""
    usage = Usage(input_tokens=2000, output_tokens=300)
    return FunctionModel(lambda request: ModelReply(text=f"you said {request.messages[-1].text}", usage=usage))


def living(kind: type) -> int:
    """Return how many objects of a class there are."""
    gc.collect()
    return sum(type(found) is kind for found in gc.get_objects())


async def paged(engine: Engine, session_id: str = "s") -> Session:
    """Return a session that had a turn and was paged out."""
    session = await engine.open(session_id)
    assert (await session.ask("hello")).outcome is Outcome.COMPLETED
    await engine.open("another")
    assert session.paged_out
    return session


def held_bytes() -> int:
    """Return how much memory is in use, without what the lines of a journal in memory take."""
    gc.collect()
    lines = tracemalloc.Filter(inclusive=False, filename_pattern="*/engine/journal/*")
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([lines]).traces)


async def test_v27_what_stays_of_an_idle_session_is_a_kilobyte() -> None:
    """Hundreds of sessions with conversations of 10 kB take at most 1 KiB each when they are paged out."""

    async def use(names: range) -> None:
        for name in names:
            session = await engine.open(f"s-{name}")
            for _ in range(2):
                await session.ask("x" * 2000)

    tracemalloc.start()
    try:
        async with Engine(model=echo(), settings=ONE) as engine:
            await use(range(40))
            before = held_bytes()
            await use(range(40, 200))
            after = held_bytes()
            assert (engine.stats().paged_out, engine.stats().sessions) == (199, {State.IDLE: 200})
    finally:
        tracemalloc.stop()
    assert 0 < (after - before) / 160 <= 1024


async def test_v27_nothing_of_the_conversation_stays() -> None:
    """Of ten sessions nine are paged out: their drivers, ledgers and messages are gone."""
    async with Engine(model=echo(), settings=ONE) as engine:
        before = living(Driver), living(Ledger), living(Message)
        sessions = [await engine.open(f"s-{number}") for number in range(10)]
        for session in sessions:
            for _ in range(5):
                await session.ask("hello")
        after = living(Driver), living(Ledger), living(Message)
        assert [session.paged_out for session in sessions] == [True] * 9 + [False]
        assert (after[0] - before[0], after[1] - before[1]) == (1, 1)
        # A few messages more than the conversation itself are in the hands of the loop.
        assert 10 <= after[2] - before[2] < 20


async def ask(session: Session) -> TurnResult:
    return await session.ask("once more")


async def stream(session: Session) -> TurnResult:
    last = [item async for item in session.stream("once more")][-1]
    assert isinstance(last, TurnResult)
    return last


async def result(session: Session) -> TurnResult:
    return await session.result()


@pytest.mark.parametrize("use", [ask, stream, result])
async def test_v27_a_session_comes_back_when_it_is_used(use: Callable[[Session], Awaitable[TurnResult]]) -> None:
    """Asking, streaming and asking for the result work as if nothing had happened; the history is one."""
    async with Engine(model=echo(), settings=ONE) as engine:
        session = await paged(engine)
        done = await use(session)
        said = "hello" if use is result else "once more"
        assert (done.outcome, done.text) == (Outcome.COMPLETED, f"you said {said}")
        assert session.messages[0] == Message(role="user", text="hello")
        assert len(session.turns) == done.turn
        check_closed(await history(engine.journal))


async def test_v27_what_needs_no_memory_leaves_the_session_where_it_is() -> None:
    """History, cancel, and everything that is known of an idle session are there without bringing it back."""
    async with Engine(model=echo()) as plain:
        fresh = await plain.open("s", external_id="order-42", parent="p")
        await fresh.ask("hello")
        expected = fresh.seq, fresh.usage, fresh.state, fresh.pending, fresh.grants, fresh.external_id, fresh.parent
    async with Engine(model=echo(), settings=ONE) as engine:
        session = await engine.open("s", external_id="order-42", parent="p")
        await session.ask("hello")
        await engine.open("another")
        await session.cancel()
        assert len([record async for record in session.history()]) == session.seq
        assert session.paged_out
        shown = (
            session.seq, session.usage, session.state, session.pending, session.grants, session.external_id,
            session.parent,
        )  # fmt: skip
        assert shown == expected
        assert (session.id, session.cut_bytes, repr(session)) == ("s", 0, f"<session s idle at {session.seq}>")


async def test_v27_what_cannot_wait_says_how_to_bring_the_session_back() -> None:
    """The conversation of a session that is not in memory is an error with the way out; after `load` it is there."""
    async with Engine(model=echo(), settings=ONE) as engine:
        session = await paged(engine)
        for read in ("messages", "calls", "turns", "recent", "budgets"):
            with pytest.raises(SessionPagedOut, match=r"await session\.load\(\)"):
                getattr(session, read)
        await session.load()
        assert [message.text for message in session.messages] == ["hello", "you said hello"]
        assert (len(session.turns), len(session.recent), session.budgets) == (1, session.seq, {})
        assert (await session.ask("again")).outcome is Outcome.COMPLETED


async def test_v27_opening_a_session_brings_it_back() -> None:
    """`engine.open` gives the same handle, with its conversation."""
    async with Engine(model=echo(), settings=ONE) as engine:
        session = await paged(engine)
        again = await engine.open("s")
        assert (again is session, len(again.messages)) == (True, 2)


async def test_v27_an_answer_to_a_session_that_left_is_refused_as_ever() -> None:
    """Nothing is pending in a session that was paged out: the answer says so, and a prompt is taken."""
    async with Engine(model=echo(), settings=ONE) as engine:
        session = await paged(engine)
        with pytest.raises(InvalidEvent, match="no request"):
            await session.answer("nothing", approve=True)
        assert (await session.ask("again")).outcome is Outcome.COMPLETED


async def test_v27_two_prompts_bring_a_session_back_once() -> None:
    """Prompts that meet at a session that is not in memory are answered one after the other, in one history."""
    async with Engine(model=echo(), settings=ONE) as engine:
        session = await paged(engine)
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask, session)
        assert len(session.turns) == 6
        check_closed(await history(engine.journal))


async def test_v27_a_session_that_somebody_waits_for_stays() -> None:
    """Who answered while tools ran gets the turn's result, although another turn that ends with it takes the room."""
    look_on, let_go = anyio.Event(), anyio.Event()
    results: list[TurnResult] = []

    @tool(effect="read")
    async def look() -> str:
        await look_on.wait()
        return "seen"

    @tool(effect="read")
    async def peep() -> str:
        return "seen"

    async def think(request: ModelRequest) -> ModelReply:
        if request.session == "s" and request.round == 1:
            return calls("look", "peep")
        await let_go.wait()
        return ModelReply(text=f"done in {request.session}")

    async def answer() -> None:
        results.append(await session.answer(session.pending[0].id, approve=True))

    extras: Extras = {"policy": Verdicts(peep="ask"), "settings": ONE}
    async with (
        Engine(model=FunctionModel(think), tools=[look, peep], **extras) as engine,
        anyio.create_task_group() as group,
    ):
        session, other = await engine.open("s"), await engine.open("t")
        await session.load()
        group.start_soon(session.ask, "go")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(answer)
        await anyio.wait_all_tasks_blocked()
        look_on.set()
        await anyio.wait_all_tasks_blocked()
        group.start_soon(other.ask, "go")
        await anyio.wait_all_tasks_blocked()
        let_go.set()
    assert [result.text for result in results] == ["done in s"]


async def test_v25_v27_a_session_that_was_shut_down_is_not_looked_for() -> None:
    """A session that its recovery has shut down takes no room; others are paged out as ever."""
    plan = RecoveryPlan(action="give_up", end="shutdown")
    settings = EngineSettings(sessions_in_memory=1, recovery={"bad_reply": lambda fault, made: plan})

    def think(request: ModelRequest) -> ModelReply:
        return None if request.session == "s" else ModelReply(text="hello")  # type: ignore[return-value]

    async with Engine(model=FunctionModel(think), settings=settings) as engine:
        session = await engine.open("s")
        assert (await session.ask("go")).outcome is Outcome.FAILED
        assert session.state is State.SHUTDOWN
        await paged(engine, "t")
        assert engine.stats().sessions == {State.IDLE: 2}


async def test_v27_closing_a_session_that_is_not_in_memory_ends_what_is_learned_from_it() -> None:
    """A predictor follows a session while it is paged out, and no longer when it is closed."""
    learner = Learner(Predictor())
    async with Engine(model=echo(), settings=ONE, predictor=learner) as engine:
        session = await paged(engine)
        assert learner.predictor("s") is not None
        await session.close()
        assert learner.predictor("s") is None


async def test_v27_a_session_with_something_open_stays() -> None:
    """A session that waits for a person, or whose thread was given up and still runs, is not paged out."""
    let_go = threading.Event()

    @tool(effect="read", timeout_s=0.02)
    def linger() -> str:
        let_go.wait(30)
        return ""

    @tool(effect="read")
    async def look() -> str:
        return "seen"

    model = ScriptedModel([calls("look"), calls("linger"), "done", "done"])
    policy = Verdicts(look="ask")
    async with Engine(model=model, tools=[look, linger], policy=policy, settings=ONE) as engine:
        waiting = await engine.open("waiting")
        (request,) = (await waiting.ask("go")).pending
        lingering = await engine.open("lingering")
        assert (await lingering.ask("go")).outcome is Outcome.COMPLETED
        await engine.open("another")
        assert (waiting.paged_out, lingering.paged_out) == (False, False)
        let_go.set()
        assert (await waiting.answer(request.id, approve=True)).outcome is Outcome.COMPLETED


async def test_v23_v27_idle_sessions_leave_when_memory_runs_short() -> None:
    """Above the soft bound idle sessions are paged out, with their bytes on the report; they answer afterwards."""
    limits = Limits(max_memory_mb=limit_with_room(200))
    hoard = Hoard(250)
    model = ScriptedModel(["hello", calls("hoard"), "done", "again"])
    async with Engine(model=model, tools=hoard.tools(), limits=limits) as engine:
        idle, busy = await engine.open("idle"), await engine.open("busy")
        await idle.ask("x" * MEBIBYTE)
        with alarm("memory", hoard.let_go.set), anyio.fail_after(60):
            assert (await busy.ask("go")).text == "done"
        assert (idle.paged_out, busy.paged_out) == (True, False)
        step = next(step for step in engine.stats().memory_steps if step.step == "shed")
        (freed,) = [freed for freed in step.freed if freed.name == "idle sessions"]
        assert freed.claimed_bytes >= MEBIBYTE
        assert (await idle.ask("still there?")).text == "again"


async def test_v27_a_journal_that_cannot_be_read_loses_nothing() -> None:
    """Where the history cannot be read the session stays paged out; the next use brings it back."""
    inner = MemoryJournal()
    # One read for each session that is opened, and one at the end of the history that is read next.
    journal = FailingJournal(inner, fail_at=3, operations={"read"})
    async with Engine(model=echo(), journal=journal, settings=ONE) as engine:
        session = await paged(engine)
        with pytest.raises(JournalUnavailable):
            await session.ask("again")
        assert session.paged_out
        assert (await session.ask("again")).outcome is Outcome.COMPLETED
        assert journal.failures == 1
        check_closed(await history(inner))


async def test_v27_closing_gives_a_session_up_that_is_not_in_memory() -> None:
    """A paged-out session that is closed takes no prompt and can be opened again, here and elsewhere."""
    journal = MemoryJournal()
    async with Engine(model=echo(), journal=journal, settings=ONE) as engine:
        session = await paged(engine)
        await session.close()
        await session.close()
        with pytest.raises(EngineClosed, match=r"open it again with engine\.open"):
            await session.ask("again")
        assert (await (await engine.open("s")).ask("again")).turn == 2
        await engine.open("another")
        await (await engine.open("s")).close()
        async with Engine(model=echo(), journal=journal) as other:
            assert (await (await other.open("s")).ask("again")).turn == 3


async def test_v27_the_end_of_an_engine_gives_up_what_is_not_in_memory() -> None:
    """After a shutdown a paged-out session takes no prompt there, and any other engine can open it."""
    journal = MemoryJournal()
    async with Engine(model=echo(), journal=journal, settings=ONE) as engine:
        session = await paged(engine)
    with pytest.raises(EngineClosed):
        await session.ask("again")
    async with Engine(model=echo(), journal=journal) as other:
        assert (await (await other.open("s")).ask("again")).turn == 2


async def test_a3_v27_children_count_wherever_they_are() -> None:
    """A child that was paged out is open all the same: `max_parallel_tasks` holds."""
    limits = Limits(max_parallel_tasks=1)
    async with Engine(model=echo(), limits=limits, settings=ONE) as engine:
        child = await engine.open("child", parent="s")
        await engine.open("another")
        assert child.paged_out
        with pytest.raises(UsageError, match="max_parallel_tasks"):
            await engine.open("second", parent="s")
        await child.close()
        await engine.open("second", parent="s")
