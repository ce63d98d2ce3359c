"""The gate that all sessions of an engine share, in virtual time: pauses, fairness, patience, cancellation."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings, strategies as st

from engine.runtime.breaker import COOLDOWN_S, THRESHOLD
from engine.runtime.governor import Closed, Governor, Pass
from engine.runtime.quota import FIRST_WINDOW, QuotaSettings
from engine.testing.scheduling import counting_steps, virtual_time

pytestmark = pytest.mark.virtual_time

BACKENDS: tuple[Literal["asyncio", "trio"], ...] = ("asyncio", "trio")
KEY = "provider#1"


def governor(seed: int = 0, **given: float) -> Governor:
    return Governor(QuotaSettings.model_validate(given), Random(seed))  # noqa: S311 - jitter is no secret


async def trip(gate: Governor) -> None:
    """Let the breaker open."""
    for _ in range(THRESHOLD):
        with await admitted(gate) as right:
            right.failed()


async def admitted(gate: Governor, key: str = KEY) -> Pass:
    found = await gate.admit(key)
    assert isinstance(found, Pass)
    return found


class Provider:
    """Refuses whatever comes before `refuse_until`; the rest is answered. Each takes `latency_s`."""

    def __init__(self, refuse_until: float, wish_s: float | None, latency_s: float = 0.3) -> None:
        self.refuse_until = refuse_until
        self.wish_s = wish_s
        self.latency_s = latency_s
        self.sent: list[float] = []
        self.refused: list[float] = []

    async def ask(self) -> bool:
        sent = anyio.current_time()
        self.sent.append(sent)
        await anyio.sleep(self.latency_s)
        if sent >= self.refuse_until:
            return True
        self.refused.append(anyio.current_time())
        return False


async def turn(gate: Governor, provider: Provider) -> None:
    """Ask until there is an answer, as an engine does: after a refusal wait for the gate, then queue again."""
    while True:
        with await admitted(gate) as right:
            if await provider.ask():
                right.succeeded()
                return
            right.limited(provider.wish_s)
        assert await gate.opened(KEY, -math.inf) is None


async def storm(gate: Governor, provider: Provider, sessions: int) -> None:
    with anyio.fail_after(3_600):
        async with anyio.create_task_group() as group:
            for _ in range(sessions):
                group.start_soon(turn, gate, provider)


# --- one refusal pauses all -------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("sessions", [50, 1_000])
async def test_f20_v24_d8_a_storm_on_one_refusal(sessions: int) -> None:
    """Many sessions start at once and are told Retry-After 2: nothing is sent before, hardly a request is wasted."""
    gate = governor()
    began = anyio.current_time()
    provider = Provider(began + 2, wish_s=2.0)
    await storm(gate, provider, sessions)
    told = provider.refused[0]
    assert not [moment for moment in provider.sent if told < moment < told + 2]
    assert len(provider.sent) - sessions == len(provider.refused) == FIRST_WINDOW
    assert len(provider.sent) <= 1.1 * sessions


@settings(max_examples=60)
@given(
    st.sampled_from(BACKENDS),
    st.integers(1, 40),
    st.none() | st.floats(0.1, 50),
    st.floats(0, 20),
    st.integers(0, 2**32),
)
def test_f20_no_request_while_the_provider_wants_none(
    backend: Literal["asyncio", "trio"], sessions: int, wish_s: float | None, refuse_s: float, seed: int
) -> None:
    """Property: after each refusal nothing is sent on the key for as long as it asked, and everybody is served."""

    async def main() -> None:
        gate = governor(seed, park_after_s=10_000)
        provider = Provider(anyio.current_time() + refuse_s, wish_s)
        await storm(gate, provider, sessions)
        assert len(provider.sent) == sessions + len(provider.refused)
        for told in provider.refused:
            assert not [moment for moment in provider.sent if told < moment < told + (wish_s or 0)]

    name, options = virtual_time(backend)
    anyio.run(main, backend=name, backend_options=options)


@pytest.mark.anyio
@pytest.mark.parametrize("burst", [1, 5])
async def test_f20_a_configured_rate_holds_through_a_storm(burst: int) -> None:
    """1,000 sessions at 600 a minute after one refusal: no second sees more than 10 and the burst."""
    gate = governor(requests_per_minute=600, burst=burst, park_after_s=1_000)
    provider = Provider(anyio.current_time() + 1, wish_s=2.0)
    await storm(gate, provider, 1_000)
    sent = [moment - provider.sent[0] for moment in provider.sent]
    for start in sent:
        assert sum(start <= moment < start + 1 - 1e-6 for moment in sent) <= 10 + burst - 1


@pytest.mark.anyio
async def test_d8_a_key_s_pause_is_its_own() -> None:
    """A refusal on one key leaves the others open."""
    gate = governor()
    with await admitted(gate, "a") as right:
        right.limited(30.0)
    began = anyio.current_time()
    with await admitted(gate, "b") as right:
        right.succeeded()
    assert anyio.current_time() == began
    assert gate.not_before("b") < began < began + 30 <= gate.not_before("a")


@pytest.mark.anyio
async def test_v24_a_recovery_waits_for_the_gate() -> None:
    """Waiting for the gate takes no place in it, and outlasts a pause that grows meanwhile."""
    gate = governor()
    began = anyio.current_time()
    gate.hold(KEY, began + 10)
    async with anyio.create_task_group() as group:
        group.start_soon(partial(gate.opened, KEY, began + 3))
        await anyio.sleep(5)
        gate.hold(KEY, began + 25)
        assert await gate.opened(KEY, began) is None
    assert anyio.current_time() == began + 25
    assert gate.snapshot()[KEY].admitted == 0


@pytest.mark.anyio
async def test_v24_without_a_key_a_recovery_waits_for_its_own_time() -> None:
    """A model without a quota key has no gate: what is waited for is the plan's own delay."""
    gate = governor()
    began = anyio.current_time()
    assert await gate.opened(None, began + 7) is None
    assert anyio.current_time() == began + 7
    assert gate.snapshot() == {}


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_d8_the_gate_is_first_come_first_served() -> None:
    """Whoever waits is served in the order of arrival, also when newcomers meet a gate that has just opened."""
    gate = governor()
    gate.hold(KEY, anyio.current_time() + 5)
    served: list[int] = []

    async def one(number: int) -> None:
        with await admitted(gate) as right:
            served.append(number)
            await anyio.sleep(0.1)
            right.succeeded()

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(one, number)
            await anyio.wait_all_tasks_blocked()
        await anyio.sleep_until(gate.not_before(KEY))
        for number in range(20, 40):
            group.start_soon(one, number)
            await checkpoint()
    assert served == list(range(40))


