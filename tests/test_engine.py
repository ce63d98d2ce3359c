"""The engine as hosts use it: the public surface runs as written, turns overlap where they may, and idle costs nothing."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
    Priority,
    Prompt,
    State,
    ToolCall,
    ToolContext,
    ToolOutput,
    ToolStatus,
    TransitionRecord,
    TurnResult,
    Usage,
    tool,
)
from engine.core.notices import Gap, Notice, TextDelta, ToolProgress, ToolRunning
from engine.core.values import Request
from engine.errors import EngineClosed, IllegalTransition, InboxFull, InvalidEvent
from engine.journal import MemoryJournal, SqliteJournal
from engine.models import FunctionModel, ScriptedModel
from engine.ports import Answer
from engine.testing.journals import HoldingJournal
from engine.testing.scheduling import counting_steps
from tests.runtime.scenes import Verdicts, call, calls, check_closed, check_sound, history, triggers

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


# --- the contract of design.md, section 6 --------------------------------------------------------------------------------


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


# --- tools ---------------------------------------------------------------------------------------------------------------


async def test_v11_the_whole_request_reaches_the_tool() -> None:
    """Id, name, arguments, metadata, priority, timeout, session, user, workspace, parent and idempotency key arrive."""
    got: list[ToolContext] = []

    @tool(effect="idempotent", timeout_s=7)
    async def note(text: str, context: ToolContext) -> str:
        got.append(context)
        return text

    @tool
    async def plain(context: ToolContext) -> str:
        got.append(context)
        return ""

    async with Engine(model=echo(), tools=[note, plain]) as engine:
        session = await engine.open(
            "s", external_id="e", user="u", workspace="w", parent="p", metadata={"from": "session", "a": 1}
        )
        prompt = Prompt(
            calls=[call("note", "n1", text="hi"), call("plain", "n2")],
            priority=Priority.CRITICAL,
            metadata={"from": "prompt"},
        )
        await session.ask(prompt)
    context, second = got
    assert (context.call_id, context.name, context.arguments, context.timeout_s) == ("n1", "note", {"text": "hi"}, 7)
    assert (context.session, context.external_id, context.user, context.workspace, context.parent) == (
        "s", "e", "u", "w", "p",
    )  # fmt: skip
    assert (context.metadata, context.priority, context.turn) == ({"from": "prompt", "a": 1}, Priority.CRITICAL, 1)
    assert context.idempotency_key != second.idempotency_key
    assert second.timeout_s == 60


async def test_v10_reads_run_at_the_same_time() -> None:
    """Four reads of one reply are all running before any of them ends."""
    running = 0
    together = anyio.Event()

    @tool(effect="read")
    async def meet() -> int:
        nonlocal running
        running += 1
        if running == 4:
            together.set()
        await together.wait()
        return running

    async with Engine(model=ScriptedModel([calls(*["meet"] * 4), "done"]), tools=[meet]) as engine:
        with anyio.fail_after(30):
            result = await (await engine.open("s")).ask("go")
    assert [made.content for made in result.tool_calls] == ["4"] * 4


async def test_v10_writes_to_one_conflict_key_run_in_order() -> None:
    """Calls with the same conflict key never overlap and keep their order; calls with another key run beside them."""
    log: list[str] = []
    other_runs = anyio.Event()

    @tool(conflict_key="account:{account}")
    async def pay(account: str, n: int) -> str:
        log.append(f"{account}{n} starts")
        if account == "b":
            other_runs.set()
        else:
            await other_runs.wait()
        await anyio.lowlevel.checkpoint()
        log.append(f"{account}{n} ends")
        return "paid"

    asked = [call("pay", f"c{n}", account=account, n=n) for n, account in enumerate("aaba")]
    async with Engine(model=ScriptedModel([asked, "done"]), tools=[pay]) as engine:
        with anyio.fail_after(30):
            result = await (await engine.open("s")).ask("go")
    assert [made.status for made in result.tool_calls] == [ToolStatus.COMPLETED] * 4
    assert [line for line in log if line.startswith("a")] == [
        "a0 starts", "a0 ends", "a1 starts", "a1 ends", "a3 starts", "a3 ends",
    ]  # fmt: skip
    assert log.index("b2 starts") < log.index("a0 ends")


async def test_v16_max_concurrent_tools_holds() -> None:
    """Of nine reads under a limit of two, never more than two run, and all are run."""
    running = most = 0

    @tool(effect="read")
    async def look() -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1
        return ""

    limits = Limits(max_concurrent_tools=2)
    async with Engine(model=ScriptedModel([calls(*["look"] * 9), "done"]), tools=[look], limits=limits) as engine:
        result = await (await engine.open("s")).ask("go")
    assert len(result.tool_calls) == 9
    assert most == 2


async def test_f5_timed_out_threads_count_against_the_limit() -> None:
    """Eight timed-out sync tools under a limit of two: never more than two threads live, and each call ends on record."""
    lock = threading.Lock()
    gates = [threading.Event() for _ in range(8)]
    live = most = 0

    @tool(effect="read", timeout_s=0.02)
    def stuck(n: int) -> None:
        nonlocal live, most
        with lock:
            live += 1
            most = max(most, live)
        gates[n].wait(60)
        with lock:
            live -= 1

    def think(request: ModelRequest) -> ModelReply:
        if request.round == 1:
            return ModelReply(tool_calls=[call("stuck", f"c{n}", n=n) for n in range(8)])
        return ModelReply(text="done")

    class Release:
        """Lets a thread end as soon as the record of its timeout is durable and two are stuck."""

        def on_record(self, record: TransitionRecord) -> None:
            if record.trigger == "tool_finished":
                event: Any = record.event
                ended.append(event.call_id)
                gates[int(event.call_id[1:])].set()

        def on_notice(self, session: str, notice: Notice) -> None:
            """Do nothing."""

    ended: list[str] = []
    limits = Limits(max_concurrent_tools=2)
    async with Engine(model=FunctionModel(think), tools=[stuck], limits=limits, observers=[Release()]) as engine:
        with anyio.fail_after(60):
            result = await (await engine.open("s")).ask("go")
    assert [made.status for made in result.tool_calls] == [ToolStatus.TIMED_OUT] * 8
    assert len(ended) == 8
    assert most == 2


async def test_f4_sync_tools_run_off_the_loop() -> None:
    """A synchronous tool blocks its own thread; the event loop goes on and can even set it free."""
    entered, free = threading.Event(), threading.Event()
    threads: list[int] = []

    @tool(effect="read")
    def block() -> str:
        threads.append(threading.get_ident())
        entered.set()
        free.wait(60)
        return "freed"

    async def liberate() -> None:
        await anyio.to_thread.run_sync(entered.wait)
        free.set()

    async with Engine(model=ScriptedModel([calls("block"), "done"]), tools=[block]) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(liberate)
            result = await session.ask("go")
    assert result.tool_calls[0].content == "freed"
    assert threads != [threading.get_ident()]


async def test_v13_every_terminal_status_is_reached() -> None:
    """Completed, failed, denied, timed out, unknown and cancelled calls all end on record and reach the model."""

    @tool(effect="read")
    async def good() -> str:
        return "fine"

    @tool(effect="read")
    async def bad() -> str:
        raise RuntimeError("no luck")

    @tool(effect="read", timeout_s=0.01)
    async def late() -> None:
        await anyio.sleep_forever()

    gate = threading.Event()

    @tool(effect="write", timeout_s=0.01)
    def lost() -> None:
        gate.wait(60)

    @tool(effect="read")
    async def forbidden() -> str:
        return "never"

    model = ScriptedModel([calls("good", "bad", "late", "lost", "forbidden"), "done"])
    settings = EngineSettings(on_unknown="tell_model")
    async with Engine(
        model=model, tools=[good, bad, late, lost, forbidden], policy=Verdicts(forbidden="deny"), settings=settings
    ) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        gate.set()
    assert [made.status.value for made in result.tool_calls] == ["completed", "failed", "timed_out", "unknown", "denied"]
    told = [item.text for item in model.requests[1].messages if item.role == "tool"]
    assert told == [made.content for made in result.tool_calls]
    assert told[1] == "RuntimeError: no luck"
    assert told[4] == "denied: the rule about forbidden"


async def test_a5_one_timeout_never_cancels_a_sibling() -> None:
    """A batch settles as a whole: the sibling of a call that times out still completes."""
    late_over = anyio.Event()

    @tool(effect="read", timeout_s=0.01)
    async def late() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            late_over.set()

    @tool(effect="read")
    async def patient() -> str:
        await late_over.wait()
        return "still here"

    async with Engine(model=ScriptedModel([calls("late", "patient"), "done"]), tools=[late, patient]) as engine:
        result = await (await engine.open("s")).ask("go")
    assert [made.status for made in result.tool_calls] == [ToolStatus.TIMED_OUT, ToolStatus.COMPLETED]
    assert result.outcome is Outcome.COMPLETED


async def test_direct_calls_run_before_the_model_is_asked() -> None:
    """Calls of the prompt are run without the model; their results are in its first request."""

    @tool(effect="read")
    async def look() -> str:
        return "seen"

    model = ScriptedModel(["done"])
    async with Engine(model=model, tools=[look]) as engine:
        result = await (await engine.open("s")).ask(Prompt(text="go", calls=[call("look", "d")]))
    assert [made.content for made in result.tool_calls] == ["seen"]
    assert [item.role for item in model.requests[0].messages] == ["user", "assistant", "tool"]


# --- turns, bounds, the inbox --------------------------------------------------------------------------------------------


async def test_v18_a_turn_is_kept_as_a_record_of_the_conversation() -> None:
    """Id, prompt, response, calls with arguments, result and time, timestamp and duration are kept, also after reopening."""
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

    async with Engine(model=ScriptedModel(["one", ModelReply(), "two"]), observers=[Watcher()], limits=_quick()) as engine:
        session = await engine.open("s")
        await session.ask("go")
        streamed = [item async for item in session.stream("again")]
    ends = [record.seq for record in seen if record.dest is State.IDLE and record.source is not State.IDLE]
    assert len(ends) == 2
    assert len([item for item in streamed if isinstance(item, TurnResult)]) == 1
    assert len({record.seq for record in seen}) == len(seen)


def _quick() -> Limits:
    return Limits(backoff_base_s=0)


# --- idle ----------------------------------------------------------------------------------------------------------------


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
        assert await steps_of_waiting() == alone


# --- approvals -----------------------------------------------------------------------------------------------------------


@tool
async def pay(amount: int = 1) -> str:
    """Pay."""
    return f"paid {amount}"


async def test_a11_policy_allows_asks_and_denies() -> None:
    """An allowed call runs, a denied one tells the model why, an asked one waits while its siblings run."""

    @tool(effect="read")
    async def look() -> str:
        return "seen"

    @tool
    async def erase() -> str:
        return "never"

    model = ScriptedModel([calls("look", "erase", "pay"), "done"])
    async with Engine(model=model, tools=[look, erase, pay], policy=Verdicts(erase="deny", pay="ask")) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert (result.outcome, session.state) == (Outcome.WAITING, State.WAITING_FOR_USER)
        assert [made.status.value for made in result.tool_calls] == ["completed", "denied", "queued"]
        (request,) = result.pending
        assert (request.kind, request.call_id, request.text) == ("approval", "c2", "the rule about pay")
        with pytest.raises(IllegalTransition) as refused:
            await session.ask("something else")
        assert "user_answered" in refused.value.legal
        result = await session.answer(request.id, approve=True, by="me")
    assert [made.content for made in result.tool_calls] == ["seen", "denied: the rule about erase", "paid 1"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
async def test_v20_answers_are_taken_in_any_order(order: Sequence[int]) -> None:
    """Three questions answered in any order: the approved calls run, the refused one tells the model the reason."""
    async with Engine(
        model=ScriptedModel([calls("pay", "pay", "pay"), "done"]), tools=[pay], policy=Verdicts(pay="ask")
    ) as engine:
        session = await engine.open("s")
        requests = (await session.ask("go")).pending
        for index in order:
            result = await session.answer(requests[index].id, approve=index != 1, text="too much")
            with pytest.raises(InvalidEvent, match="pending"):
                await session.answer(requests[index].id, approve=True)
    assert [made.status.value for made in result.tool_calls] == ["completed", "denied", "completed"]
    assert result.tool_calls[1].content == "denied by user: too much"
    assert result.outcome is Outcome.COMPLETED


async def test_v20_an_answer_while_siblings_run_is_taken_at_once() -> None:
    """An approval given while another call still runs starts its call beside it."""
    paid, looking = anyio.Event(), anyio.Event()

    @tool(effect="read")
    async def look() -> str:
        looking.set()
        await paid.wait()
        return "seen"

    @tool(name="settle")
    async def settle() -> str:
        paid.set()
        return "settled"

    results: list[TurnResult] = []

    async def ask() -> None:
        results.append(await session.ask("go"))

    async with Engine(
        model=ScriptedModel([calls("look", "settle"), "done"]), tools=[look, settle], policy=Verdicts(settle="ask")
    ) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await looking.wait()
            with anyio.fail_after(30):
                answered = await session.answer(session.pending[0].id, approve=True)
    assert answered.outcome is results[0].outcome is Outcome.COMPLETED


@pytest.mark.parametrize("approve", [True, False])
async def test_v20_an_answer_that_meets_the_last_commit_of_a_drive_is_taken(approve: bool) -> None:
    """While the end of the last running call is on its way to a slow disk, an answer to a pending question still counts."""
    journal = HoldingJournal(MemoryJournal())
    looking, go = anyio.Event(), anyio.Event()

    @tool(effect="read")
    async def look() -> str:
        looking.set()
        await go.wait()
        return "seen"

    outcomes: list[Outcome] = []

    async def answer() -> None:
        outcomes.append((await session.answer(request.id, approve=approve)).outcome)

    async with Engine(
        model=ScriptedModel([calls("pay", "look"), "done"]), tools=[pay, look], journal=journal, policy=Verdicts(pay="ask")
    ) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "go")
            await looking.wait()
            (request,) = session.pending
            journal.hold()
            go.set()
            await journal.arrival()
            group.start_soon(answer)
            await anyio.wait_all_tasks_blocked()
            journal.let_through()
    assert outcomes == [Outcome.COMPLETED]


async def test_v20_two_answers_at_the_same_time_both_count() -> None:
    """Two people answer two questions while the disk is slow: neither answer is lost."""
    journal = HoldingJournal(MemoryJournal())
    outcomes: list[Outcome] = []

    async def answer(request: Request, approve: bool) -> None:
        outcomes.append((await session.answer(request.id, approve=approve)).outcome)

    async with Engine(
        model=ScriptedModel([calls("pay", "pay"), "done"]), tools=[pay], journal=journal, policy=Verdicts(pay="ask")
    ) as engine:
        session = await engine.open("s")
        first, second = (await session.ask("go")).pending
        journal.hold()
        async with anyio.create_task_group() as group:
            group.start_soon(answer, first, False)
            await journal.arrival()
            group.start_soon(answer, second, True)
            await anyio.wait_all_tasks_blocked()
            journal.let_through()
        assert session.state is State.IDLE
    assert Outcome.COMPLETED in outcomes
    assert len(outcomes) == 2


async def test_approver_answers_while_the_turn_runs() -> None:
    """An approver says yes and no at once; what it leaves open waits for `session.answer`."""
    asked: list[tuple[str, str]] = []

    class Desk:
        async def answer(self, request: Request, call: ToolCall) -> Answer | None:
            asked.append((request.kind, call.id))
            await anyio.lowlevel.checkpoint()
            return {"c0": Answer(True, by="desk"), "c1": Answer(False, "no money")}.get(call.id)

    async with Engine(
        model=ScriptedModel([calls("pay", "pay", "pay"), "done"]),
        tools=[pay],
        policy=Verdicts(pay="ask"),
        approver=Desk(),
    ) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert result.outcome is Outcome.WAITING
        assert [request.call_id for request in result.pending] == ["c2"]
        result = await session.answer(result.pending[0].id, approve=True)
    assert sorted(asked) == [("approval", "c0"), ("approval", "c1"), ("approval", "c2")]
    assert [made.status.value for made in result.tool_calls] == ["completed", "denied", "completed"]


async def test_cancel_while_waiting_ends_the_turn() -> None:
    """A turn that waits for an answer can be cancelled; its calls are cancelled on record and nothing is pending."""
    journal = MemoryJournal()
    async with Engine(
        model=ScriptedModel([calls("pay"), "done"]), tools=[pay], journal=journal, policy=Verdicts(pay="ask")
    ) as engine:
        session = await engine.open("s")
        await session.ask("go")
        await session.cancel("never mind")
        assert (session.state, session.pending) == (State.IDLE, ())
        assert (session.turns[-1].outcome, session.turns[-1].reason) == (Outcome.CANCELLED, "never mind")
        assert session.turns[-1].tool_calls[0].status is ToolStatus.CANCELLED
    check_sound(await history(journal))


# --- middleware, providers, observers ------------------------------------------------------------------------------------


class Wrapping:
    """A middleware that marks what passes."""

    def __init__(self, mark: str, log: list[str]) -> None:
        self._mark = mark
        self._log = log

    async def around_model(
        self, request: ModelRequest, ask: Callable[[ModelRequest], Awaitable[ModelReply]]
    ) -> ModelReply:
        """Note the way in and out, and add the mark to the text."""
        self._log.append(f"{self._mark} model in")
        reply = await ask(request)
        self._log.append(f"{self._mark} model out")
        return reply.model_copy(update={"text": f"{reply.text}{self._mark}"}) if reply.text else reply

    async def around_tool(
        self, context: ToolContext, run: Callable[[ToolContext], Awaitable[ToolOutput]]
    ) -> ToolOutput:
        """Add the mark to the result."""
        self._log.append(f"{self._mark} tool in")
        output = await run(context)
        return ToolOutput(output.content + self._mark, output.status, output.error)


async def test_m4_middleware_wraps_model_and_tools_in_order() -> None:
    """The first middleware is the outermost; what it changes is what the journal holds."""
    journal = MemoryJournal()
    log: list[str] = []
    async with Engine(
        model=ScriptedModel([calls("pay"), "done"]),
        tools=[pay],
        journal=journal,
        middleware=[Wrapping("A", log), Wrapping("B", log)],
    ) as engine:
        result = await (await engine.open("s")).ask("go")
    assert (result.text, result.tool_calls[0].content) == ("doneBA", "paid 1BA")
    assert log[:4] == ["A model in", "B model in", "B model out", "A model out"]
    assert log[4:6] == ["A tool in", "B tool in"]
    assert check_sound(await history(journal)).messages()[-1].text == "doneBA"


async def test_a18_context_providers_add_to_the_first_round_of_a_turn() -> None:
    """What providers add stands in the conversation and in the record, once a turn."""
    journal = MemoryJournal()

    class Facts:
        async def provide(self, session: str, messages: Sequence[Message]) -> Sequence[Message]:
            return [Message(role="system", text=f"{session} has {len(messages)} messages")]

    model = ScriptedModel([calls("pay"), "done"])
    async with Engine(model=model, tools=[pay], journal=journal, providers=[Facts()]) as engine:
        await (await engine.open("s")).ask("go")
    assert [item.role for item in model.requests[1].messages] == ["user", "system", "assistant", "tool"]
    assert model.requests[0].messages[1].text == "s has 1 messages"
    check_closed(await history(journal))


async def test_l1_observers_see_every_record_and_notice_and_break_nothing() -> None:
    """Observers see what happens in order; one that raises changes nothing for anybody."""
    records: list[str] = []
    notices: list[str] = []

    class Watcher:
        def on_record(self, record: TransitionRecord) -> None:
            records.append(record.trigger)

        def on_notice(self, session: str, notice: Notice) -> None:
            notices.append(type(notice).__name__)

    class Broken:
        def on_record(self, record: TransitionRecord) -> None:
            raise ValueError("broken observer")

        def on_notice(self, session: str, notice: Notice) -> None:
            raise ValueError("broken observer")

    @tool(effect="read")
    async def look(context: ToolContext) -> str:
        context.progress("half way")
        return "seen"

    journal = MemoryJournal()
    async with Engine(
        model=ScriptedModel([calls("look"), "a\nb"]), tools=[look], journal=journal, observers=[Broken(), Watcher()]
    ) as engine:
        await (await engine.open("s")).ask("go")
    written = triggers(await history(journal))
    assert records == written[: len(records)]
    assert records[-1] == "model_replied"
    assert notices == ["ToolRunning", "ToolProgress", "TextDelta", "TextDelta"]


# --- streams -------------------------------------------------------------------------------------------------------------


async def test_m15_callback_iterator_and_list_agree() -> None:
    """An observer's callbacks, the async iterator and the collected list tell the same story."""
    called: list[object] = []

    class Callback:
        def on_record(self, record: TransitionRecord) -> None:
            called.append(record)

        def on_notice(self, session: str, notice: Notice) -> None:
            called.append(notice)

    @tool(effect="read")
    async def look(context: ToolContext) -> str:
        context.progress("half way")
        return "seen"

    async with Engine(model=ScriptedModel([calls("look"), "a\nb"]), tools=[look], observers=[Callback()]) as engine:
        session = await engine.open("s")
        called.clear()
        collected = [item async for item in session.stream("go")]
    assert collected[:-1] == called
    assert isinstance(collected[-1], TurnResult)
    assert collected[-1].text == "a\nb"
    kinds = [type(item).__name__ for item in collected]
    assert {"TransitionRecord", "ToolRunning", "ToolProgress", "TextDelta", "TurnResult"} == set(kinds)
    assert any(isinstance(item, ToolRunning | ToolProgress | TextDelta) for item in collected)


