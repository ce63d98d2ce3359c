"""The engine as hosts use it: the public surface runs as written, prompts take their turns, idle costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from engine import (
    Engine,
    EngineSettings,
    Limits,
    Message,
    ModelReply,
    ModelRequest,
    Outcome,
    Prompt,
    Session,
    State,
    ToolCall,
    ToolStatus,
    TransitionRecord,
    TurnResult,
    Usage,
    tool,
)
from engine.core.notices import Notice
from engine.errors import EngineClosed, InboxFull, InvalidEvent, UsageError
from engine.journal import MemoryJournal, SqliteJournal
from engine.models import FunctionModel, ScriptedModel
from engine.testing.scheduling import counting_steps
from tests.runtime.scenes import call, calls, check_closed, history, triggers

pytestmark = pytest.mark.anyio


def echo() -> FunctionModel:
    """Return a model that repeats the newest message."""
    return FunctionModel(lambda request: ModelReply(text=f"you said {request.messages[-1].text}"))


class Turnstile:
    """A model whose every reply waits until the test lets it through."""

    def __init__(self) -> None:
        self.seen: list[str | None] = []
        self.arrived = anyio.Semaphore(0)
        self.passes = anyio.Semaphore(0)

    async def generate(self, request: ModelRequest, emit: Callable[[Notice], None]) -> ModelReply:
        """Wait for a pass, then repeat the newest message."""
        self.seen.append(request.messages[-1].text)
        self.arrived.release()
        await self.passes.acquire()
        return ModelReply(text=request.messages[-1].text)


async def test_contract_runs_as_written(tmp_path: Path) -> None:
    """The code that the design shows to hosts runs, and gives what it says."""

    @tool(effect="read", timeout_s=5)
    async def lookup(q: str, n: int) -> dict[str, object]:
        return {"q": q, "n": n}

    async def think(request: ModelRequest) -> ModelReply:
        assert [spec.name for spec in request.tools] == ["lookup"]
        if request.messages[-1].role == "user":
            return ModelReply(tool_calls=[ToolCall(id="c1", name="lookup", arguments={"q": "x", "n": 1})])
        return ModelReply(text=f"found {request.messages[-1].text}", usage=Usage(input_tokens=3, output_tokens=2))

    journal = SqliteJournal(tmp_path / "runs.db")
    async with Engine(model=FunctionModel(think), tools=[lookup], journal=journal, limits=Limits()) as engine:
        session = await engine.open("order-42")
        result = await session.ask("Where is my order?")
        assert (result.text, result.outcome) == ('found {"q":"x","n":1}', Outcome.COMPLETED)
        assert [(made.name, made.status, made.arguments) for made in result.tool_calls] == [
            ("lookup", ToolStatus.COMPLETED, {"q": "x", "n": 1})
        ]
        assert (result.usage.input_tokens, result.turn, result.pending, result.reason) == (3, 1, (), "")
        assert result.duration_s > 0
        items = [item async for item in session.stream("And the invoice?")]
        assert isinstance(items[-1], TurnResult)
        assert (session.state, session.state.value, session.pending) == (State.IDLE, "idle", ())
        await session.cancel()
        records = [record async for record in session.history()]
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    first = records[1]
    assert (first.trigger, first.source, first.dest) == ("prompt_received", State.IDLE, State.PROCESSING)
    assert datetime.fromisoformat(first.at).tzinfo == UTC
    assert len(first.hash) == 64
    check_closed(records)


async def test_contract_messages_are_items_with_roles() -> None:
    """A model sees system, user, assistant and tool items; a result carries the id of its call."""
    seen: list[list[Message]] = []

    @tool(effect="read")
    async def look() -> str:
        return "seen"

    def think(request: ModelRequest) -> ModelReply:
        seen.append(list(request.messages))
        return calls("look") if request.round == 1 else ModelReply(text="done")

    settings = EngineSettings(system="Be brief.", parameters={"temperature": 0})
    async with Engine(model=FunctionModel(think), tools=[look], settings=settings) as engine:
        session = await engine.open()
        await session.ask("go")
        await session.ask("again")
    assert [(item.role, item.text) for item in seen[0]] == [("system", "Be brief."), ("user", "go")]
    assert [item.role for item in seen[1]] == ["system", "user", "assistant", "tool"]
    assert seen[1][2].tool_calls[0].id == seen[1][3].tool_call_id == "c0"
    assert [item.role for item in seen[2]].count("system") == 1


async def test_m3_session_ids_are_unique_and_external_ids_find_them() -> None:
    """Sessions without an id get one that matches the rule; the host's own name leads back to them, also later."""
    journal = MemoryJournal()
    async with Engine(model=echo(), journal=journal) as engine:
        names = [(await engine.open(external_id="order/42 ü")).id for _ in range(3)]
        await engine.open("other", external_id="else")
    assert len(set(names)) == 3
    async with Engine(model=echo(), journal=journal) as engine:
        assert await engine.find("order/42 ü") == sorted(names)
        assert (await engine.open(names[0])).external_id == "order/42 ü"