@pytest.mark.anyio
async def test_d8_an_open_gate_does_not_even_yield() -> None:
    """Passing an open gate is synchronous: no step of the event loop goes by."""
    gate = governor()
    with counting_steps() as steps:
        right = await gate.admit(KEY)
        assert steps.count == 0
    assert isinstance(right, Pass)


# --- patience ---------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("wait", ["admit", "opened"])
async def test_f20_nobody_sleeps_longer_than_park_after_s(wait: str) -> None:
    """A pause of up to 60 s is sat out; for a longer one the answer comes at once and says until when."""
    gate = governor()
    began = anyio.current_time()

    async def ask() -> object:
        return await (gate.admit(KEY) if wait == "admit" else gate.opened(KEY, began))

    gate.hold(KEY, began + 60)
    assert not isinstance(await ask(), Closed)
    assert anyio.current_time() == began + 60
    gate.hold(KEY, began + 180)
    assert await ask() == Closed(began + 180, for_all=True)
    assert anyio.current_time() == began + 60


@pytest.mark.anyio
@pytest.mark.parametrize("wait", ["admit", "opened"])
async def test_f20_nobody_sleeps_into_a_deadline(wait: str) -> None:
    """Inside a scope whose deadline comes before the gate opens the answer comes at once."""
    gate = governor()
    began = anyio.current_time()
    gate.hold(KEY, began + 20)
    with anyio.fail_after(15):
        found = await (gate.admit(KEY) if wait == "admit" else gate.opened(KEY, began))
    assert found == Closed(began + 20, for_all=True)
    assert anyio.current_time() == began


