"""Approvals: policy, approver and answers in any order, also when they meet a commit that is on its way."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from engine import (
    Engine,
    Outcome,
    State,
    ToolCall,
    ToolStatus,
    TurnResult,
    tool,
)
from engine.core.values import Request
from engine.errors import IllegalTransition, InvalidEvent
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from engine.ports import Answer
from engine.testing.journals import HoldingJournal
from tests.runtime.scenes import Verdicts, calls, check_sound, history

pytestmark = pytest.mark.anyio


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
    """While the end of the last running call is on its way to a slow disk, an answer still counts."""
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
        model=ScriptedModel([calls("pay", "look"), "done"]),
        tools=[pay, look],
        journal=journal,
        policy=Verdicts(pay="ask"),
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


async def test_a11_with_an_approver_alone_changes_are_asked_about() -> None:
    """An engine that has somebody to ask and no policy asks about a write and runs a read; without both, all run."""
    asked: list[str] = []

    class Desk:
        async def answer(self, request: Request, call: ToolCall) -> Answer | None:
            asked.append(call.name)
            return Answer(False)

    @tool(effect="read")
    async def look() -> str:
        return "seen"

    def model() -> ScriptedModel:
        return ScriptedModel([calls("look", "pay"), "done"])

    watched = Engine(model=model(), tools=[look, pay], approver=Desk())
    alone = Engine(model=model(), tools=[look, pay])
    for engine, ends in ((watched, ["completed", "denied"]), (alone, ["completed", "completed"])):
        async with engine:
            result = await (await engine.open("s")).ask("go")
        assert [made.status.value for made in result.tool_calls] == ends
    assert asked == ["pay"]


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


async def test_v20_approver_of_the_next_engine_is_asked_what_was_left_open() -> None:
    """The approver of an engine that opens a waiting session gets its question, and the turn goes on."""
    asked: list[str] = []

    class Yes:
        async def answer(self, request: Request, call: ToolCall) -> Answer | None:
            asked.append(request.id)
            return Answer(approve=True, by="the next engine")

    journal = MemoryJournal()
    async with Engine(
        model=ScriptedModel([calls("pay")]), tools=[pay], journal=journal, policy=Verdicts(pay="ask")
    ) as engine:
        (request,) = (await (await engine.open("s")).ask("go")).pending
    async with Engine(
        model=ScriptedModel(["done"]), tools=[pay], journal=journal, policy=Verdicts(pay="ask"), approver=Yes()
    ) as engine:
        result = await (await engine.open("s")).result()
    assert asked == [request.id]
    assert (result.outcome, result.text) == (Outcome.COMPLETED, "done")