async def test_m14_a_slow_reader_sees_a_gap_with_the_number_of_lost_items() -> None:
    """A stream that is read late keeps the newest items; a gap says how many are missing, and nothing was held up."""
    length = 50
    text = "line\n" * length
    done = anyio.Event()

    class Watch:
        def on_record(self, record: TransitionRecord) -> None:
            if record.dest is State.IDLE and record.trigger == "model_replied":
                done.set()

        def on_notice(self, session: str, notice: Notice) -> None:
            """Do nothing."""

    async with Engine(model=ScriptedModel([text]), limits=Limits(stream_buffer=8), observers=[Watch()]) as engine:
        session = await engine.open("s")
        stream = session.stream("go")
        items: list[object] = [await anext(stream)]
        await done.wait()
        await anyio.wait_all_tasks_blocked()
        items += [item async for item in stream]
    gaps = [item for item in items if isinstance(item, Gap)]
    assert len(gaps) == 1
    shown = [item for item in items if not isinstance(item, Gap | TurnResult)]
    # The turn made three records and `length` deltas.
    assert len(shown) + gaps[0].lost == length + 3
    assert isinstance(items[-1], TurnResult)


async def test_stream_left_early_lets_the_turn_go_on() -> None:
    """`async for` alone, left at the first item: the turn ends by itself in the background."""
    model = Turnstile()
    async with Engine(model=model) as engine:
        session = await engine.open("s")
        async for _ in session.stream("go"):
            break
        model.passes.release()
        assert (await session.result()).outcome is Outcome.COMPLETED


