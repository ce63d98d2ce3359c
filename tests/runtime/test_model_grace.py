"""Models that swallow their cancellation: nobody waits for them for longer than the grace."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from engine import Engine, Limits, ModelReply, ModelRequest, Outcome, Session, State, TurnResult
from engine.core.events import Faulted
from engine.core.notices import Notice, TextDelta
from engine.journal import MemoryJournal
from tests.runtime.scenes import check_closed, check_sound, history

pytestmark = pytest.mark.anyio

GRACE = Limits(model_grace_s=0.02)


class Stubborn:
    """A model whose first call hears no cancellation until it is let go; all others answer at once."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.ended = anyio.Event()
        self.let_go = anyio.Event()
        self.requests: list[ModelRequest] = []

    async def generate(self, request: ModelRequest, emit: Callable[[Notice], None]) -> ModelReply:
        """Answer, the first time too late."""
        self.requests.append(request)
        if len(self.requests) > 1:
            return ModelReply(text="done")
        with anyio.CancelScope(shield=True):
            self.begun.set()
            await self.let_go.wait()
        emit(TextDelta("too late"))
        self.ended.set()
        return ModelReply(text="too late")


async def ask(session: Session) -> None:
    await session.ask("go")


async def check_usable(engine: Engine, session: Session, model: Stubborn) -> None:
    """Assert that the model's late end changes nothing, and that the session takes the next prompt."""
    before = session.seq
    model.let_go.set()
    await model.ended.wait()
    await anyio.wait_all_tasks_blocked()
    assert (session.seq, session.state) == (before, State.IDLE)
    assert (await session.ask("again")).text == "done"
    check_closed(await history(engine.journal))


async def test_m11_cancel_does_not_wait_for_a_model_that_swallows_it() -> None:
    """`session.cancel` returns after the grace, on record; what the model says later is dropped."""
    model = Stubborn()
    async with Engine(model=model, limits=GRACE) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(ask, session)
            await model.begun.wait()
            with anyio.fail_after(30):
                await session.cancel()
        assert (await session.result()).outcome is Outcome.CANCELLED
        await check_usable(engine, session, model)


async def test_m11_a_cancelled_caller_does_not_wait_for_a_model_that_swallows_it() -> None:
    """A deadline around `ask` holds, although the model does not end."""
    model = Stubborn()
    async with Engine(model=model, limits=GRACE) as engine:
        session = await engine.open("s")
        with anyio.fail_after(30):
            with anyio.move_on_after(0.05) as scope:
                await session.ask("go")
        assert scope.cancelled_caught
        await check_usable(engine, session, model)


async def test_v21_a_timeout_that_a_model_swallows_is_a_fault_and_is_not_tried_again() -> None:
    """A model call beyond its time that does not end fails the turn; another try would leave another call behind."""
    model = Stubborn()
    limits = Limits(model_grace_s=0.02, model_timeout_s=0.02)
    async with Engine(model=model, limits=limits) as engine:
        session = await engine.open("s")
        with anyio.fail_after(30):
            result = await session.ask("go")
        reason = "the model did not answer within 0.02 s and does not end when it is cancelled"
        assert (result.outcome, result.reason, len(model.requests)) == (Outcome.FAILED, reason, 1)
        (fault,) = [record.event.fault async for record in session.history() if isinstance(record.event, Faulted)]
        assert (fault.kind, fault.retryable) == ("model_failure", False)
        await check_usable(engine, session, model)


async def test_a10_the_execution_limit_does_not_wait_for_a_model_that_swallows_it() -> None:
    """The turn's own deadline is on record as its fault."""
    model = Stubborn()
    async with Engine(model=model, limits=Limits(model_grace_s=0.02, max_execution_time_s=0.05)) as engine:
        session = await engine.open("s")
        with anyio.fail_after(30):
            result = await session.ask("go")
        assert (result.outcome, result.reason) == (Outcome.FAILED, "the turn ran longer than 0.05 s")
        await check_usable(engine, session, model)


async def test_v33_shutdown_does_not_wait_for_a_model_that_swallows_it() -> None:
    """`engine.shutdown` returns after the grace; the turn goes on in the next engine."""
    journal, model = MemoryJournal(), Stubborn()
    async with anyio.create_task_group() as group, Engine(model=model, journal=journal, limits=GRACE) as engine:
        group.start_soon(ask, await engine.open("s"))
        await model.begun.wait()
        with anyio.fail_after(30):
            await engine.shutdown()
        model.let_go.set()
    check_sound(await history(journal))
    async with Engine(model=model, journal=journal, limits=GRACE) as engine:
        assert (await (await engine.open("s")).result()).text == "done"


async def test_l1_what_a_model_says_after_it_was_left_is_shown_to_nobody() -> None:
    """A stream of the next turn sees its own notices and results only."""
    model = Stubborn()
    async with Engine(model=model, limits=GRACE) as engine:
        session = await engine.open("s")
        with anyio.move_on_after(0.05):
            await session.ask("go")
        shown: list[object] = []
        async for item in session.stream("again"):
            model.let_go.set()
            await model.ended.wait()
            shown.append(item)
        assert isinstance(shown[-1], TurnResult)
        assert not [item for item in shown if isinstance(item, TextDelta)]


async def test_m11_a_model_that_ends_in_time_is_as_ever() -> None:
    """With a grace a model that hears its cancellation, fails or times out does what it does without one."""

    class Plain:
        """Answers, fails, hangs."""

        def __init__(self) -> None:
            self.said = iter(["hello", "fail", "hang", "hello"])

        async def generate(self, request: ModelRequest, emit: Callable[[Notice], None]) -> ModelReply:
            what = next(self.said)
            if what == "fail":
                raise RuntimeError("no")
            if what == "hang":
                await anyio.sleep_forever()
            return ModelReply(text=what)

    limits = Limits(model_grace_s=5, model_timeout_s=0.05, backoff_base_s=0)
    async with Engine(model=Plain(), limits=limits) as engine:
        session = await engine.open("s")
        results = [await session.ask("go") for _ in range(3)]
        assert [(result.outcome, result.text) for result in results] == [
            (Outcome.COMPLETED, "hello"), (Outcome.FAILED, None), (Outcome.COMPLETED, "hello"),
        ]  # fmt: skip
        assert results[1].reason == "the model failed: RuntimeError: no"
        faults = [record.event.fault async for record in session.history() if isinstance(record.event, Faulted)]
        assert faults[-1].message == "the model did not answer within 0.05 s"
        check_closed(await history(engine.journal))
