"""The end of a thread that was given up is on record as long as its session can be written to."""

from __future__ import annotations

import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from engine import Engine, ModelReply, ModelRequest, Session, State, tool
from engine.core.events import LateResult
from engine.errors import JournalUnavailable
from engine.journal import MemoryJournal
from engine.models import FunctionModel, ScriptedModel
from engine.ports import Tool
from engine.testing.journals import FailingJournal
from tests.runtime.scenes import calling, calls, check_sound, history, triggers

pytestmark = pytest.mark.anyio


class Stuck:
    """A tool whose thread outlives its call until it is let go."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._free = threading.Event()

    def tools(self) -> list[Tool]:
        """Return the tool."""

        @tool(effect="read")
        def stuck() -> str:
            self._begun.set()
            self._free.wait(60)
            return "too late"

        return [stuck]

    async def leave_behind(self, session: Session) -> None:
        """Run a turn up to the tool's thread, and cancel it: the thread goes on."""
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "go")
            await anyio.to_thread.run_sync(self._begun.wait)
            await session.cancel()

    async def end(self, engine: Engine) -> None:
        """Let the thread end, and return right when the engine has heard of it."""
        self._free.set()
        with anyio.fail_after(30):
            while engine.stats().running_tools:
                await anyio.lowlevel.checkpoint()


async def late_results(journal: MemoryJournal) -> list[State]:
    """Return the states in which a late result was recorded; the history is sound."""
    records = await history(journal)
    check_sound(records)
    return [record.source for record in records if isinstance(record.event, LateResult)]


async def test_f5_a_late_result_that_comes_right_before_the_close_is_recorded() -> None:
    """The thread has ended and nothing else has happened yet when the session is closed."""
    stuck, journal = Stuck(), MemoryJournal()
    async with Engine(model=calling("stuck"), tools=stuck.tools(), journal=journal) as engine:
        session = await engine.open("s")
        await stuck.leave_behind(session)
        await stuck.end(engine)
        await session.close()
    assert await late_results(journal) == [State.IDLE]


async def test_f5_a_late_result_is_recorded_until_the_session_is_released() -> None:
    """A session that rests when its engine is drained takes no prompt any more, and the late result still."""
    stuck, journal = Stuck(), MemoryJournal()
    async with Engine(model=calling("stuck"), tools=stuck.tools(), journal=journal) as engine:
        await stuck.leave_behind(await engine.open("s"))
        await engine.drain()
        await stuck.end(engine)
    assert await late_results(journal) == [State.IDLE]


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_f5_a_late_result_that_comes_while_a_turn_is_ended_is_recorded(how: str) -> None:
    """The thread ends while the model call of the next turn is being cancelled: its record stands before that of the
    turn's end.
    """
    stuck, journal, asked = Stuck(), MemoryJournal(), anyio.Event()

    async def think(request: ModelRequest) -> ModelReply:
        if request.turn == 1:
            return calls("stuck")
        asked.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await stuck.end(engine)
        return ModelReply(text="never")

    async with Engine(model=FunctionModel(think), tools=stuck.tools(), journal=journal) as engine:
        session = await engine.open("s")
        await stuck.leave_behind(session)
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "again")
            await asked.wait()
            await (session.cancel() if how == "cancel" else session.close())
    assert await late_results(journal) == [State.GENERATING_RESPONSE]
    end = "turn_cancelled" if how == "cancel" else "shutdown_requested"
    assert triggers(await history(journal))[-2:] == ["late_result", end]


async def test_f5_f12_a_late_result_costs_no_outcome_that_a_failing_journal_kept_back() -> None:
    """The reply could not be made durable, then the thread ends: the reply is written first, and the model is not asked
    again.
    """
    stuck, inner = Stuck(), MemoryJournal()
    journal = FailingJournal(inner, fail_at=6)
    model = ScriptedModel([calls("stuck"), "done"])
    async with Engine(model=model, tools=stuck.tools(), journal=journal) as engine:
        session = await engine.open("s")
        await stuck.leave_behind(session)
        with pytest.raises(JournalUnavailable):
            await session.ask("again")
        await stuck.end(engine)
        await anyio.wait_all_tasks_blocked()
        assert (await session.result()).text == "done"
        assert len(model.requests) == 2
    assert triggers(await history(inner))[-2:] == ["model_replied", "late_result"]
    assert await late_results(inner) == [State.IDLE]