async def test_stream_left_early_inside_async_with_cancels_the_turn() -> None:
    """`async with session.stream(...)` left early: the turn is cancelled before the block is left."""
    model = Turnstile()
    async with Engine(model=model) as engine:
        session = await engine.open("s")
        async with session.stream("go") as stream:
            async for _ in stream:
                break
        assert session.state is State.IDLE
        assert [turn.outcome for turn in session.turns] in ([Outcome.CANCELLED], [])


async def test_stream_left_in_the_queue_cancels_nobody_else() -> None:
    """Leaving a stream whose prompt still waits takes that prompt back, and leaves the running turn alone."""
    model = Turnstile()
    outcomes: list[Outcome] = []

    async def ask() -> None:
        outcomes.append((await session.ask("first")).outcome)

    async def leave() -> None:
        async with session.stream("second") as stream:
            with anyio.CancelScope() as waiting:
                scopes.append(waiting)
                async for _ in stream:
                    await anyio.lowlevel.checkpoint()

    scopes: list[anyio.CancelScope] = []
    async with Engine(model=model) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(leave)
            await anyio.wait_all_tasks_blocked()
            scopes[0].cancel()
            await anyio.wait_all_tasks_blocked()
            assert session.state is State.GENERATING_RESPONSE
            model.passes.release()
        assert outcomes == [Outcome.COMPLETED]
        assert [turn.prompt for turn in session.turns] == ["first"]