async def test_v18_a_turn_is_kept_as_a_record_of_the_conversation() -> None:
    """Id, prompt, response, calls with arguments, result and time, moment and duration are kept, also on reopening."""
    journal = MemoryJournal()

    @tool(effect="read")
    async def look(at: str) -> str:
        return f"saw {at}"

    async with Engine(model=ScriptedModel([call("look", at="it"), "done"]), tools=[look], journal=journal) as engine:
        session = await engine.open("s")
        await session.ask("go")
        (turn,) = session.turns
    assert (turn.id, turn.number, turn.prompt, turn.response) == ("s:2", 1, "go", "done")
    assert (turn.tool_calls[0].arguments, turn.tool_calls[0].content) == ({"at": "it"}, "saw it")
    assert turn.tool_calls[0].duration_s >= 0
    assert datetime.fromisoformat(turn.at).tzinfo == UTC
    assert turn.duration_s >= 0
    async with Engine(model=echo(), tools=[look], journal=journal) as engine:
        assert (await engine.open("s")).turns == (turn,)


async def test_v4_v19_memory_is_bounded_and_the_journal_is_whole() -> None:
    """The rings keep the newest records and turns, live and after reopening; the history keeps all of them."""
    journal = MemoryJournal()
    limits = Limits(history_ring=5, turns_ring=3)
    async with Engine(model=echo(), journal=journal, limits=limits) as engine:
        session = await engine.open("s")
        for number in range(10):
            await session.ask(str(number))
        assert [record.seq for record in session.recent] == list(range(session.seq - 4, session.seq + 1))
        assert [turn.prompt for turn in session.turns] == ["7", "8", "9"]
    async with Engine(model=echo(), journal=journal, limits=limits) as engine:
        session = await engine.open("s")
        assert [turn.prompt for turn in session.turns] == ["7", "8", "9"]
        assert len(session.recent) == 5
        assert len([record async for record in session.history()]) == session.seq == 31


async def test_v6_prompts_are_answered_in_the_order_they_came() -> None:
    """Prompts asked while a turn runs wait their turn, first come first served."""
    model = Turnstile()
    texts: list[str | None] = []

    async def ask(text: str) -> None:
        texts.append((await session.ask(text)).text)

    async with Engine(model=model) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(ask, str(number))
                await anyio.wait_all_tasks_blocked()
            for _ in range(5):
                model.passes.release()
    assert texts == model.seen == ["0", "1", "2", "3", "4"]


async def test_v6_inbox_holds_as_many_as_it_says() -> None:
    """`inbox_size` prompts may wait beside the running turn; one more is refused at once and changes nothing."""
    model = Turnstile()
    async with Engine(model=model, limits=Limits(inbox_size=2)) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(session.ask, str(number))
                await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(5) as scope:
                with pytest.raises(InboxFull) as refused:
                    await session.ask("one too many")
            assert not scope.cancelled_caught
            for _ in range(3):
                model.passes.release()
        assert refused.value.waiting == 2
        assert [turn.prompt for turn in session.turns] == ["0", "1", "2"]


async def test_m22_a_thousand_sessions_in_one_engine() -> None:
    """A thousand sessions take two turns each at the same time, and every history holds."""
    journal = MemoryJournal()

    @tool(effect="read")
    async def look() -> str:
        await anyio.lowlevel.checkpoint()
        return "seen"

    async def talk(name: str) -> None:
        session = await engine.open(name)
        for text in ("one", "two"):
            outcomes.append((await session.ask(Prompt(text=text, calls=[call("look")]))).outcome)

    outcomes: list[Outcome] = []
    async with Engine(model=echo(), tools=[look], journal=journal) as engine, anyio.create_task_group() as group:
        for number in range(1000):
            group.start_soon(talk, f"s{number}")
    assert outcomes == [Outcome.COMPLETED] * 2000
    for number in (0, 500, 999):
        check_closed(await history(journal, f"s{number}"))


