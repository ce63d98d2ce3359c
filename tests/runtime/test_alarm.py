"""The times of questions: rung once, and no task sleeps for a question that nobody asks any more; in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest

from engine import Engine, Session, State, tool
from engine.core.events import UserAnswered
from engine.core.values import Request
from engine.errors import EngineClosed, InvalidEvent
from engine.journal import MemoryJournal
from engine.models import ScriptedModel
from engine.runtime.alarm import Alarm
from engine.runtime.clock import timestamp
from engine.runtime.crew import Crew, Work
from engine.testing.scheduling import counting_steps
from tests.runtime.scenes import Verdicts, VirtualClock, calls, check_closed, check_sound, history

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@tool
async def save() -> str:
    """Save."""
    return "saved"


@tool(external=True, timeout_s=60)
def weld() -> str:
    """Weld something."""
    raise AssertionError("an external tool is never run")


def asking(*names: str, **parts: Any) -> Engine:
    """Return an engine whose model asks for these calls; `save` needs leave, `weld` the host."""
    model = ScriptedModel([calls(*names), *["done"] * 5])
    return Engine(model=model, tools=[save, weld], policy=Verdicts(save="ask"), clock=VirtualClock(), **parts)


async def steps_of_two_minutes() -> int:
    """Return how often the event loop lets something run in that time, the newest look of the monitor past."""
    await anyio.sleep(1)
    with counting_steps() as steps:
        await anyio.sleep(120)
    return steps.count


class CountingCrew(Crew):
    """Counts the pieces of work that have not ended."""

    busy = 0

    def start(self, work: Work) -> None:
        """Run `work`, counted."""

        async def counted() -> None:
            try:
                await work()
            finally:
                self.busy -= 1

        self.busy += 1
        super().start(counted)


def question(number: int, in_s: float, *, parked: bool = False) -> Request:
    """Return a question whose time comes in so many seconds."""
    moment = timestamp(VirtualClock().time_ns() + int(in_s * 1e9))
    due = {"not_before": moment} if parked else {"expires_at": moment}
    return Request(id=f"r{number}", kind="parked" if parked else "approval", text="?", **due)


async def answer_all(session: Session) -> None:
    for request in session.pending:
        await session.answer(request.id, approve=True, text="done")
    assert session.state is State.IDLE


async def cancel(session: Session) -> None:
    await session.cancel()


async def close(session: Session) -> None:
    await session.close()


@pytest.mark.parametrize("end", [answer_all, cancel, close])
async def test_a12_nothing_sleeps_for_a_question_that_is_no_more(end: Callable[[Session], Any]) -> None:
    """Three approvals and a task are asked for, then answered, cancelled, or closed: when their times have come, the
    event loop makes not one step more than without an engine.
    """
    alone = await steps_of_two_minutes()
    async with asking("save", "weld", "save", "save") as engine:
        session = await engine.open("s")
        assert len((await session.ask("go")).pending) == 4
        await end(session)
        assert await steps_of_two_minutes() == alone


async def test_a12_nothing_sleeps_in_an_engine_that_goes_on_with_old_questions() -> None:
    """Questions that an earlier engine left open have their times minded once, and not after they were answered."""
    journal = MemoryJournal()
    alone = await steps_of_two_minutes()
    async with asking("save", "weld", journal=journal) as engine:
        await (await engine.open("s")).ask("go")
    async with asking(journal=journal) as engine:
        session = await engine.open("s")
        assert len(session.pending) == 2
        await answer_all(session)
        assert await steps_of_two_minutes() == alone
    check_closed(await history(journal))


async def test_a12_the_times_of_many_questions_are_minded_one_by_one() -> None:
    """One of three is answered, one runs out: its refusal is recorded at its time, and the third still waits."""
    journal = MemoryJournal()
    async with asking("save", "save", "weld", journal=journal) as engine:
        session = await engine.open("s")
        first, _, third = (await session.ask("go")).pending
        await session.answer(first.id, approve=True)
        await anyio.sleep(31)
        assert session.pending == (third,)
        await session.answer(third.id, approve=True, text="done")
    records = await history(journal)
    check_closed(records)
    answers = [record.event for record in records if isinstance(record.event, UserAnswered)]
    assert [(answer.approve, answer.overdue) for answer in answers] == [(True, False), (False, True), (True, False)]


async def test_a12_a_question_has_one_sleeper_until_it_is_gone() -> None:
    """Told of the same questions again and again, the alarm keeps one task for each that has a time, lets go of those
    that are pending no more, and rings the others once each: a parked turn goes on, an approval is refused.
    """
    rung: list[tuple[str, bool, bool]] = []

    async def answer(event: UserAnswered) -> None:
        rung.append((event.request_id, event.approve, event.overdue))

    async with anyio.create_task_group() as group:
        crew = CountingCrew(group)
        alarm = Alarm(VirtualClock(), crew, answer)
        timeless = Request(id="r9", kind="outcome", call_id="c", text="?")
        asked = [question(1, 5), question(2, 6), question(3, 7, parked=True), timeless]
        for _ in range(3):
            alarm.set(asked)
            await anyio.sleep(1)
        assert crew.busy == 3
        alarm.set(asked[1:])
        await anyio.wait_all_tasks_blocked()
        assert crew.busy == 2
        await anyio.sleep(10)
        assert rung == [("r2", False, True), ("r3", True, False)]
        assert crew.busy == 0
        alarm.set([question(4, 5)])
        alarm.stop()
        alarm.set([question(5, 5)])
        await anyio.sleep(10)
        assert crew.busy == 0
        assert len(rung) == 2
        group.cancel_scope.cancel()


async def test_a12_a_question_is_not_rung_again_while_its_answer_is_on_the_way() -> None:
    """Other commits while the answer waits for its own leave the alarm as it is; if the answer fails, the next look at
    the same question rings again.
    """
    rung: list[str] = []
    gate = anyio.Event()

    async def answer(event: UserAnswered) -> None:
        rung.append(event.request_id)
        await gate.wait()
        raise RuntimeError("no luck")

    async with anyio.create_task_group() as group:
        crew = CountingCrew(group)
        alarm = Alarm(VirtualClock(), crew, answer)
        asked = [question(1, 5)]
        alarm.set(asked)
        await anyio.sleep(6)
        alarm.set(asked)
        await anyio.sleep(6)
        assert rung == ["r1"]
        gate.set()
        await anyio.wait_all_tasks_blocked()
        assert crew.busy == 0
        alarm.set(asked)
        await anyio.sleep(1)
        assert rung == ["r1", "r1"]
        group.cancel_scope.cancel()


Strike = Callable[[Engine, Session, anyio.CancelScope], Any]


async def strike_cancel(engine: Engine, session: Session, scope: anyio.CancelScope) -> None:
    """Cancel whoever holds the engine."""
    scope.cancel()


async def strike_close(engine: Engine, session: Session, scope: anyio.CancelScope) -> None:
    """Close the session."""
    await session.close()


async def strike_shutdown(engine: Engine, session: Session, scope: anyio.CancelScope) -> None:
    """Shut the engine down."""
    await engine.shutdown()


async def strike_answer(engine: Engine, session: Session, scope: anyio.CancelScope) -> None:
    """Answer what the alarm is about to refuse."""
    for request in session.pending:
        with suppress(InvalidEvent, EngineClosed):
            await session.answer(request.id, approve=True, text="done")


@pytest.mark.parametrize("strike", [strike_cancel, strike_close, strike_shutdown, strike_answer])
async def test_a12_f21_whatever_strikes_while_an_alarm_rings_leaves_a_history_that_goes_on(strike: Strike) -> None:
    """At every step of the event loop around two alarms, of an approval and of a task: the history is sound, no
    question has two answers, and the next engine brings the turn to its end.
    """
    step, acted = 0, True
    while acted:
        step += 1
        journal = MemoryJournal()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group, asking("save", "weld", journal=journal) as engine:
                session = await engine.open("s")
                await session.ask("go")
                await anyio.sleep(29.5)
                with counting_steps(step, partial(group.start_soon, strike, engine, session, scope)) as steps:
                    await anyio.sleep(40)
                acted = steps.acted
        records = await history(journal)
        check_sound(records)
        answered = [record.event.request_id for record in records if isinstance(record.event, UserAnswered)]
        assert len(answered) == len(set(answered))
        async with asking(journal=journal) as engine:
            session = await engine.open("s")
            while session.pending:
                await strike_answer(engine, session, scope)
                await session.result()
        check_closed(await history(journal))
    assert step > 5
