"""What hosts decide about faults: recorded before it is done, bounded, and never able to break a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import ValidationError

from engine import Engine, Limits, ModelReply, ModelRequest, ToolCall, tool
from engine.core.effects import Recover
from engine.core.values import Fault, FaultKind, Outcome, RecoveryPlan, State
from engine.errors import EngineClosed, ModelError
from engine.journal import MemoryJournal
from engine.models import FunctionModel
from engine.ports import RecoveryHandler
from engine.replay import verify
from engine.runtime.parts import EngineSettings

from .scenes import VirtualClock

pytestmark = pytest.mark.virtual_time

AGAIN = RecoveryPlan(action="resume", resume=State.GENERATING_RESPONSE)


class Failing:
    """Raises the errors it was made with, one a request, then answers; remembers when it was asked."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.sent: list[float] = []

    async def generate(self, request: ModelRequest, emit: object) -> ModelReply:
        self.sent.append(anyio.current_time())
        if self.errors:
            raise self.errors.pop(0)
        return ModelReply(text="done")


class Handler:
    """Returns what `say` makes of a fault and its plan, and remembers what it was asked."""

    def __init__(self, say: Callable[[Fault, RecoveryPlan], Any]) -> None:
        self.asked: list[tuple[FaultKind, str]] = []
        self._say = say

    def __call__(self, fault: Fault, plan: RecoveryPlan) -> RecoveryPlan | None:
        self.asked.append((fault.kind, plan.action))
        said: RecoveryPlan | None = self._say(fault, plan)
        return said


def handling(**handlers: RecoveryHandler) -> EngineSettings:
    return EngineSettings.model_validate({"recovery": handlers})


async def decisions(engine: Engine) -> list[RecoveryPlan]:
    """Return the plans that took the place of the engine's own, as they were carried out."""
    return [
        effect.plan
        async for record in engine.history("s")
        if record.trigger == "recovery_planned"
        for effect in record.effects
        if isinstance(effect, Recover)
    ]


@pytest.mark.anyio
async def test_v25_a_handler_tries_again_what_the_engine_would_give_up() -> None:
    """A bug of the host's own model is not retryable by itself; the host knows better, and says after which delay."""
    handler = Handler(lambda fault, plan: AGAIN.model_copy(update={"delay_s": 7.0}))
    model = Failing(RuntimeError("the cable was loose"))
    async with Engine(model=model, settings=handling(model_failure=handler)) as engine:
        result = await (await engine.open("s")).ask("go")
        assert (result.outcome, result.text) == (Outcome.COMPLETED, "done")
        assert model.sent[1] - model.sent[0] == pytest.approx(7)
        (plan,) = await decisions(engine)
    assert (plan.delay_s, plan.resume) == (7.0, State.GENERATING_RESPONSE)
    assert handler.asked == [("model_failure", "give_up")]


@pytest.mark.anyio
async def test_v25_a_handler_can_give_up_at_once() -> None:
    """A host that has another model at hand does not wait for this one."""
    handler = Handler(lambda fault, plan: RecoveryPlan(action="give_up"))
    model = Failing(ModelError("slow down", kind="rate_limit", retry_after_s=50))
    async with Engine(model=model, settings=handling(rate_limit=handler)) as engine:
        began = anyio.current_time()
        session = await engine.open("s")
        assert (await session.ask("go")).outcome is Outcome.FAILED
        assert anyio.current_time() == began
        assert session.state is State.IDLE
        assert (await session.ask("and now?")).text == "done"


@pytest.mark.anyio
async def test_v25_a_handler_can_give_up_into_a_shutdown() -> None:
    """The turn fails, the session is shut down and takes no prompt; whoever opens it again goes on with it idle."""
    handler = Handler(lambda fault, plan: RecoveryPlan(action="give_up", end="shutdown"))
    model = Failing(RuntimeError("nothing works any more"))
    async with Engine(model=model, settings=handling(model_failure=handler)) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert (result.outcome, result.reason) == (
            Outcome.FAILED, "the model failed: RuntimeError: nothing works any more",
        )  # fmt: skip
        assert session.state is State.SHUTDOWN
        with pytest.raises(EngineClosed, match=r"open it again with engine\.open"):
            await session.ask("and now?")
        again = await engine.open("s")
        assert again.state is State.IDLE
        assert (await again.ask("and now?")).text == "done"
        records = [record async for record in engine.history("s")]
        assert verify(records).ok
    (failed,) = [record for record in records if record.trigger == "recovery_failed"]
    assert (failed.source, failed.dest) == (State.ERROR, State.SHUTDOWN)


