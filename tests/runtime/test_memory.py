"""The memory governor: what it decides about any course of memory, and what it does about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, strategies as st

from engine.runtime.memory import Freer, Level, MemoryBounds, MemoryGovernor, MemoryStep, Pressure

BOUNDS = MemoryBounds(limit_bytes=100, soft_bytes=80, places=4, patience=3)
COURSES = st.lists(st.integers(0, 130), max_size=60)


def course(*samples: int, bounds: MemoryBounds = BOUNDS) -> list[tuple[str, ...]]:
    """Return the steps that each sample leads to."""
    pressure = Pressure(bounds.places)
    taken: list[tuple[str, ...]] = []
    for rss_bytes in samples:
        pressure, steps = pressure.after(rss_bytes, bounds)
        taken.append(steps)
    return taken


def pressures(samples: list[int]) -> Iterator[tuple[int, Pressure, Pressure, tuple[str, ...]]]:
    """Yield each sample with the pressure before and after it, and the steps."""
    pressure = Pressure(BOUNDS.places)
    for rss_bytes in samples:
        before = pressure
        pressure, steps = before.after(rss_bytes, BOUNDS)
        yield rss_bytes, before, pressure, steps


@given(COURSES)
def test_v23_tools_are_halved_by_shedding_and_come_back_one_by_one(samples: list[int]) -> None:
    """Whatever memory does, between one and all tools may run; they change by halves downwards and by ones upwards."""
    for _, before, after, steps in pressures(samples):
        assert 1 <= after.places <= BOUNDS.places
        if "shed" in steps:
            assert after.places == max(1, before.places // 2)
        else:
            assert after.places == before.places + ("restore" in steps)


@given(COURSES)
def test_v23_the_places_of_the_engine_follow_the_same_rule(samples: list[int]) -> None:
    """Places of the whole engine are halved and restored as those of a session are, and each comes back as far as it
    goes; without any there is nothing to restore.
    """
    bounds = BOUNDS._replace(in_all=9)
    pressure = Pressure(bounds.places, in_all=9)
    for rss_bytes in samples:
        before = pressure
        pressure, steps = before.after(rss_bytes, bounds)
        if "shed" in steps:
            assert (pressure.places, pressure.in_all) == (max(1, before.places // 2), max(1, before.in_all // 2))
        else:
            more = "restore" in steps
            assert pressure.places == min(bounds.places, before.places + more)
            assert pressure.in_all == min(bounds.in_all, before.in_all + more)
    for _ in range(9 * (bounds.patience + 1)):
        pressure, _ = pressure.after(0, bounds)
    assert (pressure.places, pressure.in_all) == (bounds.places, bounds.in_all)
    assert all(after.in_all == 0 for _, _, after, _ in pressures(samples))


@given(COURSES)
def test_v16_memory_never_refused_below_the_limit(samples: list[int]) -> None:
    """No turn is refused by a sample below the limit, and none admitted again by one at it."""
    for rss_bytes, before, after, steps in pressures(samples):
        assert after.admitting or rss_bytes >= BOUNDS.limit_bytes
        assert ("refuse" in steps) == (before.admitting and not after.admitting)
        assert ("admit" in steps) == (after.admitting and not before.admitting)


@given(COURSES)
def test_v16_two_samples_at_the_limit_refuse(samples: list[int]) -> None:
    """Whatever was before, the second sample in a row at the limit ends the admission."""
    for rss_bytes, before, after, _ in pressures(samples):
        if rss_bytes >= BOUNDS.limit_bytes and before.level is Level.HARD:
            assert not after.admitting


@given(COURSES)
def test_v23_quiet_gives_everything_back(samples: list[int]) -> None:
    """After any course, enough quiet samples lead back to where it began."""
    pressure = Pressure(BOUNDS.places)
    for rss_bytes in [*samples, *[0] * (BOUNDS.places * (BOUNDS.patience + 1))]:
        pressure, _ = pressure.after(rss_bytes, BOUNDS)
    assert (pressure.places, pressure.admitting) == (BOUNDS.places, True)


def test_shedding_is_repeated_with_patience() -> None:
    """Under lasting pressure memory is shed at once, and then every third sample."""
    assert course(80, 80, 80, 80, 80, 80, 80) == [("shed",), (), (), ("shed",), (), (), ("shed",)]


def test_v23_restores_step_by_step_when_quiet() -> None:
    """After shedding, three quiet samples allow one tool more, and three more the next."""
    assert course(80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0) == [
        ("shed",), (), (), (), ("restore",), (), (), ("restore",), (), (), (),
    ]  # fmt: skip


def test_the_limit_is_a_level_of_its_own() -> None:
    """Memory that goes on growing is shed again at the limit, refused there, and admitted below it."""
    assert course(80, 100, 100, 99) == [("shed",), ("shed",), ("refuse",), ("admit",)]


def test_bounds_of_a_limit_in_megabytes() -> None:
    """The soft bound is four fifths of the limit."""
    bounds = MemoryBounds.of(1000, places=4)
    assert (bounds.limit_bytes, bounds.soft_bytes) == (1000 * 1024**2, 800 * 1024**2)


class Host:
    """A process whose memory the test decides, and what a governor does to it.

    Attributes:
        rss_bytes: what it uses now.
        steps: what the governor has told.
    """

    def __init__(self, *freers: Freer, **memory: int) -> None:
        self.rss_bytes = 0
        self.memory = memory
        self.steps: list[MemoryStep] = []
        self.governor = MemoryGovernor(BOUNDS, self.used_bytes, freers, self.steps.append)

    def used_bytes(self) -> int:
        """Return the memory that is not freed."""
        return self.rss_bytes + sum(self.memory.values())

    def freer(self, name: str) -> Callable[[], int]:
        """Return what frees a part of the memory."""
        return lambda: self.memory.pop(name, 0)

    def sample(self, rss_bytes: int) -> list[str]:
        """Take a sample; return the steps that followed from it."""
        self.rss_bytes = rss_bytes
        seen = len(self.steps)
        self.governor.sample()
        return [step.step for step in self.steps[seen:]]


def test_v27_shedding_climbs_the_ladder_and_reports_bytes() -> None:
    """Freers are asked in order, cycles and the heap last; what each says and what the process lost is reported."""
    freed = {"cache": 20, "sessions": 10}
    host = Host(Freer("cache", lambda: freed["cache"]), Freer("sessions", lambda: release()))

    def release() -> int:
        host.rss_bytes -= freed["sessions"]
        return freed["sessions"]

    assert host.sample(90) == ["shed"]
    assert [(one.name, one.claimed_bytes, one.rss_bytes) for one in host.steps[0].freed] == [
        ("cache", 20, 0), ("sessions", 10, 10), ("cycles", 0, 0), ("heap", 0, 0),
    ]  # fmt: skip
    assert (host.steps[0].freed_bytes, host.steps[0].rss_bytes, host.steps[0].places) == (10, 90, 2)


def test_v23_what_shedding_frees_saves_the_turn() -> None:
    """At the limit memory is freed first; only if that is not enough the turns end."""
    host = Host(Freer("cache", lambda: free()))

    def free() -> int:
        host.rss_bytes = 50
        return 70

    assert host.sample(120) == ["shed"]
    assert host.governor.admits()


def test_v16_memory_limit_fires_and_the_engine_is_usable_afterwards() -> None:
    """Nothing to free at the limit: turns are refused, with what to do about it, and admitted when memory has gone."""
    host = Host()
    assert host.sample(110) == ["shed", "refuse"]
    assert "raise max_memory_mb" in host.steps[-1].message
    assert not host.governor.admits()
    host.rss_bytes = 10
    assert host.governor.admits()
    assert host.steps[-1].step == "admit"
    assert host.governor.places == 2


def test_a_freer_that_fails_is_logged_and_the_others_help(caplog: pytest.LogCaptureFixture) -> None:
    """One broken cache does not keep the rest from being freed."""
    caplog.set_level(logging.ERROR, "engine")
    done: list[str] = []

    def fail() -> int:
        raise RuntimeError("stuck")

    def work() -> int:
        done.append("freed")
        return 1

    host = Host(Freer("broken", fail), Freer("working", work))
    assert host.sample(90) == ["shed"]
    assert done == ["freed"]
    assert "memory could not be freed" in caplog.text


def test_v23_a_process_that_is_large_already_can_be_worked_in(caplog: pytest.LogCaptureFixture) -> None:
    """A process above its soft bound before any turn begins under bounds above what it holds, and the log says so."""
    caplog.set_level(logging.WARNING, "engine")
    samples = iter([150, 150, 150, 150, 150, 195, 195])
    taken: list[str] = []
    governor = MemoryGovernor(BOUNDS, lambda: next(samples, 195), (), lambda step: taken.append(step.step))
    assert "raise max_memory_mb" in caplog.text
    assert (governor.places, governor.admits()) == (BOUNDS.places, True)
    for _ in range(4):
        governor.sample()
    assert (governor.places, taken) == (BOUNDS.places, [])
    governor.sample()
    assert taken == ["shed", "refuse"]
    assert not governor.admitting
