"""Batches of tool calls: what overlaps, what waits, what every call is told, and how each can end."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from engine import (
    Engine,
    EngineSettings,
    Limits,
    ModelReply,
    ModelRequest,
    Outcome,
    Priority,
    Prompt,
    ToolContext,
    ToolStatus,
    TransitionRecord,
    tool,
)
from engine.core.notices import Notice
from engine.models import FunctionModel, ScriptedModel
from tests.runtime.scenes import Crowd, Verdicts, call, calls

pytestmark = pytest.mark.anyio


def echo() -> FunctionModel:
    """Return a model that repeats the newest message."""
    return FunctionModel(lambda request: ModelReply(text=f"you said {request.messages[-1].text}"))


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
    context, second = sorted(got, key=lambda context: context.call_id)
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
    crowd = Crowd()

    @tool(effect="read")
    async def look() -> str:
        await crowd.visit()
        return ""

    limits = Limits(max_concurrent_tools=2)
    async with Engine(model=ScriptedModel([calls(*["look"] * 9), "done"]), tools=[look], limits=limits) as engine:
        result = await (await engine.open("s")).ask("go")
    assert len(result.tool_calls) == 9
    assert crowd.most == 2


async def test_f5_timed_out_threads_count_against_the_limit() -> None:
    """Eight timed-out sync tools under a limit of two: never more than two threads live, each call ends on record."""
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
    assert [made.status.value for made in result.tool_calls] == [
        "completed",
        "failed",
        "timed_out",
        "unknown",
        "denied",
    ]
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
