"""The breaker's life, against a reference that is written as the three states it has."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from engine.core.recovery import HOPELESS
from engine.runtime.breaker import COOLDOWN_S, MAX_COOLDOWN_S, THRESHOLD, Breaker


def tripped(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(THRESHOLD):
        breaker.failed(now, breaker.enter())
    return breaker


def test_a6_three_failures_in_a_row_open_it() -> None:
    """Two failures, an answer, two failures: closed; the third in a row opens it for the cooldown."""
    breaker = Breaker()
    for outcome in "ffaff":
        probe = breaker.enter()
        assert breaker.state(5.0) == "closed"
        if outcome == "a":
            breaker.answered(probe)
        else:
            breaker.failed(5.0, probe)
    assert breaker.ready_at() == -math.inf
    breaker.failed(5.0, breaker.enter())
    assert breaker.state(5.0) == "open"
    assert breaker.ready_at() == 5.0 + COOLDOWN_S


def test_a6_half_open_lets_one_probe_pass() -> None:
    """After the cooldown one call passes; until it ends nobody can say when the next may."""
    breaker = tripped()
    assert breaker.state(COOLDOWN_S) == "half_open"
    assert breaker.enter() is True
    assert breaker.ready_at() == math.inf


def test_a6_the_probe_s_answer_closes_it() -> None:
    """An answer to the probe closes it, and three failures are needed again."""
    breaker = tripped()
    breaker.answered(breaker.enter())
    assert breaker.state(COOLDOWN_S) == "closed"
    assert breaker.enter() is False
    breaker.failed(COOLDOWN_S, probe=False)
    assert breaker.state(COOLDOWN_S) == "closed"


def test_a6_a_failing_probe_doubles_the_cooldown_up_to_its_cap() -> None:
    """30 s, 60 s, 120 s … 480 s; an answer brings it back to 30 s."""
    breaker = tripped()
    waits = [breaker.ready_at()]
    for _ in range(6):
        now = breaker.ready_at()
        breaker.failed(now, breaker.enter())
        waits.append(breaker.ready_at() - now)
    assert waits == [30, 60, 120, 240, 480, 480, 480]
    breaker.answered(breaker.enter())
    for _ in range(THRESHOLD):
        breaker.failed(0.0, breaker.enter())
    assert breaker.ready_at() == COOLDOWN_S


@pytest.mark.parametrize("now", [1.0, COOLDOWN_S + 1.0])
def test_a6_what_was_sent_earlier_and_ends_late_is_old_news(now: float) -> None:
    """While it is open or half-open, ends of earlier calls change neither state nor time."""
    breaker = tripped()
    breaker.failed(now, probe=False)
    breaker.answered(probe=False)
    breaker.abandoned(probe=False)
    assert breaker.ready_at() == COOLDOWN_S
    assert breaker.state(now) != "closed"


def test_a6_hopeless_statuses_are_those_of_wrong_requests() -> None:
    """400, 401, 403, 404 and 422 are named; a rate limit and a server's own failure are not among them."""
    assert sorted(HOPELESS) == [400, 401, 403, 404, 422]


class Life(RuleBasedStateMachine):
    """Calls enter, end and are given up in any order, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.state = "closed"
        self.failures = 0
        self.cooldown = COOLDOWN_S
        self.until = 0.0
        self.calls: list[bool] = []

    @rule(by=st.floats(0, 100))
    def time_passes(self, by: float) -> None:
        self.now += by
        if self.state == "open" and self.now >= self.until:
            self.state = "half_open"

    @precondition(lambda self: self.breaker.ready_at() <= self.now)
    @rule()
    def call(self) -> None:
        assert self.state == "closed" or (self.state == "half_open" and True not in self.calls)
        probe = self.breaker.enter()
        assert probe == (self.state == "half_open")
        self.calls.append(probe)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        probe = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.breaker.failed(self.now, probe)
        if probe:
            self.cooldown = min(MAX_COOLDOWN_S, 2 * self.cooldown)
            self.open()
        elif self.state == "closed":
            self.failures += 1
            if self.failures == THRESHOLD:
                self.open()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        probe = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.breaker.answered(probe)
        if probe:
            self.state, self.cooldown = "closed", COOLDOWN_S
        if self.state == "closed":
            self.failures = 0

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        self.breaker.abandoned(self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1))))

    def open(self) -> None:
        self.state, self.until = "open", self.now + self.cooldown

    @invariant()
    def state_is_as_in_the_reference(self) -> None:
        assert self.breaker.state(self.now) == self.state

    @invariant()
    def passes_are_as_in_the_reference(self) -> None:
        may = self.state == "closed" or (self.state == "half_open" and True not in self.calls)
        assert (self.breaker.ready_at() <= self.now) == may

    @invariant()
    def at_most_one_probe_is_out(self) -> None:
        assert sum(self.calls) <= 1


def test_a6_life_of_a_breaker() -> None:
    """Property: state, time and probes follow the reference through any life."""
    run_state_machine_as_test(Life, settings=settings(max_examples=300, stateful_step_count=40))