@pytest.mark.anyio
async def test_f20_whoever_waits_is_told_when_the_pause_grows() -> None:
    """A hold that outlasts the patience of those who already sleep ends their sleep with the new time."""
    gate = governor()
    began = anyio.current_time()
    gate.hold(KEY, began + 20)
    found: list[object] = []

    async def ask(call: Callable[[], Awaitable[object]]) -> None:
        found.append((await call(), anyio.current_time()))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask, partial(gate.admit, KEY))
        group.start_soon(ask, partial(gate.opened, KEY, began))
        await anyio.sleep(5)
        gate.hold(KEY, began + 500)
    assert found == [(Closed(began + 500, for_all=True), began + 5)] * 4
    assert gate.snapshot()[KEY].waiting == 0


@pytest.mark.anyio
async def test_f20_who_has_the_least_time_is_told_from_the_middle_of_the_queue() -> None:
    """A pause that grows beyond one waiter's own deadline is told to it at once, whoever stands before it."""
    gate = governor()
    began = anyio.current_time()
    gate.hold(KEY, began + 10)
    async with anyio.create_task_group() as group:
        group.start_soon(gate.admit, KEY)
        await anyio.wait_all_tasks_blocked()

        async def in_a_hurry() -> None:
            with anyio.fail_after(15):
                assert await gate.admit(KEY) == Closed(began + 40, for_all=True)
            assert anyio.current_time() == began + 1

        group.start_soon(in_a_hurry)
        await anyio.sleep(1)
        gate.hold(KEY, began + 40)
    assert gate.snapshot()[KEY].admitted == 1


@pytest.mark.anyio
async def test_f20_a_place_too_far_back_is_told_its_own_time() -> None:
    """At 10 requests a minute ten more can wait within 60 s; those behind them are told when their turn would be."""
    gate = governor(requests_per_minute=10)
    began = anyio.current_time()
    found: list[Pass | Closed] = []

    async def ask() -> None:
        found.append(await gate.admit(KEY))
        with found[-1] if isinstance(found[-1], Pass) else await admitted(gate, "other") as right:
            right.succeeded()

    async with anyio.create_task_group() as group:
        for _ in range(14):
            group.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
    assert [entry for entry in found if isinstance(entry, Closed)] == [Closed(began + 66, for_all=False)] * 3
    assert anyio.current_time() == began + 60


# --- the breaker in the gate ------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a6_the_breaker_is_shared_and_one_probe_decides() -> None:
    """Three failures stop every session on the key; after the cooldown one call goes, and its answer lets all go."""
    gate = governor()
    began = anyio.current_time()
    await trip(gate)
    sent: list[float] = []

    async def one() -> None:
        with await admitted(gate) as right:
            sent.append(anyio.current_time() - began)
            await anyio.sleep(4)
            right.succeeded()

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(one)
        await anyio.sleep(1)
        assert gate.snapshot()[KEY].breaker == "open"
        assert gate.snapshot()[KEY].opens_in_s == COOLDOWN_S - 1
        await anyio.sleep_until(began + COOLDOWN_S + 1)
        assert gate.snapshot()[KEY].breaker == "half_open"
        assert gate.snapshot()[KEY].opens_in_s is None
    assert sent == [COOLDOWN_S] + [COOLDOWN_S + 4] * 4
    assert gate.snapshot()[KEY].breaker == "closed"


