"""Dwell times and the watch for sessions that do not get on."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given, strategies as st

from engine.core.events import Recovered
from engine.core.record import TransitionRecord
from engine.core.values import State
from engine.errors import UsageError
from engine.runtime.dwell import DwellTimes, Sketch, Stuck, StuckWatch
from engine.testing.scheduling import counting_steps
from tests.runtime.scenes import VirtualClock

pytestmark = pytest.mark.virtual_time


def move(session: str, source: State, dest: State, mono_ns: int = 0, seq: int = 1) -> TransitionRecord:
    """Return a record of a transition."""
    return TransitionRecord(1, session, seq, "", mono_ns, "recovered", source, dest, Recovered(), (), "", "", "")


@given(st.lists(st.integers(0, 2 * 10**15), min_size=1), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_v28_quantiles_are_at_most_3_2_percent_off(durations: list[int], share: float) -> None:
    """Whatever was counted, a quantile is within 3.2 % of the true one."""
    sketch = Sketch()
    for duration_ns in durations:
        sketch.add(duration_ns)
    exact = next(duration for rank, duration in enumerate(sorted(durations), 1) if rank >= share * len(durations))
    assert sketch.quantile_ns(share) == pytest.approx(exact, rel=0.032)
    assert (sketch.count, sketch.total_ns, sketch.max_ns) == (len(durations), sum(durations), max(durations))


def test_v28_a_sketch_takes_any_duration() -> None:
    """Clocks that go backwards and stays of months are counted at the ends of the scale."""
    sketch = Sketch()
    assert sketch.quantile_ns(0.5) == 0
    sketch.add(-5)
    sketch.add(2**60)
    assert sketch.quantile_ns(0.5) == 0
    assert sketch.quantile_ns(1.0) < sketch.max_ns == 2**60


def test_v28_dwell_times_are_those_between_changes_of_state() -> None:
    """A stay begins and ends with a change of state, not with every record; sessions do not mix."""
    times = DwellTimes()
    times.see([move("a", State.IDLE, State.PROCESSING, 1_000_000_000)])
    times.see([move("b", State.IDLE, State.PROCESSING, 1_500_000_000)])
    times.see([move("a", State.PROCESSING, State.PROCESSING, 2_000_000_000)])
    times.see([move("a", State.PROCESSING, State.GENERATING_RESPONSE, 4_000_000_000)])
    times.see([move("b", State.PROCESSING, State.GENERATING_RESPONSE, 2_500_000_000)])
    dwell = times.times()
    assert dwell.keys() == {State.PROCESSING}
    assert dwell[State.PROCESSING][:3] == (2, 4.0, 3.0)
    assert dwell[State.PROCESSING].median_s == pytest.approx(1.0, rel=0.032)
    assert dwell[State.PROCESSING].p99_s == pytest.approx(3.0, rel=0.032)


def test_v28_a_forgotten_session_begins_anew() -> None:
    """After a session was closed the time until it is opened again is no stay."""
    times = DwellTimes()
    times.see([move("a", State.IDLE, State.PROCESSING, 1)])
    times.forget("a")
    times.see([move("a", State.PROCESSING, State.IDLE, 10**12)])
    assert times.times() == {}


class Watched:
    """A watch, and what it has reported."""

    def __init__(self, bound_s: float = 10) -> None:
        self.stuck: list[Stuck] = []
        self._clock = VirtualClock()
        self.watch = StuckWatch(bound_s, self._clock, self.stuck.append)

    def enter(self, session: str, state: State, seq: int = 1) -> None:
        """Let a session come to a state."""
        self.watch.see(move(session, State.IDLE, state, self._clock.monotonic_ns(), seq))


@pytest.mark.anyio
async def test_v28_a_stuck_session_is_reported_once() -> None:
    """A stay beyond the bound is reported when the bound passes, with its newest record, and not again."""
    watched = Watched()
    async with anyio.create_task_group() as group:
        group.start_soon(watched.watch.serve)
        await anyio.sleep(1)
        watched.enter("a", State.EXECUTING_TOOLS, 7)
        await anyio.sleep(4)
        watched.enter("a", State.EXECUTING_TOOLS, 8)
        await anyio.sleep(100)
        watched.enter("a", State.EXECUTING_TOOLS, 9)
        await anyio.sleep(100)
        group.cancel_scope.cancel()
    (stuck,) = watched.stuck
    assert stuck[:3] == ("a", State.EXECUTING_TOOLS, 8)
    assert stuck.for_s == pytest.approx(10)


@pytest.mark.anyio
async def test_v28_a_new_stay_of_a_reported_session_is_watched() -> None:
    """Once a session has got on, it is reported again if it gets stuck again."""
    watched = Watched()
    async with anyio.create_task_group() as group:
        group.start_soon(watched.watch.serve)
        watched.enter("a", State.PROCESSING)
        await anyio.sleep(20)
        watched.enter("a", State.GENERATING_RESPONSE)
        await anyio.sleep(20)
        group.cancel_scope.cancel()
    assert [stuck.state for stuck in watched.stuck] == [State.PROCESSING, State.GENERATING_RESPONSE]


@pytest.mark.anyio
@pytest.mark.parametrize("rest", [State.IDLE, State.WAITING_FOR_USER, State.SHUTDOWN])
async def test_v28_a_session_that_rests_or_gets_on_is_not_reported(rest: State) -> None:
    """Waiting for a person or a prompt is no work, and every change of state begins a new stay."""
    watched = Watched()
    async with anyio.create_task_group() as group:
        group.start_soon(watched.watch.serve)
        for state in (State.PROCESSING, State.GENERATING_RESPONSE, State.EXECUTING_TOOLS, State.ERROR, rest):
            watched.enter("a", state)
            await anyio.sleep(9)
        watched.enter("b", State.PROCESSING)
        watched.watch.forget("b")
        await anyio.sleep(100)
        group.cancel_scope.cancel()
    assert watched.stuck == []


@pytest.mark.anyio
async def test_v28_one_timer_finds_every_stuck_session() -> None:
    """Sessions that began at different times are reported in the order in which their bounds pass."""
    watched = Watched()
    async with anyio.create_task_group() as group:
        group.start_soon(watched.watch.serve)
        for number in range(50):
            watched.enter(f"s{number}", State.PROCESSING)
            await anyio.sleep(0.1)
        watched.enter("s0", State.GENERATING_RESPONSE)
        await anyio.sleep(30)
        group.cancel_scope.cancel()
    assert [stuck.session for stuck in watched.stuck] == [*(f"s{number}" for number in range(1, 50)), "s0"]


@pytest.mark.anyio
async def test_v5_watch_wakes_nothing_while_the_engine_rests() -> None:
    """However many turns were watched, at most one look is left when all sessions rest."""
    watched = Watched()
    async with anyio.create_task_group() as group:
        group.start_soon(watched.watch.serve)
        for number in range(1000):
            watched.enter(f"s{number % 100}", State.PROCESSING)
            watched.enter(f"s{number % 100}", State.IDLE)
            await anyio.sleep(0.001)
        # The first look finds all of them at rest; without that there would be ninety more.
        await anyio.sleep(9.05)
        with counting_steps() as steps:
            await anyio.sleep(3600)
        assert steps.count <= 2
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_v28_a_second_start_of_the_watch_is_an_error() -> None:
    """One task watches all sessions; another is refused."""
    watched = Watched()
    async with anyio.create_task_group() as group:
        group.start_soon(watched.watch.serve)
        await anyio.sleep(1)
        with pytest.raises(UsageError, match="served already"):
            await watched.watch.serve()
        group.cancel_scope.cancel()
