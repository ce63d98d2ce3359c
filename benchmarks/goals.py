"""The goals, and how a run stands to them.

May import the numbers only. `required` is what a release must hold; `goal` is what later work aims at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from .numbers import Number

Verdict = Literal["ok", "above", "below"]


class Goal(NamedTuple):
    """A bound on one number: at most, or at least where `at_least`."""

    number: str
    what: str
    required: float | None
    goal: float | None
    at_least: bool = False

    def verdict(self, value: float, bound: float | None) -> Verdict | None:
        """Return how a value stands to a bound; None where there is no bound."""
        if bound is None:
            return None
        if self.at_least:
            return "ok" if value >= bound else "below"
        return "ok" if value <= bound else "above"


GOALS: tuple[Goal, ...] = (
    Goal("step.index.cpu", "step by the index, µs an event", None, 6),
    Goal("step.index_to_transitions.cpu_ratio", "step against transitions alone", None, 1),
    Goal("turn.memory.asyncio.cpu_ratio", "standard turn in memory, asyncio, × floor", 12, 5),
    Goal("turn.memory.trio.cpu_ratio", "standard turn in memory, trio, × floor", 12, 5),
    Goal("turn.durable.ram.wall_ratio", "standard turn durable, RAM disk, × durable floor", 12, 4),
    Goal("turn.durable.ram.cpu_ratio", "the same by processor time", 12, 4),
    Goal("turn.durable.ram.commits", "commits a standard turn", None, 8),
    Goal("turn.durable.ram.bytes_above_content", "bytes a record above 1.5 × content", None, 300),
    Goal("guards.default.cpu_share", "guards of an engine as it comes, share of a turn's overhead", 0.25, 0.15),
    Goal("guards.all.cpu_share", "the same with every guard switched on", None, 0.25),
    Goal("growth.turn_2000.cpu_ratio", "a turn at turn 2,000, × at turn 20", 1.2, 1.1),
    Goal("growth.turn_10000.cpu_ratio", "a turn at turn 10,000, × at turn 20", None, 1.1),
    Goal("open.for_10000_turns.wall", "open a session of 10,000 turns, s", 2, 2),
    Goal("open.by_checkpoint.wall", "the same by its checkpoint, s", 0.05, 0.05),
    Goal("fork.sqlite.last.wall", "fork at the end of a long history, SQLite, ms", 10, 10),
    Goal("replay.memory.cpu", "verified records a second a core", 40_000, 60_000, at_least=True),
    Goal("sessions.memory.share_of_floor", "1,000 sessions, tools of 10 ms, × floor", None, 0.2, at_least=True),
    Goal("sessions.durable.disk.group_gain", "100 sessions at once against one, real disk", None, 20, at_least=True),
    Goal("workers.memory_kill.after_crossing", "2 GB under 200 MB: dead after crossing, ms", 300, 100),
    Goal("workers.memory_kill.host_growth", "what the engine grows by meanwhile, MiB", 20, 5),
    Goal("workers.host_kill.orphans_after_1_s", "processes left 1 s after the host was killed", 0, 0),
    Goal("rate.requests_a_useful", "50 sessions on one refusal, requests a useful one", 1.1, 1.1),
    Goal("lag.beside_sync_tool.p99", "loop lag while a sync tool sleeps, p99, ms", 50, 10),
    Goal("inspector.of_100000.usable.wall", "a page of 100,000 records can be used, s", None, 2),
    Goal("inspector.of_100000.filter", "a filter over 100,000 records, ms", None, 100),
    Goal("import_time.cpu_ratio", "import engine, × its five dependencies", 1.5, 1.4),
    Goal("import_time.first_name.cpu_ratio", "the same and load all of it", None, 1.4),
)  # fmt: skip


class Standing(NamedTuple):
    """How one number of a run stands to its goal."""

    goal: Goal
    value: float
    required: Verdict | None
    wished: Verdict | None


def standings(numbers: Mapping[str, Number]) -> list[Standing]:
    """Return how the numbers of a run stand to the goals; goals without a number in this run are left out."""
    found: list[Standing] = []
    for goal in GOALS:
        number = numbers.get(goal.number)
        if number is not None:
            value = number.median
            found.append(Standing(goal, value, goal.verdict(value, goal.required), goal.verdict(value, goal.goal)))
    return found
