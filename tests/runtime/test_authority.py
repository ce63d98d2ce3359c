"""Loops, grants, edits, time limits and bindings in the living engine."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from engine import Engine, Limits, ModelReply, ModelRequest, Outcome, ToolStatus, TransitionRecord, tool
from engine.core.grants import GrantTerms
from engine.core.notices import Notice
from engine.errors import InvalidEvent
from engine.journal import MemoryJournal
from engine.models import FunctionModel, ScriptedModel
from engine.tools.policy import RulePolicy
from tests.runtime.scenes import calls, check_sound, history

pytestmark = pytest.mark.anyio

PAID: list[int] = []


@tool
async def pay(amount: int = 1) -> str:
    """Pay."""
    PAID.append(amount)
    return f"paid {amount}"


@tool(effect="read")
async def look() -> str:
    return "the same"


@pytest.fixture(autouse=True)
def nothing_paid() -> None:
    PAID.clear()


ASK = RulePolicy(())


def opened(*script: Any, **parts: Any) -> Engine:
    parts = {"tools": [pay, look], "journal": MemoryJournal(), "policy": ASK, **parts}
    return Engine(model=ScriptedModel([*script]), **parts)


async def test_a7_a_loop_is_told_refused_and_ended() -> None:
    """The third identical call is noted beside its result, the fourth refused, the fifth ends the turn as a loop."""
    journal = MemoryJournal()
    async with opened(*[calls("look")] * 9, journal=journal, policy=None) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        told = [message.text or "" for message in session.messages if message.role == "tool"]
    assert (result.outcome, len(result.tool_calls)) == (Outcome.FAILED, 5)
    assert told[1] == "the same"
    assert told[2].startswith("the same\n\nNote: look")
    assert told[3].startswith("not run: look")
    assert "circles" in result.reason
    check_sound(await history(journal))


async def test_a7_the_guard_can_be_left_out() -> None:
    """Without loop limits nothing is counted."""
    limits = Limits(loops=None)
    async with opened(*[calls("look")] * 9, "done", policy=None, limits=limits) as engine:
        result = await (await engine.open("s")).ask("go")
    assert result.outcome is Outcome.COMPLETED


async def test_v20_edited_arguments_are_what_runs_and_the_model_is_told() -> None:
    """A person changes the amount: that is paid, and the result says so."""
    journal = MemoryJournal()
    async with opened(calls("pay"), "done", journal=journal) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        with pytest.raises(InvalidEvent, match="amount"):
            await session.answer(request.id, approve=True, arguments={"amount": "many"})
        await session.answer(request.id, approve=True, arguments={"amount": 7})
        told = [message.text or "" for message in session.messages if message.role == "tool"]
    assert PAID == [7]
    assert told[0].startswith("paid 7\n\nNote: a person changed")
    check_sound(await history(journal))


async def test_a11_a_person_cannot_edit_past_a_denial() -> None:
    """What the policy denies is not run with edited arguments either; the request stays open."""
    async with opened(calls("pay"), "done", policy=RulePolicy(["deny pay(amount=1000)"])) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        with pytest.raises(InvalidEvent, match="deny pay"):
            await session.answer(request.id, approve=True, arguments={"amount": 1000})
        assert session.pending == (request,)


async def test_v20_a_result_given_by_a_person_stands_for_the_call() -> None:
    """Responding gives the call a result without running it."""
    async with opened(calls("pay"), "done") as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        result = await session.answer(request.id, approve=False, result="already paid")
    assert (PAID, result.tool_calls[0].content) == ([], "already paid")
    assert result.tool_calls[0].status is ToolStatus.COMPLETED


async def test_m17_a_grant_answers_for_as_many_calls_as_it_has_uses() -> None:
    """With a grant of two uses the next two calls run unasked, in the same reply or later, the third asks again."""
    journal = MemoryJournal()
    async with opened(calls("pay"), calls("pay", "pay", "pay"), "done", journal=journal) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        result = await session.answer(request.id, approve=True, grant=GrantTerms(pattern="pay", max_uses=2), by="ann")
        assert len(PAID) == 3
        assert [waiting.call_id for waiting in result.pending] == ["c2"]
        assert [(grant.granted_by, grant.uses_left) for grant in session.grants] == [("ann", 0)]
    check_sound(await history(journal))


async def test_m17_a_revoked_grant_asks_again_also_after_a_restart() -> None:
    """A grant survives a restart, and after it is taken back the next call asks."""
    journal = MemoryJournal()
    async with opened(calls("pay"), "done", journal=journal) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        await session.answer(request.id, approve=True, grant=GrantTerms(pattern="pay"))
    async with opened(calls("pay"), "done", calls("pay"), "done", journal=journal) as engine:
        session = await engine.open("s")
        assert (await session.ask("go")).outcome is Outcome.COMPLETED
        await session.revoke(request.id)
        with pytest.raises(InvalidEvent, match="no grant"):
            await session.revoke(request.id)
        assert (await session.ask("go")).outcome is Outcome.WAITING
    assert len(PAID) == 2
    check_sound(await history(journal))


async def test_m17_a_grant_taken_back_while_the_model_thinks_starts_no_call() -> None:
    """A revocation that comes before the call starts counts, however late."""
    thinking, go = anyio.Event(), anyio.Event()
    replies = iter([calls("pay"), ModelReply(text="done"), calls("pay"), ModelReply(text="done")])

    async def think(request: ModelRequest) -> ModelReply:
        if request.turn == 2 and request.round == 1:
            thinking.set()
            await go.wait()
        return next(replies)

    journal = MemoryJournal()
    async with Engine(model=FunctionModel(think), tools=[pay], journal=journal, policy=ASK) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        await session.answer(request.id, approve=True, grant=GrantTerms(pattern="pay"))
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "again")
            await thinking.wait()
            group.start_soon(session.revoke, request.id)
            await anyio.wait_all_tasks_blocked()
            go.set()
        made = session.turns[-1].tool_calls[0]
    assert (made.status, len(PAID)) == (ToolStatus.DENIED, 1)
    check_sound(await history(journal))


@pytest.mark.parametrize("changed", ["tool", "policy", "user", "nothing"])
async def test_f17_an_approval_is_for_what_was_asked_about(changed: str) -> None:
    """With another tool, policy or user after a restart an approval given then runs nothing."""

    @tool(name="pay")
    async def other(amount: int = 1) -> str:
        """Pay twice."""
        return await pay(amount)

    journal = MemoryJournal()
    async with opened(calls("pay"), journal=journal) as engine:
        session = await engine.open("s", user="ann")
        (request,) = (await session.ask("go")).pending
    tools = [other if changed == "tool" else pay]
    policy = RulePolicy(["ask x"] if changed == "policy" else [])
    async with opened("done", journal=journal, tools=tools, policy=policy) as engine:
        session = await engine.open("s", user="eve" if changed == "user" else "ann")
        result = await session.answer(request.id, approve=True)
    assert (len(PAID), result.outcome) == (1 if changed == "nothing" else 0, Outcome.COMPLETED)


async def test_f17_a_policy_that_denies_by_then_wins_over_an_approval() -> None:
    """The policy is asked again when the call is to run."""
    journal = MemoryJournal()
    async with opened(calls("pay"), journal=journal, policy=RulePolicy((), version="1")) as engine:
        (request,) = (await (await engine.open("s")).ask("go")).pending
    async with opened("done", journal=journal, policy=RulePolicy(["deny pay"], version="1")) as engine:
        session = await engine.open("s")
        result = await session.answer(request.id, approve=True)
    assert (PAID, result.tool_calls[0].content) == ([], "denied: by the rule 'deny pay'")


async def test_a12_a_request_that_nobody_answers_is_refused() -> None:
    """When the time is over the call is refused and the turn goes on by itself."""
    ended = anyio.Event()

    class Watch:
        def on_record(self, record: TransitionRecord) -> None:
            if record.trigger == "user_answered":
                ended.set()

        def on_notice(self, session: str, notice: Notice) -> None: ...

    parts = {"limits": Limits(approval_timeout_s=0.05), "observers": [Watch()]}
    async with opened(calls("pay"), "done", **parts) as engine:
        session = await engine.open("s")
        assert (await session.ask("go")).outcome is Outcome.WAITING
        with anyio.fail_after(30):
            await ended.wait()
            result = await session.result()
    assert (PAID, result.outcome, result.tool_calls[0].status) == ([], Outcome.COMPLETED, ToolStatus.DENIED)
    assert "in time" in result.tool_calls[0].content


async def test_a12_an_answer_that_comes_too_late_after_a_restart_is_refused() -> None:
    """The time limit is part of the history: a new engine holds it."""
    journal = MemoryJournal()
    async with opened(calls("pay"), journal=journal, limits=Limits(approval_timeout_s=0.01)) as engine:
        (request,) = (await (await engine.open("s")).ask("go")).pending
    await anyio.sleep(0.05)
    async with opened("done", journal=journal) as engine:
        session = await engine.open("s")
        with pytest.raises(InvalidEvent, match=r"over|pending"):
            await session.answer(request.id, approve=True)
        result = await session.result()
    assert (PAID, result.outcome) == ([], Outcome.COMPLETED)