@pytest.mark.anyio
async def test_v25_prompts_behind_a_shutdown_are_refused() -> None:
    """A prompt behind the turn whose recovery shuts the session down fails, and nothing of it is recorded."""
    handler = Handler(lambda fault, plan: RecoveryPlan(action="give_up", end="shutdown"))
    refused: list[EngineClosed] = []

    async def behind() -> None:
        try:
            await session.ask("me too")
        except EngineClosed as error:
            refused.append(error)

    model = Failing(RuntimeError("no"))
    async with Engine(model=model, settings=handling(model_failure=handler)) as engine:
        session = await engine.open("s")
        async with anyio.create_task_group() as group:
            group.start_soon(session.ask, "go")
            await anyio.lowlevel.checkpoint()
            group.start_soon(behind)
        assert len(refused) == 1
        assert [record.trigger async for record in engine.history("s")].count("prompt_received") == 1
        await engine.open("s")


@pytest.mark.anyio
async def test_v25_a_handler_can_put_a_turn_aside() -> None:
    """With a delay instead of a time of day: the time is settled once, and recorded."""
    handler = Handler(lambda fault, plan: AGAIN.model_copy(update={"action": "park", "delay_s": 600.0}))
    model = Failing(ModelError("maintenance", status=503))
    async with Engine(model=model, settings=handling(model_failure=handler), clock=VirtualClock()) as engine:
        session = await engine.open("s")
        assert (await session.ask("go")).outcome is Outcome.WAITING
        (request,) = session.pending
        (plan,) = await decisions(engine)
        assert plan.not_before == request.not_before is not None
        await anyio.sleep(599)
        assert len(model.sent) == 1
        await anyio.sleep(2)
        assert (await session.result()).text == "done"


@pytest.mark.anyio
async def test_v25_a_handler_decides_about_a_tool_s_trouble() -> None:
    """Timed-out tools end the turn where the host says so; every call has its result."""

    @tool(effect="read", timeout_s=1)
    async def slow() -> str:
        await anyio.sleep_forever()
        return "never"

    async def think(request: ModelRequest) -> ModelReply:
        return ModelReply(tool_calls=[ToolCall(id="c1", name="slow")])

    settings = handling(tool_timeout=Handler(lambda fault, plan: RecoveryPlan(action="give_up")))
    async with Engine(model=FunctionModel(think), tools=[slow], settings=settings) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert (result.outcome, result.reason) == (Outcome.FAILED, "tool timeout: slow")
        assert [call.status.value for call in result.tool_calls] == ["timed_out"]
        assert session.messages[-1].tool_call_id == "c1"


@pytest.mark.anyio
async def test_v25_a_handler_delays_what_the_model_is_told() -> None:
    """A plan that goes on after a tool's trouble can be carried out later; such a wait is no gate's and never parks."""

    @tool(effect="read", timeout_s=1)
    async def slow() -> str:
        await anyio.sleep_forever()
        return "never"

    async def think(request: ModelRequest) -> ModelReply:
        told = request.messages[-1].role == "tool"
        return ModelReply(text="done") if told else ModelReply(tool_calls=[ToolCall(id="c1", name="slow")])

    settings = handling(tool_timeout=Handler(lambda fault, plan: plan.model_copy(update={"delay_s": 90.0})))
    async with Engine(model=FunctionModel(think), tools=[slow], settings=settings) as engine:
        began = anyio.current_time()
        assert (await (await engine.open("s")).ask("go")).text == "done"
        assert anyio.current_time() - began == pytest.approx(91)


@pytest.mark.anyio
@pytest.mark.parametrize("retries", [0, 2])
async def test_v25_attempts_stay_bounded(retries: int) -> None:
    """A handler that always says "again" gets no more than `max_model_retries`; then the engine's plan stands."""
    handler = Handler(lambda fault, plan: AGAIN)
    model = Failing(*[RuntimeError("no")] * 9)
    settings, limits = handling(model_failure=handler), Limits(max_model_retries=retries)
    async with Engine(model=model, settings=settings, limits=limits) as engine:
        assert (await (await engine.open("s")).ask("go")).outcome is Outcome.FAILED
        assert [plan.attempts_left for plan in await decisions(engine)] == list(reversed(range(retries)))
    assert len(model.sent) == 1 + retries


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_a6_v25_no_handler_sends_a_wrong_request_again(status: int) -> None:
    """What a server has called wrong is sent once, whoever would have it otherwise."""
    model = Failing(ModelError("no", status=status))
    async with Engine(model=model, settings=handling(model_failure=Handler(lambda fault, plan: AGAIN))) as engine:
        assert (await (await engine.open("s")).ask("go")).outcome is Outcome.FAILED
    assert len(model.sent) == 1


