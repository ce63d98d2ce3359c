"""The lanes against a model: who is served and when, how long anyone waits, how many places are ever occupied."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import anyio
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.core.values import Priority
from engine.runtime.lanes import HANDICAP, Lane, LaneLimits, Lanes, Pressure, Ticket, lane_of
from engine.tools.threads import run_abandonable

LIMITS = LaneLimits(total=4, control=1, query=3, execute=2, generate=2, queue_alert=4)
SIZES = {Lane.CONTROL: 1, Lane.QUERY: 3, Lane.EXECUTE: 2, Lane.GENERATE: 2}
LOW, NORMAL, HIGH, CRITICAL = Priority


def wake_nobody() -> None:
    """Wake nobody."""


class Taken:
    """A ticket in the model. `overtaken` counts later tickets of its lane that were served while it waited."""

    def __init__(self, number: int, lane: Lane, priority: Priority) -> None:
        self.number, self.lane, self.priority = number, lane, priority
        self.holds = 1
        self.overtaken = 0
        self.arrival = 0
        self.ticket: Ticket | None = None
        self.releases: list[Callable[[], None]] = []

    @property
    def rank(self) -> tuple[int, int]:
        return self.arrival + HANDICAP[self.priority], self.arrival


class LanesMachine(RuleBasedStateMachine):
    """Takes, holds, gives back, halves and restores in any order; a model of two lists says who must run."""

    @initialize()
    def start(self) -> None:
        self.notices: list[Pressure] = []
        self.lanes = Lanes(LIMITS, self.notices.append)
        self.cap = LIMITS.total
        self.serial = self.arrived = 0
        self.running: list[Taken] = []
        self.waiting: list[Taken] = []
        self.woken: list[int] = []
        self.expected: list[int] = []
        self.expected_notices: list[Pressure] = []

    # --- the model ---

    def room(self, lane: Lane) -> bool:
        return len(self.running) < self.cap and sum(taken.lane is lane for taken in self.running) < SIZES[lane]

    def serve(self) -> None:
        while served := min(
            (taken for taken in self.waiting if self.room(taken.lane)), key=lambda taken: taken.rank, default=None
        ):
            self.waiting.remove(served)
            self.running.append(served)
            self.expected.append(served.number)
            self.note_pressure()
            for other in self.waiting:
                other.overtaken += other.lane is served.lane and other.arrival < served.arrival

    def note_pressure(self) -> None:
        pressed = bool(self.expected_notices) and not self.expected_notices[-1].over
        if not pressed and len(self.waiting) > 4:
            self.expected_notices.append(Pressure(len(self.waiting), 4, over=False))
        if pressed and len(self.waiting) <= 2:
            self.expected_notices.append(Pressure(len(self.waiting), 4, over=True))

    # --- rules ---

    @rule(lane=st.sampled_from(Lane), priority=st.sampled_from(Priority))
    def take(self, lane: Lane, priority: Priority) -> None:
        self.serial += 1
        taken = Taken(self.serial, lane, priority)
        if self.room(lane):
            assert all(other.lane is not lane for other in self.waiting)
            self.running.append(taken)
        else:
            self.arrived += 1
            taken.arrival = self.arrived
            self.waiting.append(taken)
            self.note_pressure()
        number = self.serial
        taken.ticket = self.lanes.take(lane, priority, lambda: self.woken.append(number))

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        taken = data.draw(st.sampled_from(self.running + self.waiting))
        assert taken.ticket is not None
        taken.releases.append(taken.ticket.hold())

    @precondition(lambda self: self.running or self.waiting)
    @rule(data=st.data(), twice=st.booleans())
    def give_back(self, data: st.DataObject, twice: bool) -> None:
        taken = data.draw(st.sampled_from(self.running + self.waiting))
        release_hold: bool = data.draw(st.booleans())
        if taken.releases and release_hold:
            release = taken.releases.pop()
            last = taken.holds == 0 and not taken.releases
        elif taken.holds:
            taken.holds = 0
            assert taken.ticket is not None
            release, twice = taken.ticket.give_back, False
            last = not taken.releases
        else:
            return
        if last:
            self.end(taken)
        release()
        if twice:
            release()

    def end(self, taken: Taken) -> None:
        if taken in self.waiting:
            self.waiting.remove(taken)
            self.note_pressure()
        else:
            self.running.remove(taken)
            self.serve()

    @rule()
    def halve(self) -> None:
        self.cap = max(1, self.cap // 2)
        assert self.lanes.halve() == self.cap

    @rule()
    def restore(self) -> None:
        self.cap = min(LIMITS.total, self.cap + 1)
        self.serve()
        assert self.lanes.restore() == self.cap

    # --- what always holds ---

    @invariant()
    def served_as_the_model_says(self) -> None:
        assert self.woken == self.expected
        assert (self.lanes.running, self.lanes.waiting) == (len(self.running), len(self.waiting))
        assert self.lanes.cap == self.cap
        assert all(taken.ticket is not None and taken.ticket.granted for taken in self.running)
        assert not any(taken.ticket is not None and taken.ticket.granted for taken in self.waiting)
        for lane in Lane:
            stats = self.lanes.stats(lane)
            assert stats.running == sum(taken.lane is lane for taken in self.running) <= SIZES[lane]
            assert stats.waiting == sum(taken.lane is lane for taken in self.waiting)

    @invariant()
    def nobody_is_overtaken_more_often_than_promised(self) -> None:
        for taken in self.waiting + self.running:
            assert taken.overtaken <= max(0, HANDICAP[taken.priority] - 1)

    @invariant()
    def pressure_is_said_once_and_once_when_over(self) -> None:
        assert self.notices == self.expected_notices
        assert [notice.over for notice in self.notices] == [False, True] * (len(self.notices) // 2) + [False] * (
            len(self.notices) % 2
        )

    @invariant()
    def no_room_is_left_unused(self) -> None:
        assert not any(self.room(taken.lane) for taken in self.waiting)


LanesMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=60)
TestLanes = LanesMachine.TestCase


def queue_up(lanes: Lanes, priorities: list[Priority], served: list[int]) -> list[Ticket]:
    return [
        lanes.take(Lane.QUERY, priority, partial(served.append, number)) for number, priority in enumerate(priorities)
    ]


@pytest.mark.parametrize("victim", Priority)
@pytest.mark.parametrize("rivals", Priority)
def test_a14_endless_stream_of_rivals_starves_nobody(victim: Priority, rivals: Priority) -> None:
    """However many tickets of another priority keep coming, one for every place that frees, fewer than the handicap of
    the victim's priority are served before it; and none if theirs is not higher.
    """
    lanes = Lanes(LaneLimits(total=1))
    running = lanes.take(Lane.QUERY, NORMAL, wake_nobody)
    waiting = lanes.take(Lane.QUERY, victim, wake_nobody)
    before = 0
    queue: list[Ticket] = []
    while not waiting.granted and before < 100:
        queue.append(lanes.take(Lane.QUERY, rivals, wake_nobody))
        running.give_back()
        if not waiting.granted:
            running = queue.pop(0)
            assert running.granted
            before += 1
    assert before == max(0, HANDICAP[victim] - HANDICAP[rivals] - 1)


@given(priorities=st.lists(st.sampled_from(Priority), max_size=150))
def test_v34_order_is_by_priority_then_age(priorities: list[Priority]) -> None:
    """With one place, equal priorities are served in the order they came, and everybody is served in the end; nobody is
    passed by more later ones than promised.
    """
    lanes = Lanes(LaneLimits(total=1))
    first = lanes.take(Lane.QUERY, LOW, wake_nobody)
    served: list[int] = []
    tickets = queue_up(lanes, priorities, served)
    first.give_back()
    for place in range(len(priorities)):
        tickets[served[place]].give_back()
    assert sorted(served) == list(range(len(priorities)))
    for priority in Priority:
        mine = [number for number in served if priorities[number] is priority]
        assert mine == sorted(mine)
    for place, number in enumerate(served):
        later = sum(other > number for other in served[:place])
        assert later <= max(0, HANDICAP[priorities[number]] - 1)


def test_v34_urgent_ones_go_first() -> None:
    """Among tickets that came about the same time the higher priority is served first."""
    lanes = Lanes(LaneLimits(total=1))
    first = lanes.take(Lane.QUERY, LOW, wake_nobody)
    served: list[int] = []
    tickets = queue_up(lanes, [LOW, NORMAL, HIGH, CRITICAL], served)
    first.give_back()
    for place in range(3):
        tickets[served[place]].give_back()
    assert served == [3, 2, 1, 0]


def test_full_lane_keeps_no_other_lane_waiting() -> None:
    """Where one lane is full, the tickets of another are served although those of the first came before."""
    lanes = Lanes(LaneLimits(total=4, execute=1))
    lanes.take(Lane.EXECUTE, NORMAL, wake_nobody)
    assert not lanes.take(Lane.EXECUTE, CRITICAL, wake_nobody).granted
    assert lanes.take(Lane.QUERY, LOW, wake_nobody).granted


def test_v23_cap_is_halved_and_restored_one_by_one() -> None:
    """Halving stops at one place and never at none; restoring adds one at a time up to the configured number."""
    lanes = Lanes(LaneLimits(total=9))
    assert [lanes.halve() for _ in range(5)] == [4, 2, 1, 1, 1]
    assert [lanes.restore() for _ in range(9)] == [2, 3, 4, 5, 6, 7, 8, 9, 9]


def test_v23_halving_takes_no_place_away() -> None:
    """What runs when the cap shrinks goes on; nothing new starts until fewer than the new cap run."""
    lanes = Lanes(LaneLimits(total=4))
    running = [lanes.take(Lane.QUERY, NORMAL, wake_nobody) for _ in range(4)]
    lanes.halve()
    waiting = lanes.take(Lane.QUERY, CRITICAL, wake_nobody)
    running.pop().give_back()
    running.pop().give_back()
    assert (lanes.running, waiting.granted) == (2, False)
    running.pop().give_back()
    assert (lanes.running, waiting.granted) == (2, True)


@pytest.mark.anyio
async def test_f5_place_stays_taken_until_the_thread_ends() -> None:
    """A call that was given up on frees its place only when its thread really ends."""
    lanes = Lanes(LaneLimits(total=1))
    ticket = lanes.take(Lane.EXECUTE, NORMAL, wake_nobody)
    entered, free = threading.Event(), threading.Event()
    ended = anyio.Event()
    release = ticket.hold()

    def linger() -> None:
        entered.set()
        free.wait(60)

    def end() -> None:
        release()
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run_abandonable, linger, end)
        await anyio.to_thread.run_sync(entered.wait)
        group.cancel_scope.cancel()
    ticket.give_back()
    waiting = lanes.take(Lane.EXECUTE, CRITICAL, wake_nobody)
    assert (lanes.running, waiting.granted) == (1, False)
    free.set()
    await ended.wait()
    assert (lanes.running, waiting.granted) == (1, True)


def test_pressure_is_told_to_nobody_unless_asked_for() -> None:
    """Without a listener a long queue is just a long queue."""
    lanes = Lanes(LaneLimits(total=1, queue_alert=1))
    tickets = [lanes.take(Lane.QUERY, NORMAL, wake_nobody) for _ in range(5)]
    assert lanes.waiting == 4
    for ticket in tickets:
        ticket.give_back()
    assert (lanes.running, lanes.waiting) == (0, 0)


def test_a14_lane_of_each_effect() -> None:
    """Reads query; whatever changes the world executes."""
    assert [lane_of("read"), lane_of("idempotent"), lane_of("write")] == [Lane.QUERY, Lane.EXECUTE, Lane.EXECUTE]
