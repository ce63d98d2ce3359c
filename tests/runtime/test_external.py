"""Calls that the host carries out: handed over, completed in any order, after a restart, in time or not."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from engine import Engine, EngineSettings, ModelReply, Outcome, Session, State, ToolCall, ToolStatus, tool
from engine.core.values import Request
from engine.errors import InvalidEvent
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from engine.ports import Answer, Journal
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
