"""Calls that the host carries out: handed over, completed in any order, after a restart, in time or not."""

from __future__ import annotations

from typing import Any, Literal

import anyio
import pytest

from engine import Engine, EngineSettings, ModelReply, Outcome, Session, State, ToolCall, ToolStatus, tool
from engine.core.events import UserAnswered
from engine.core.values import Request
from engine.errors import InvalidEvent
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from engine.ports import Answer, Decision, Journal, ToolOptions
from engine.tools.policy import RulePolicy
from tests.runtime.scenes import Verdicts, VirtualClock, call, calls, check_closed, check_sound, history

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@tool(external=True)
def ship(parcel: str = "p") -> str:
    """Ship a parcel: people do that."""
    raise AssertionError("an external tool is never run")


@tool(external=True, effect="read", timeout_s=60)
def measure() -> str:
    """Measure something."""
    raise AssertionError("an external tool is never run")


@tool(external=True, timeout_s=60)
def weld() -> str:
    """Weld something."""
    raise AssertionError("an external tool is never run")


@tool(effect="read")
async def look() -> str:
    """Look."""
    return "seen"


def opened(*replies: ModelReply | str, **parts: Any) -> Engine:
    parts = {"tools": [ship, measure, weld, look], "clock": VirtualClock(), **parts}
    return Engine(model=ScriptedModel([*replies, "done"]), **parts)


async def closed(journal: Journal) -> None:
    check_closed(await history(journal))


async def test_a14_v20_a_task_is_completed_by_the_host() -> None:
    """The turn waits with one pending request about the call; its siblings run; the answer is the call's result."""
    journal = MemoryJournal()
    async with opened(calls("ship", "look"), journal=journal) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert (result.outcome, session.state) == (Outcome.WAITING, State.WAITING_FOR_USER)
        (request,) = result.pending
        assert (request.kind, request.call_id, request.expires_at) == ("external", "c0", None)
        result = await session.answer(request.id, approve=True, text="tracking number 7")
    assert [(made.status, made.content) for made in result.tool_calls] == [
        (ToolStatus.COMPLETED, "tracking number 7"), (ToolStatus.COMPLETED, "seen"),
    ]  # fmt: skip
    assert (result.outcome, result.text) == (Outcome.COMPLETED, "done")
    await closed(journal)


async def test_a14_tasks_are_completed_in_any_order_and_after_a_restart() -> None:
    """Two tasks, one answered before and the other after the session was opened in another engine; the task that stayed
    with the host is asked about by the same request, not run, and not doubted.
    """
    journal = MemoryJournal()
    async with opened(calls("ship", "ship"), journal=journal) as engine:
        session = await engine.open("s")
        first, second = (await session.ask("go")).pending
        assert (await session.answer(second.id, approve=True, text="second")).pending == (first,)
    async with opened(journal=journal) as engine:
        session = await engine.open("s")
        assert session.pending == (first,)
        result = await session.answer(first.id, approve=True, text="first")
    assert [made.content for made in result.tool_calls] == ["first", "second"]
    await closed(journal)


async def test_a14_a_crash_beside_a_task_leaves_it_with_the_host() -> None:
    """Shut down while a sibling runs: on reopening the sibling runs again and the task is still pending."""
    journal = MemoryJournal()

    @tool(effect="read")
    async def slow() -> str:
        await anyio.sleep(10)
        return "slow"

    parts: dict[str, Any] = {"journal": journal, "tools": [ship, slow]}
    async with opened(calls("ship", "slow"), **parts) as engine:
        session = await engine.open("s")
        async with session.stream("go") as stream:
            async for item in stream:
                if getattr(item, "trigger", "") == "model_replied":
                    await session.close()
                    break
    async with opened(**parts) as engine:
        session = await engine.open("s")
        (request,) = (await session.result()).pending
        result = await session.answer(request.id, approve=True, text="shipped")
    assert [made.content for made in result.tool_calls] == ["shipped", "slow"]
    await closed(journal)


async def test_a14_a_task_that_failed_is_told_to_the_model() -> None:
    """A refusal is the failure of the task, with the host's words."""
    async with opened(calls("ship")) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        result = await session.answer(request.id, approve=False, text="no courier")
    (made,) = result.tool_calls
    assert (made.status, made.content, made.error) == (ToolStatus.FAILED, "no courier", "external_failed")
    assert result.outcome is Outcome.COMPLETED


async def test_a14_a_read_that_nobody_completes_times_out() -> None:
    """A task with a timeout of 60 s ends as timed out after 60 s, the model is told, and a late answer is refused."""
    journal = MemoryJournal()
    async with opened(calls("measure"), journal=journal) as engine:
        session = await engine.open("s")
        started_s = anyio.current_time()
        (request,) = (await session.ask("go")).pending
        await anyio.sleep(61)
        result = await session.result()
        with pytest.raises(InvalidEvent, match="no request"):
            await session.answer(request.id, approve=True, text="late")
    assert anyio.current_time() - started_s >= 60
    (made,) = result.tool_calls
    assert (made.status, made.error, result.text) == (ToolStatus.TIMED_OUT, "timed_out", "done")
    await closed(journal)


