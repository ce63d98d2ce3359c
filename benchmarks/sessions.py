"""sessions: many at once, in memory with tools of 10 ms, and durable, where they share commits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

import anyio

from engine import Session
from engine.journal import SqliteJournal

from . import places
from .floors import Floor
from .numbers import Effort, Laps, Number, Result, check, mark
from .workload import STANDARD, check_answers, check_turn, new_engine, prompt


def measure(effort: Effort, disk: Path) -> Result:
    """Return turns a second in memory, with its floor in turn, and of one session and many in a durable journal."""
    numbers = [*anyio.run(_memory, effort.sessions, effort.runs)]
    with places.both(disk) as found:
        for place in found:
            numbers += anyio.run(_durable, place, effort)
    return Result(tuple(numbers), places.notes())


async def _memory(count: int, runs: int) -> tuple[Number, ...]:
    floors = [Floor(STANDARD, slow=True) for _ in range(count)]
    bare, ours = Laps(), Laps()
    async with new_engine(STANDARD, slow=True) as engine:
        sessions = [await engine.open(f"bench{number}") for number in range(count)]
        for turn in range(runs):
            answers: list[str] = []
            since = mark()
            async with anyio.create_task_group() as group:
                for floor in floors:
                    group.start_soon(partial(_floor_turn, floor, turn, answers))
            bare.add(since, count)
            check_answers(answers, [turn] * count, STANDARD)
            since = mark()
            await _all_ask(sessions, range(turn, turn + 1))
            ours.add(since, count)
    share = median(bare.wall_ns) / median(ours.wall_ns)
    return (
        *bare.rates(f"sessions.memory_{count}.floor", "turns/s"),
        *ours.rates(f"sessions.memory_{count}.ours", "turns/s"),
        Number("sessions.memory.share_of_floor", "×", share),
    )


async def _floor_turn(floor: Floor, turn: int, answers: list[str]) -> None:
    answers.append(await floor.turn(turn))


async def _durable(place: places.Place, effort: Effort) -> tuple[Number, ...]:
    """Let one session run turns, then many sessions as many each, run by run."""
    journal = SqliteJournal(place.folder / "sessions.db")
    alone, together = Laps(), Laps()
    alone_turns = max(1, effort.disk_turns // 2)
    appends = commits = 0
    async with new_engine(STANDARD, journal) as engine:
        one = await engine.open("alone")
        many = [await engine.open(f"bench{number}") for number in range(effort.group)]
        for run in range(effort.runs):
            since = mark()
            await _ask(one, range(run * alone_turns, (run + 1) * alone_turns))
            alone.add(since, alone_turns)
            commits -= journal.commits
            since = mark()
            await _all_ask(many, range(run, run + 1))
            together.add(since, effort.group)
            commits += journal.commits
            appends += effort.group
        records = one.seq + sum(session.seq for session in many)
    again = SqliteJournal(journal.path)
    held = sum(info.records for info in await again.sessions())
    await again.aclose()
    check(held == records, f"{held} records are stored of {records}")
    name = f"sessions.durable.{place.label}"
    return (
        *alone.rates(f"{name}.one", "turns/s"),
        *together.rates(f"{name}.together_{effort.group}", "turns/s"),
        Number(f"{name}.group_gain", "×", median(alone.wall_ns) / median(together.wall_ns)),
        Number(f"{name}.commits_a_turn_together", "commits a turn", commits / appends),
    )


async def _all_ask(sessions: Sequence[Session], turns: range) -> None:
    async with anyio.create_task_group() as group:
        for session in sessions:
            group.start_soon(partial(_ask, session, turns))


async def _ask(session: Session, turns: range) -> None:
    for turn in turns:
        check_turn(await session.ask(prompt(turn)), turn, STANDARD)