def broken(fault: Fault, plan: RecoveryPlan) -> RecoveryPlan:
    raise ZeroDivisionError("a bug")


NONSENSE: Mapping[str, Callable[[Fault, RecoveryPlan], Any]] = {
    "raises": broken,
    "no plan": lambda fault, plan: "again",
    "a negative delay": lambda fault, plan: plan.model_copy(update={"delay_s": -1.0}),
    "no time to go on": lambda fault, plan: plan.model_copy(update={"action": "park", "not_before": "soon"}),
    "a time without a zone": lambda fault, plan: plan.model_copy(
        update={"action": "park", "not_before": "2027-01-15T08:00:00"}
    ),
    "nothing to tell": lambda fault, plan: RecoveryPlan(action="resume", resume=State.PROCESSING),
    "nobody to ask": lambda fault, plan: RecoveryPlan(action="ask"),
    "nowhere": lambda fault, plan: RecoveryPlan(action="resume"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("what", NONSENSE)
async def test_v25_a_handler_that_is_wrong_changes_nothing(what: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its reason, the engine's own plan is carried out, and the session takes the next prompt."""
    model = Failing(ModelError("slow down", kind="rate_limit", retry_after_s=3))
    async with Engine(model=model, settings=handling(rate_limit=Handler(NONSENSE[what]))) as engine:
        session = await engine.open("s")
        assert (await session.ask("go")).text == "done"
        assert 3 <= model.sent[1] - model.sent[0] <= 3 + 5
        assert await decisions(engine) == []
        assert (await session.ask("once more")).text == "done"
    assert "a recovery handler changed nothing" in caplog.text


@pytest.mark.anyio
async def test_v25_a_plan_that_stands_is_not_recorded_twice() -> None:
    """None, and the very plan that was made, leave the history as it is without a handler."""
    for say in (lambda fault, plan: None, lambda fault, plan: plan):
        model = Failing(ModelError("down", status=503))
        async with Engine(model=model, settings=handling(model_failure=Handler(say))) as engine:
            assert (await (await engine.open("s")).ask("go")).text == "done"
            assert await decisions(engine) == []


@pytest.mark.anyio
async def test_v25_a_closed_gate_cannot_be_talked_open() -> None:
    """A turn that waits for its gate can be given up, or go on waiting: asking on would only meet the gate again."""
    handler = Handler(lambda fault, plan: AGAIN)
    model = Failing(ModelError("slow down", kind="rate_limit", retry_after_s=3_600))
    async with Engine(model=model, settings=handling(gate_closed=handler), clock=VirtualClock()) as engine:
        session = await engine.open("s")
        assert (await session.ask("go")).outcome is Outcome.WAITING
        assert handler.asked == [("gate_closed", "park")]
        await session.cancel()


@pytest.mark.anyio
async def test_v25_replay_and_restart_never_ask_a_handler() -> None:
    """The decision is in the history: verification holds without the handler, and a new engine goes on with it."""
    handler = Handler(lambda fault, plan: plan.model_copy(update={"delay_s": 40.0}))
    journal, model = MemoryJournal(), Failing(ModelError("down", status=503))
    settings = handling(model_failure=handler)
    async with Engine(model=model, journal=journal, settings=settings) as engine, anyio.create_task_group() as group:
        session = await engine.open("s")
        group.start_soon(session.ask, "go")
        await anyio.sleep(10)
        assert session.state is State.ERROR
        await session.close()
    async with Engine(model=model, journal=journal, settings=settings) as engine:
        began = anyio.current_time()
        session = await engine.open("s")
        assert (await session.result()).text == "done"
        assert model.sent[1] - began == pytest.approx(40)
        assert len(handler.asked) == 1
        records = [record async for record in engine.history("s")]
    assert not verify(records).diverged
    assert len(handler.asked) == 1


def test_v25_what_is_no_handler_is_refused_where_it_is_registered() -> None:
    """An unknown kind of fault, no function, and a coroutine function."""

    async def later(fault: Fault, plan: RecoveryPlan) -> RecoveryPlan | None:
        return None

    for wrong, reason in (({"ratelimit": broken}, "rate_limit"), ({"loop": 3}, "callable"), ({"loop": later}, "plain")):
        with pytest.raises(ValidationError, match=reason):
            EngineSettings.model_validate({"recovery": wrong})