async def test_f3_a_write_that_nobody_completes_is_unknown_and_asked_about() -> None:
    """A write that was handed over and has timed out may have happened: a person is asked. "It did not" hands it over
    once more under a new request; it is never run here.
    """
    journal = MemoryJournal()
    async with opened(calls("weld"), journal=journal) as engine:
        session = await engine.open("s")
        (task,) = (await session.ask("go")).pending
        await anyio.sleep(61)
        (question,) = (await session.result()).pending
        assert (question.kind, question.call_id) == ("outcome", "c0")
        (again,) = (await session.answer(question.id, approve=False)).pending
        assert again.kind == "external"
        assert again.id != task.id
        await session.cancel()
    (made,) = (session.turns)[-1].tool_calls
    assert made.status is ToolStatus.CANCELLED
    assert made.content.endswith("it had started and may have taken effect")
    await closed(journal)


async def test_a14_on_unknown_by_policy_needs_nobody() -> None:
    """With on_unknown="tell_model" the model is told that the outcome is unknown."""
    settings = EngineSettings(on_unknown="tell_model")
    async with opened(calls("weld"), settings=settings) as engine:
        session = await engine.open("s")
        await session.ask("go")
        await anyio.sleep(61)
        result = await session.result()
    assert (result.text, result.tool_calls[0].status) == ("done", ToolStatus.UNKNOWN)


async def test_a14_an_approval_comes_before_the_task() -> None:
    """A task that a policy asks about is handed over when it is approved, while a sibling runs; changed arguments
    count; an approver approves and never completes.
    """

    class Approving:
        async def answer(self, request: Request, call: ToolCall) -> Answer | None:
            asked.append(request.kind)
            return Answer(True, arguments={"parcel": "q"})

    asked: list[str] = []
    journal = MemoryJournal()
    parts: dict[str, Any] = {"journal": journal, "policy": Verdicts(ship="ask"), "approver": Approving()}
    reply = ModelReply(tool_calls=[call("ship", "c0", parcel="p"), call("look", "c1")])
    async with opened(reply, **parts) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        (request,) = result.pending
        assert (request.kind, asked) == ("external", ["approval"])
        assert result.tool_calls[0].arguments == {"parcel": "q"}
        result = await session.answer(request.id, approve=True, text="shipped")
    assert result.tool_calls[0].content.startswith("shipped")
    await closed(journal)


async def test_a14_direct_calls_can_be_tasks() -> None:
    """A task among the calls of a prompt is handed over too, and the model is asked when it is done."""
    from engine import Prompt

    async with opened() as engine:
        session = await engine.open("s")
        (request,) = (await session.ask(Prompt(text="go", calls=[call("ship")]))).pending
        assert (await session.answer(request.id, approve=True)).text == "done"


async def test_a14_a_long_answer_is_spilled() -> None:
    """What a host gives is bounded for the model as every result is, and the whole can be read back."""
    read = ModelReply(tool_calls=[ToolCall(id="r", name="read_result", arguments={})])
    async with opened(calls("ship"), read) as engine:
        session: Session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        result = await session.answer(request.id, approve=True, text="x" * 100_000)
        assert len(result.tool_calls[0].content) <= engine.limits.max_output_bytes
        assert "read_result" in result.tool_calls[0].content
    check_sound([record async for record in session.history()])


# --- leave, and what is held back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["rule", "version", "user", "tool"])
async def test_f17_a14_a_task_is_not_handed_over_against_the_policy_of_that_moment(changed: str) -> None:
    """Approved after a restart, a task is not handed over where the policy denies it by then, the approval is for
    something else, or there is no such tool any more: the model reads why, and who approved is on record.
    """
    journal = MemoryJournal()
    parts: dict[str, Any] = {"journal": journal, "policy": RulePolicy(["ask ship"])}
    async with opened(calls("ship"), **parts) as engine:
        (request,) = (await (await engine.open("s", user="u")).ask("go")).pending
    changes: dict[str, dict[str, Any]] = {
        "rule": {"policy": RulePolicy(["deny ship"], version=parts["policy"].version)},
        "version": {"policy": RulePolicy(["ask ship"], version="2")},
        "user": {},
        "tool": {"tools": [look]},
    }
    async with opened(**parts | changes[changed]) as engine:
        session = await engine.open("s", user="v" if changed == "user" else "u")
        result = await session.answer(request.id, approve=True, by="bob")
    (made,) = result.tool_calls
    assert (made.status, made.error, result.outcome) == (ToolStatus.DENIED, "denied", Outcome.COMPLETED)
    records = await history(journal)
    check_closed(records)
    (answer,) = [record.event for record in records if isinstance(record.event, UserAnswered)]
    assert (answer.approve, answer.by, answer.objection) == (True, "bob", made.content)