async def test_m13_the_outcome_is_announced_once() -> None:
    """Each turn's end is one record that leads back to IDLE, seen once by an observer, a stream and the caller."""
    seen: list[TransitionRecord] = []

    class Watcher:
        def on_record(self, record: TransitionRecord) -> None:
            seen.append(record)

        def on_notice(self, session: str, notice: Notice) -> None:
            """Do nothing."""

    async with Engine(
        model=ScriptedModel(["one", ModelReply(), "two"]), observers=[Watcher()], limits=_quick()
    ) as engine:
        session = await engine.open("s")
        await session.ask("go")
        streamed = [item async for item in session.stream("again")]
    ends = [record.seq for record in seen if record.dest is State.IDLE and record.source is not State.IDLE]
    assert len(ends) == 2
    assert len([item for item in streamed if isinstance(item, TurnResult)]) == 1
    assert len({record.seq for record in seen}) == len(seen)


def _quick() -> Limits:
    return Limits(backoff_base_s=0)


async def test_v5_idle_sessions_wake_nobody() -> None:
    """With a hundred open sessions the event loop makes not one step more than without an engine."""

    async def steps_of_waiting() -> int:
        with counting_steps() as steps:
            # The only timer of this loop; what wakes up besides it is the engine's fault.
            await anyio.sleep(0.05)
        return steps.count

    alone = await steps_of_waiting()
    async with Engine(model=echo()) as engine:
        for number in range(100):
            await (await engine.open(f"s{number}")).ask("hello")
        # The monitor takes one more look after the last turn.
        await anyio.sleep(0.5)
        assert await steps_of_waiting() == alone


async def ask_into(results: list[object], session: Session, text: str) -> None:
    """Ask, and keep the outcome, or the kind of refusal."""
    try:
        results.append((await session.ask(text)).outcome)
    except EngineClosed as error:
        results.append(type(error))


async def test_v33_shutdown_lets_a_turn_end_within_its_grace() -> None:
    """`shutdown` with a grace waits for the running turn and refuses the waiting ones; twice is once."""
    model = Turnstile()
    results: list[object] = []
    async with Engine(model=model) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            for text in ("first", "second"):
                group.start_soon(ask_into, results, session, text)
                await anyio.wait_all_tasks_blocked()
            group.start_soon(engine.shutdown, 60)
            await anyio.wait_all_tasks_blocked()
            model.passes.release()
        await engine.shutdown()
    assert results == [Outcome.COMPLETED, EngineClosed]


async def test_v33_closing_a_session_refuses_the_prompts_that_wait() -> None:
    """`session.close` interrupts the turn; a prompt behind it fails with EngineClosed and never reopens the turn."""
    for _ in range(20):  # trio runs ready tasks in random order: the race needs some tries to show
        model = Turnstile()
        journal = MemoryJournal()
        results: list[object] = []
        async with Engine(model=model, journal=journal) as engine:
            session = await engine.open("s")
            with anyio.fail_after(30):
                async with anyio.create_task_group() as group:
                    for text in ("first", "second"):
                        group.start_soon(ask_into, results, session, text)
                        await anyio.wait_all_tasks_blocked()
                    await session.close()
        assert results == [Outcome.INTERRUPTED, EngineClosed]
        assert triggers(await history(journal))[-1] == "shutdown_requested"


async def test_errors_leave_the_engine_as_themselves() -> None:
    """What the body of `async with Engine` raises comes out as it is, not wrapped in a group."""
    with pytest.raises(InvalidEvent):
        async with Engine(model=echo()) as engine:
            await (await engine.open("s")).answer("nothing", approve=True)


async def test_a3_max_parallel_tasks_bounds_the_open_children_of_a_session() -> None:
    """A ninth open child of one parent is refused; another parent's, and one after a close, are not."""
    async with Engine(model=ScriptedModel(["done"])) as engine:
        children = [await engine.open(f"c{number}", parent="p") for number in range(8)]
        with pytest.raises(UsageError, match="'p' already has 8 open child sessions; close one"):
            await engine.open("c8", parent="p")
        await engine.open("other", parent="q")
        await children[0].close()
        ninth = await engine.open("c8", parent="p")
        assert (await ninth.ask("go")).outcome is Outcome.COMPLETED
        # Who is open already is found, and who was closed counts again when it comes back.
        assert await engine.open("c1", parent="p") is children[1]
        with pytest.raises(UsageError):
            await engine.open("c0")