@pytest.mark.anyio
async def test_a6_a_recovery_leaves_when_the_probe_tells() -> None:
    """Who waits for the gate while a probe is out waits for the probe's end."""
    gate = governor()
    await trip(gate)
    probe = await admitted(gate)
    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(partial(gate.opened, KEY, began))
        await anyio.sleep(9)
        probe.succeeded()
        assert await gate.opened(KEY, began) is None
    assert anyio.current_time() == began + 9


@pytest.mark.anyio
@pytest.mark.parametrize("report", ["limited", "refused", "succeeded", "abandoned"])
async def test_a6_only_failures_trip_it(report: str) -> None:
    """Rate limits, hopeless requests and calls that were given up never open the breaker, however many there are."""
    gate = governor(park_after_s=1e9)
    for _ in range(3 * THRESHOLD):
        with await admitted(gate) as right:
            if report == "limited":
                right.limited(None)
            elif report != "abandoned":
                getattr(right, report)()
    assert gate.snapshot()[KEY].breaker == "closed"


@pytest.mark.anyio
async def test_a6_a_probe_that_is_given_up_lets_the_next_one_probe() -> None:
    """A cancelled probe tells nothing; the first in the queue becomes the probe at once."""
    gate = governor()
    await trip(gate)
    probe = await admitted(gate)
    began = anyio.current_time()
    async with anyio.create_task_group() as group:

        async def next_one() -> None:
            with await admitted(gate) as right:
                right.succeeded()

        group.start_soon(next_one)
        await anyio.wait_all_tasks_blocked()
        assert gate.snapshot()[KEY].waiting == 1
        with probe:
            pass
    assert anyio.current_time() == began
    assert gate.snapshot()[KEY].breaker == "closed"


# --- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_d8_the_first_report_counts() -> None:
    """A pass is used once: a second report, or leaving its block, gives no place back twice."""
    gate = governor()
    with await admitted(gate) as right:
        right.succeeded()
        right.failed()
        assert gate.snapshot()[KEY].in_flight == 0
    assert gate.snapshot()[KEY].in_flight == 0


def cancelled_at(step: int, backend: Literal["asyncio", "trio"]) -> bool:
    """Cancel the second of four waiters right before a step of the event loop; return whether it came to that."""

    async def main() -> bool:
        gate = governor()
        gate.hold(KEY, anyio.current_time() + 5)
        scope = anyio.CancelScope()
        served: list[int] = []

        async def one(number: int) -> None:
            with scope if number == 1 else anyio.CancelScope(), await admitted(gate) as right:
                await anyio.sleep(0.1)
                right.limited(None) if number == 0 else right.succeeded()
                served.append(number)

        with counting_steps(step, scope.cancel) as steps, anyio.fail_after(1_000):
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(one, number)
        assert {0, 2, 3} <= set(served)
        assert (gate.snapshot()[KEY].in_flight, gate.snapshot()[KEY].waiting) == (0, 0)
        return steps.acted

    name, options = virtual_time(backend)
    return anyio.run(main, backend=name, backend_options=options)


@pytest.mark.parametrize("backend", BACKENDS)
def test_d8_cancelling_a_waiter_at_any_step_loses_nothing(backend: Literal["asyncio", "trio"]) -> None:
    """Wherever a waiter is cancelled, the others are served, and no place in flight or in the queue stays behind."""
    step = 1
    while cancelled_at(step, backend):
        step += 1
    assert step > 10


@pytest.mark.anyio
async def test_d8_the_first_in_the_queue_hands_its_alarm_on() -> None:
    """When the waiter that sleeps for all is cancelled, the next one goes at the computed time."""
    gate = governor()
    began = anyio.current_time()
    gate.hold(KEY, began + 5)
    first = anyio.CancelScope()
    served: list[float] = []

    async def one(scope: anyio.CancelScope) -> None:
        with scope, await admitted(gate) as right:
            served.append(anyio.current_time())
            right.succeeded()

    async with anyio.create_task_group() as group:
        for scope in (first, anyio.CancelScope()):
            group.start_soon(one, scope)
            await anyio.wait_all_tasks_blocked()
        first.cancel()
    assert served == [began + 5]