async def test_f17_a14_an_approver_hands_nothing_over_that_the_policy_denies_by_then() -> None:
    """An approver that says yes after the rules have changed, in the same engine, has said it in vain."""

    class Changing:
        """Asks at first, and denies once somebody was asked."""

        verdict: Literal["ask", "deny"] = "ask"

        def decide(self, call: ToolCall, options: ToolOptions) -> Decision:
            return Decision(self.verdict, "by the rules of now")

        async def answer(self, request: Request, call: ToolCall) -> Answer | None:
            self.verdict = "deny"
            return Answer(True)

    changing = Changing()
    async with opened(calls("ship"), policy=changing, approver=changing) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        await closed(engine.journal)
    assert (result.tool_calls[0].status, result.outcome) == (ToolStatus.DENIED, Outcome.COMPLETED)


async def test_f17_a14_a_task_is_not_handed_over_once_more_against_the_policy() -> None:
    """A task that timed out and did not take effect is handed over again only where it may be by then."""
    journal = MemoryJournal()
    async with opened(calls("weld"), journal=journal) as engine:
        session = await engine.open("s")
        await session.ask("go")
        await anyio.sleep(61)
        (question,) = (await session.result()).pending
    async with opened(journal=journal, policy=RulePolicy(["deny weld"])) as engine:
        session = await engine.open("s")
        result = await session.answer(question.id, approve=False)
    assert (result.tool_calls[0].status, result.outcome) == (ToolStatus.DENIED, Outcome.COMPLETED)
    await closed(journal)


async def test_a14_a_result_is_taken_whatever_the_policy_says_by_then() -> None:
    """A task that the host has carried out did happen: its result is recorded, though a policy denies it by then."""
    journal = MemoryJournal()
    async with opened(calls("ship"), journal=journal) as engine:
        (request,) = (await (await engine.open("s")).ask("go")).pending
    async with opened(journal=journal, policy=RulePolicy(["deny ship"])) as engine:
        result = await (await engine.open("s")).answer(request.id, approve=True, text="shipped")
    assert (result.tool_calls[0].status, result.tool_calls[0].content) == (ToolStatus.COMPLETED, "shipped")


@tool(external=True, conflict_key="account:{account}")
def audit(account: str) -> str:
    """Audit an account: people do that."""
    raise AssertionError("an external tool is never run")


@tool(conflict_key="account:{account}")
async def deposit(account: str) -> str:
    """Deposit."""
    return "deposited"


@pytest.mark.parametrize("first", ["audit", "deposit"])
async def test_v10_a_task_and_a_call_of_its_conflict_key_are_kept_apart(first: str) -> None:
    """Of two calls of one key in a reply, one of them the host's, the first goes on and the other is refused with what
    to do; another account's is not concerned. Asked for again in the next round it runs.
    """
    second = "deposit" if first == "audit" else "audit"
    journal = MemoryJournal()
    reply = ModelReply(
        tool_calls=[call(first, "c0", account="a"), call(second, "c1", account="a"), call(second, "c2", account="b")]
    )
    again = ModelReply(tool_calls=[call(second, "c3", account="a")])
    async with opened(reply, again, tools=[audit, deposit], journal=journal) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        while result.pending:
            result = await session.answer(result.pending[0].id, approve=True, text="fine")
    statuses = [made.status for made in result.tool_calls]
    assert statuses == [ToolStatus.COMPLETED, ToolStatus.DENIED, ToolStatus.COMPLETED, ToolStatus.COMPLETED]
    assert result.tool_calls[1].content == (
        "not run: call 'c0' has the same conflict key, and one of the two is carried out by the host; ask for it again "
        "when that call has its result"
    )
    await closed(journal)


async def test_v10_tasks_of_one_conflict_key_are_handed_over_one_by_one() -> None:
    """Two tasks of one key are not with the host at the same time; those of tools without a key may be."""
    reply = ModelReply(tool_calls=[call("audit", f"c{n}", account="a") for n in range(2)])
    async with opened(reply, tools=[audit]) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        assert request.call_id == "c0"
        await session.cancel()


async def test_v10_an_edit_cannot_bring_a_task_beside_a_call_of_its_conflict_key() -> None:
    """Arguments that a person changes are refused where they give the call the key of a task that the host has."""
    journal = MemoryJournal()
    reply = ModelReply(tool_calls=[call("audit", "c0", account="a"), call("deposit", "c1", account="b")])
    parts: dict[str, Any] = {"tools": [audit, deposit], "policy": Verdicts(deposit="ask"), "journal": journal}
    async with opened(reply, **parts) as engine:
        session = await engine.open("s")
        await session.ask("go")
        approval = next(request for request in session.pending if request.kind == "approval")
        task = next(request for request in session.pending if request.kind == "external")
        with pytest.raises(InvalidEvent, match="call 'c0' has the same conflict key"):
            await session.answer(approval.id, approve=True, arguments={"account": "a"})
        await session.answer(task.id, approve=True, text="fine")
        result = await session.answer(approval.id, approve=True, arguments={"account": "a"})
    assert [made.status for made in result.tool_calls] == [ToolStatus.COMPLETED] * 2
    await closed(journal)