async def test_stream_shows_its_own_turn_only() -> None:
    """A stream whose prompt waits begins with the record of that prompt, not with the end of the turn before."""
    model = Turnstile()
    items: list[object] = []

    async def read() -> None:
        items.extend([item async for item in session.stream("second")])

    async with Engine(model=model) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "first")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            model.passes.release()
            model.passes.release()
    shown = [item.trigger for item in items if isinstance(item, TransitionRecord)]
    assert shown == ["prompt_received", "context_prepared", "model_replied"]


# --- the end -------------------------------------------------------------------------------------------------------------


async def test_v33_shutdown_lets_a_turn_end_within_its_grace() -> None:
    """`shutdown` with a grace waits for the running turn and refuses the waiting ones; twice is once."""
    model = Turnstile()
    results: list[object] = []

    async def ask(text: str) -> None:
        try:
            results.append((await session.ask(text)).outcome)
        except EngineClosed as error:
            results.append(type(error))

    async with Engine(model=model) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(ask, "first")
            await anyio.wait_all_tasks_blocked()
            group.start_soon(ask, "second")
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

        async def ask(text: str, results: list[object] = results) -> None:
            try:
                results.append((await session.ask(text)).outcome)
            except EngineClosed as error:
                results.append(type(error))

        async with Engine(model=model, journal=journal) as engine:
            session = await engine.open("s")
            with anyio.fail_after(30):
                async with anyio.create_task_group() as group:
                    for text in ("first", "second"):
                        group.start_soon(ask, text)
                        await anyio.wait_all_tasks_blocked()
                    await session.close()
        assert results == [Outcome.INTERRUPTED, EngineClosed]
        assert triggers(await history(journal))[-1] == "shutdown_requested"


async def test_errors_leave_the_engine_as_themselves() -> None:
    """What the body of `async with Engine` raises comes out as it is, not wrapped in a group."""
    with pytest.raises(InvalidEvent):
        async with Engine(model=echo()) as engine:
            await (await engine.open("s")).answer("nothing", approve=True)
