"""Tools that swallow their cancellation: nobody waits for them for longer than the grace."""

from __future__ import annotations

import anyio
import pytest

from engine import Engine, EngineSettings, Limits, Outcome, Session, ToolStatus, TransitionRecord, tool
from engine.core.notices import Notice
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from engine.ports import Tool
from tests.runtime.scenes import calls, check_closed, check_sound, history

pytestmark = pytest.mark.anyio

GRACE = Limits(cancel_grace_s=0.02)


class Stubborn:
    """A read and a write that hear no cancellation until they are let go."""

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.begun = anyio.Event()
        self.ended = anyio.Event()
        self.let_go = anyio.Event()
        self._timeout_s = timeout_s

    def tools(self) -> tuple[Tool, ...]:
        """Return both, and a read that ends at once."""

        async def hold() -> str:
            with anyio.CancelScope(shield=True):
                self.begun.set()
                await self.let_go.wait()
            self.ended.set()
            return "too late"

        @tool(effect="read", timeout_s=self._timeout_s)
        async def stare() -> str:
            return await hold()

        @tool(effect="write", timeout_s=self._timeout_s)
        async def pour() -> str:
            return await hold()

        @tool(effect="read")
        async def glance() -> str:
            return "seen"

        return stare, pour, glance


async def ask(session: Session) -> None:
    await session.ask("go")


async def check_late_end_changes_nothing(engine: Engine, session: Session, stubborn: Stubborn) -> None:
    """Assert that the tool that was given up keeps its place until it ends, and that its end is no record."""
    assert engine.stats().running_tools == 1
    before = session.seq
    stubborn.let_go.set()
    await stubborn.ended.wait()
    await anyio.wait_all_tasks_blocked()
    assert (engine.stats().running_tools, session.seq) == (0, before)


@pytest.mark.parametrize(("name", "status"), [("stare", ToolStatus.CANCELLED), ("pour", ToolStatus.UNKNOWN)])
async def test_v22_m11_cancel_does_not_wait_for_a_tool_that_swallows_it(name: str, status: ToolStatus) -> None:
    """`session.cancel` returns after the grace; a write is unknown then; its late result changes nothing."""
    stubborn = Stubborn()
    model = ScriptedModel([calls(name), "done"])
    async with Engine(model=model, tools=stubborn.tools(), limits=GRACE) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(ask, session)
            await stubborn.begun.wait()
            with anyio.fail_after(30):
                await session.cancel()
        result = await session.result()
        assert (result.outcome, [made.status for made in result.tool_calls]) == (Outcome.CANCELLED, [status])
        await check_late_end_changes_nothing(engine, session, stubborn)
        assert (await session.ask("again")).outcome is Outcome.COMPLETED
        check_closed(await history(engine.journal))


async def test_m11_a_cancelled_caller_does_not_wait_for_a_tool_that_swallows_it() -> None:
    """A deadline around `ask` holds, although the tool does not end."""
    stubborn = Stubborn()
    async with Engine(model=ScriptedModel([calls("stare"), "done"]), tools=stubborn.tools(), limits=GRACE) as engine:
        session = await engine.open("s")
        with anyio.fail_after(30):
            with anyio.move_on_after(0.05) as scope:
                await session.ask("go")
        assert scope.cancelled_caught
        assert (await session.result()).outcome is Outcome.CANCELLED
        stubborn.let_go.set()


async def test_v33_shutdown_does_not_wait_for_tools_that_swallow_it() -> None:
    """`engine.shutdown` returns after one grace for all; a write that began is asked about when it is opened again."""
    journal = MemoryJournal()
    stubborn = Stubborn()
    model = ScriptedModel([calls("pour")] * 3)
    async with (
        anyio.create_task_group() as group,
        Engine(model=model, tools=stubborn.tools(), journal=journal, limits=Limits(cancel_grace_s=0.2)) as engine,
    ):
        for name in "stu":
            group.start_soon(ask, await engine.open(name))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(30):
            await engine.shutdown()
        stubborn.let_go.set()
    check_sound(await history(journal))
    async with Engine(model=ScriptedModel(["done"]), tools=stubborn.tools(), journal=journal) as engine:
        session = await engine.open("s")
        (request,) = (await session.result()).pending
        assert request.kind == "outcome"
        assert (await session.answer(request.id, approve=True)).outcome is Outcome.COMPLETED


@pytest.mark.parametrize(("name", "status"), [("stare", ToolStatus.TIMED_OUT), ("pour", ToolStatus.UNKNOWN)])
async def test_v22_a_timeout_that_a_tool_swallows_does_not_hold_the_turn(name: str, status: ToolStatus) -> None:
    """A call that has not ended within the grace after its deadline is given up; siblings and turn go on."""
    stubborn = Stubborn(timeout_s=0.01)
    model = ScriptedModel([calls(name, "glance"), "done"])
    settings = EngineSettings(on_unknown="tell_model")
    async with Engine(model=model, tools=stubborn.tools(), limits=GRACE, settings=settings) as engine:
        session = await engine.open("s")
        with anyio.fail_after(30):
            result = await session.ask("go")
        assert (result.text, [made.status for made in result.tool_calls]) == ("done", [status, ToolStatus.COMPLETED])
        await check_late_end_changes_nothing(engine, session, stubborn)
        check_closed(await history(engine.journal))


async def test_v16_a_tool_that_was_given_up_keeps_its_place() -> None:
    """Under a limit of one, the next call starts only when the one that was given up has really ended."""
    stubborn = Stubborn(timeout_s=0.01)
    ended_before: list[bool] = []

    @tool(effect="read")
    async def next_one() -> str:
        ended_before.append(stubborn.ended.is_set())
        return "seen"

    class LetGo:
        """Lets the tool go when its call is on record as over, and the engine has had time to start another."""

        async def later(self) -> None:
            await anyio.wait_all_tasks_blocked()
            stubborn.let_go.set()

        def on_record(self, record: TransitionRecord) -> None:
            if record.trigger == "tool_finished" and not stubborn.let_go.is_set():
                group.start_soon(self.later)

        def on_notice(self, session: str, notice: Notice) -> None:
            """Do nothing."""

    limits = Limits(cancel_grace_s=0.02, max_concurrent_tools=1)
    model = ScriptedModel([calls("stare", "next_one"), "done"])
    tools = [*stubborn.tools(), next_one]
    async with (
        anyio.create_task_group() as group,
        Engine(model=model, tools=tools, limits=limits, observers=[LetGo()]) as engine,
    ):
        with anyio.fail_after(30):
            result = await (await engine.open("s")).ask("go")
    assert [made.status for made in result.tool_calls] == [ToolStatus.TIMED_OUT, ToolStatus.COMPLETED]
    assert ended_before == [True]
