"""The one layer that tries again, with the whole engine around it, in virtual time."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from engine import Engine, Limits, ModelReply, ModelRequest
from engine.core.events import UserAnswered
from engine.core.values import Outcome, Request, State
from engine.errors import InvalidEvent, ModelError
from engine.journal import MemoryJournal
from engine.ports import Emit
from engine.runtime.alarm import Alarm
from engine.runtime.clock import timestamp
from engine.runtime.crew import Crew
from tests.runtime.scenes import VirtualClock

pytestmark = pytest.mark.virtual_time


class Metered:
    """Asks `judge` about each request: an error to raise, or None for an answer."""

    def __init__(self, judge: Callable[[int], ModelError | None], key: str | None = "provider#1") -> None:
        self.quota_key = key
        self.sent: list[float] = []
        self._judge = judge

    async def generate(self, request: ModelRequest, emit: Emit) -> ModelReply:
        self.sent.append(anyio.current_time())
        error = self._judge(len(self.sent))
        await anyio.sleep(0.3)
        if error is not None:
            raise error
        return ModelReply(text="done")


def limited(retry_after_s: float | None) -> ModelError:
    return ModelError("slow down", kind="rate_limit", status=429, retry_after_s=retry_after_s)


def first(error: ModelError, count: int = 1) -> Callable[[int], ModelError | None]:
    return lambda number: error if number <= count else None


async def triggers(engine: Engine, session: str) -> list[str]:
    return [record.trigger async for record in engine.history(session)]


@pytest.mark.anyio
async def test_f20_v24_d8_fifty_sessions_on_one_429() -> None:
    """50 sessions start at once, the first volley is told to wait 2 s: at most 55 requests, none too early."""
    await check_fifty_sessions("provider#1")


async def check_fifty_sessions(key: str | None) -> None:
    """Let 50 sessions meet one refusal of a provider whose quota has this name, and count requests."""
    began = anyio.current_time()
    model = Metered(lambda _: limited(2.0) if anyio.current_time() < began + 2 else None, key)
    outcomes: list[Outcome] = []

    async def ask(engine: Engine, number: int) -> None:
        outcomes.append((await (await engine.open(f"s{number}")).ask("go")).outcome)

    async with Engine(model=model) as engine, anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(ask, engine, number)
    assert outcomes == [Outcome.COMPLETED] * 50
    assert len(model.sent) <= 55
    told = began + 0.3
    assert not [moment for moment in model.sent if told < moment < told + 2]


@pytest.mark.anyio
async def test_v24_error_is_left_only_when_the_gate_opens() -> None:
    """The session stands in ERROR for as long as the provider asked, then does the interrupted step again."""
    model = Metered(first(limited(37.0)))
    async with Engine(model=model) as engine:
        session = await engine.open("s")
        result = await session.ask("go")
        assert (result.outcome, result.text) == (Outcome.COMPLETED, "done")
        assert model.sent[1] - model.sent[0] >= 37.3
        assert (await triggers(engine, "s"))[-3:] == ["faulted", "recovered", "model_replied"]


@pytest.mark.anyio
async def test_f20_a_long_wait_parks_the_turn_and_goes_on_by_itself() -> None:
    """Retry-After of an hour: the turn is put aside on record, nothing sleeps in it, and it ends by itself."""
    model = Metered(first(limited(3_600.0)))
    async with Engine(model=model, clock=VirtualClock()) as engine:
        session = await engine.open("s")
        began = anyio.current_time()
        result = await session.ask("go")
        assert anyio.current_time() - began < 1
        gate = engine.stats().gates["provider#1"]
        assert (gate.limited, gate.admitted, gate.in_flight, gate.waiting) == (1, 1, 0, 0)
        assert gate.opens_in_s is not None
        assert 3_599 < gate.opens_in_s < 3_700
        assert (result.outcome, session.state) == (Outcome.WAITING, State.WAITING_FOR_USER)
        assert [request.kind for request in session.pending] == ["parked"]
        await anyio.sleep_until(model.sent[0] + 3_600)
        assert len(model.sent) == 1
        await anyio.sleep(70)
        assert session.state is State.IDLE
        assert (await session.result()).text == "done"
        assert len(model.sent) == 2
        assert await triggers(engine, "s") == [
            "session_opened", "prompt_received", "context_prepared", "faulted", "faulted", "recovery_needs_user",
            "user_answered", "model_replied",
        ]  # fmt: skip


@pytest.mark.anyio
@pytest.mark.parametrize("approve", [True, False])
async def test_f20_a_parked_turn_can_be_answered(approve: bool) -> None:
    """Somebody may end a parked turn before its time; who says go on too early is parked again, without a request."""
    model = Metered(first(limited(3_600.0)))
    async with Engine(model=model, clock=VirtualClock()) as engine:
        session = await engine.open("s")
        (request,) = (await session.ask("go")).pending
        with pytest.raises(InvalidEvent, match="about no call"):
            await session.answer(request.id, approve=True, arguments={"n": 1})
        result = await session.answer(request.id, approve=approve)
        assert result.outcome is (Outcome.WAITING if approve else Outcome.FAILED)
        assert len(model.sent) == 1


@pytest.mark.anyio
async def test_f20_a_stopped_alarm_wakes_nobody() -> None:
    """What was parked and is pending no more, or belongs to a session that was closed, is left alone."""
    answered: list[str] = []

    async def answer(event: UserAnswered) -> None:
        answered.append(event.request_id)

    clock = VirtualClock()
    moments = [timestamp(clock.time_ns() + delay_s * 10**9) for delay_s in (5, 6)]
    first, second = (Request(id=moment, kind="parked", text="parked", not_before=moment) for moment in moments)
    async with anyio.create_task_group() as group:
        alarm = Alarm(clock, Crew(group), answer)
        alarm.set([first])
        alarm.set([second])
        await anyio.sleep(10)
        assert answered == [second.id]
        alarm.set([Request(id="a", kind="approval", call_id="c", text="?"), first])
        alarm.stop()
        await anyio.wait_all_tasks_blocked()
        assert answered == [second.id]
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_f20_an_alarm_that_comes_too_late_disturbs_nobody() -> None:
    """An answer that is refused, because a host was quicker, ends nothing but the alarm."""
    rang = anyio.Event()

    async def answer(event: UserAnswered) -> None:
        rang.set()
        raise InvalidEvent("no such request is pending")

    clock = VirtualClock()
    async with anyio.create_task_group() as group:
        moment = timestamp(clock.time_ns())
        Alarm(clock, Crew(group), answer).set([Request(id="r", kind="parked", text="parked", not_before=moment)])
        await rang.wait()
        await anyio.wait_all_tasks_blocked()
        assert not group.cancel_scope.cancel_called
        group.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "tries"), [(None, 1), (402, 1), (503, 4)])
async def test_a6_a_failure_is_tried_again_only_where_that_may_help(status: int | None, tries: int) -> None:
    """An adapter's own failure and a status that is not retryable end the turn at once; a server's own do not."""
    model = Metered(lambda _: ModelError("no", status=status, retryable=status == 503))
    async with Engine(model=model, clock=VirtualClock()) as engine:
        session = await engine.open("s")
        await session.ask("go")
        await anyio.sleep(100)
        assert (await session.result()).outcome is Outcome.FAILED
    assert len(model.sent) == tries


@pytest.mark.anyio
async def test_f20_a_wait_beyond_the_turn_s_deadline_parks() -> None:
    """The turn has 30 s left and the gate opens in 40: the turn is parked instead of running into its limit."""
    model = Metered(first(limited(40.0)))
    async with Engine(model=model, limits=Limits(max_execution_time_s=30), clock=VirtualClock()) as engine:
        session = await engine.open("s")
        assert (await session.ask("go")).outcome is Outcome.WAITING
        await anyio.sleep(60)
        assert (await session.result()).text == "done"


@pytest.mark.anyio
@pytest.mark.parametrize("back_s", [0.0, 7_200.0])
async def test_f20_the_pause_survives_a_restart(back_s: float) -> None:
    """A new engine on the same journal sends nothing before the time, also where the wall clock was set back."""
    journal = MemoryJournal()
    model = Metered(first(limited(3_600.0)))
    clock = VirtualClock()
    async with Engine(model=model, journal=journal, clock=clock) as engine:
        await (await engine.open("s")).ask("go")
    clock.offset_s -= back_s
    async with Engine(model=model, journal=journal, clock=clock) as engine:
        session = await engine.open("s")
        assert [request.kind for request in session.pending] == ["parked"]
        await anyio.sleep_until(model.sent[0] + 3_600)
        assert len(model.sent) == 1
        await anyio.sleep(70 + back_s)
        assert (await session.result()).text == "done"


@pytest.mark.anyio
async def test_f20_a_short_pause_survives_a_restart() -> None:
    """Shut down in the middle of a 50 s wait and opened again: the rest of it is waited for, for every session."""
    journal = MemoryJournal()
    model = Metered(first(limited(50.0)))
    clock = VirtualClock()
    async with Engine(model=model, journal=journal, clock=clock) as engine, anyio.create_task_group() as group:
        session = await engine.open("s")
        group.start_soon(session.ask, "go")
        await anyio.sleep(10)
        assert session.state is State.ERROR
        await session.close()
    async with Engine(model=model, journal=journal, clock=clock) as engine:
        session = await engine.open("s")
        other = await engine.open("t")
        await anyio.wait_all_tasks_blocked()
        assert (await other.ask("go")).text == "done"
        assert (await session.result()).text == "done"
    assert [50.3 <= moment - model.sent[0] <= 56 for moment in model.sent[1:]] == [True, True]


@pytest.mark.anyio
@pytest.mark.parametrize("back_s", [0.0, 7_200.0])
async def test_f20_a_parked_pause_survives_a_restart_for_every_session(back_s: float) -> None:
    """A new engine that opens a parked session keeps the key's other sessions waiting, also with the clock set back:
    as long as was recorded, and no longer.
    """
    journal = MemoryJournal()
    model = Metered(first(limited(3_600.0)))
    clock = VirtualClock()
    async with Engine(model=model, journal=journal, clock=clock) as engine:
        await (await engine.open("s")).ask("go")
    clock.offset_s -= back_s
    async with Engine(model=model, journal=journal, clock=clock) as engine:
        await engine.open("s")
        other = await engine.open("t")
        assert (await other.ask("go")).outcome is Outcome.WAITING
        await anyio.sleep(3_700)
        assert (await other.result()).text == "done"
        assert all(moment - model.sent[0] >= 3_600.3 for moment in model.sent[1:])


@pytest.mark.anyio
async def test_a6_the_breaker_stops_all_sessions_of_a_key() -> None:
    """A provider that fails is asked three times by ten sessions, then by single probes, until it works again."""
    began = anyio.current_time()
    model = Metered(lambda _: ModelError("down", status=503) if anyio.current_time() < began + 40 else None)
    outcomes: list[Outcome] = []

    async def ask(engine: Engine, number: int) -> None:
        outcomes.append((await (await engine.open(f"s{number}")).ask("go")).outcome)

    async with Engine(model=model, clock=VirtualClock()) as engine, anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(ask, engine, number)
        await anyio.sleep(20)
        assert engine.stats().gates["provider#1"].breaker == "open"
    assert engine.stats().gates == {}
    failed = [moment - began for moment in model.sent if moment < began + 40]
    assert 3 <= len([moment for moment in failed if moment < 30]) <= 4 + 3
    assert len([moment for moment in failed if moment > 30]) == 1


@pytest.mark.anyio
async def test_f20_a_long_wait_parks_without_a_key_too() -> None:
    """A model without a quota has no gate, and yet nothing sleeps in a turn for longer than `park_after_s`."""
    model = Metered(first(limited(30.0)), key=None)
    async with Engine(model=model, limits=Limits(park_after_s=20), clock=VirtualClock()) as engine:
        session = await engine.open("s")
        assert (await session.ask("go")).outcome is Outcome.WAITING
        await anyio.sleep(40)
        assert (await session.result()).text == "done"
        assert model.sent[1] - model.sent[0] >= 30


@pytest.mark.anyio
async def test_v24_the_rate_that_was_configured_holds_for_all_sessions() -> None:
    """At 60 requests a minute ten sessions at once are sent one second apart."""
    model = Metered(lambda _: None)
    async with Engine(model=model, limits=Limits(requests_per_minute=60)) as engine, anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon((await engine.open(f"s{number}")).ask, "go")
    assert [round(moment - model.sent[0], 6) for moment in model.sent] == list(range(10))


@pytest.mark.anyio
@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
@pytest.mark.parametrize("key", ["provider#1", None])
async def test_a6_a_wrong_request_is_never_tried_again(status: int, key: str | None) -> None:
    """Whatever the adapter claims about it, one request is sent, and the turn fails."""
    model = Metered(lambda _: ModelError("no", status=status, retryable=True), key)
    async with Engine(model=model) as engine:
        assert (await (await engine.open("s")).ask("go")).outcome is Outcome.FAILED
    assert len(model.sent) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("key", ["provider#1", None])
@pytest.mark.parametrize("retries", [0, 2, 3])
async def test_d8_there_is_exactly_one_retry_layer(retries: int, key: str | None) -> None:
    """A model that always refuses is asked once and `max_model_retries` times more, with a gate and without one."""
    model = Metered(lambda _: limited(1.0), key)
    async with Engine(model=model, limits=Limits(max_model_retries=retries)) as engine:
        assert (await (await engine.open("s")).ask("go")).outcome is Outcome.FAILED
    assert len(model.sent) == 1 + retries


@pytest.mark.anyio
async def test_v24_without_a_key_the_wish_is_the_floor_and_jitter_comes_on_top() -> None:
    """A model without a quota waits as long as it was told, and up to the back-off more, recorded in the plan."""
    model = Metered(first(limited(10.0)), key=None)
    async with Engine(model=model) as engine:
        await (await engine.open("s")).ask("go")
        (delay,) = [
            effect.plan.delay_s
            async for record in engine.history("s")
            for effect in record.effects
            if effect.kind == "recover"
        ]
    assert 10.0 <= delay <= 15.0
    assert model.sent[1] - model.sent[0] == pytest.approx(0.3 + delay)


@pytest.mark.anyio
async def test_d8_a_turn_that_is_cancelled_at_the_gate_gives_its_place_back() -> None:
    """A session that waits for the gate and is cancelled ends as cancelled; the others are served."""
    model = Metered(first(limited(20.0)))
    async with Engine(model=model) as engine, anyio.create_task_group() as group:
        one, two, three = [await engine.open(name) for name in ("a", "b", "c")]
        group.start_soon(one.ask, "go")
        await anyio.sleep(1)
        group.start_soon(two.ask, "go")
        group.start_soon(three.ask, "go")
        await anyio.sleep(1)
        assert two.state is State.GENERATING_RESPONSE
        await two.cancel()
        assert (await two.result()).outcome is Outcome.CANCELLED
        assert (await three.result()).text == "done"
    assert len(model.sent) == 3
