"""turn: the standard turn in memory and durable, ours and the floor's by turns, in one session each.

They alternate in blocks of ten, not one by one: a short floor turn between two long ones finds the processor's caches
full of somebody else's data, takes half as long again, and the ratio looks better than it is.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import anyio

from engine import Session
from engine.journal import SqliteJournal
from engine.journal.canonical import canonical
from engine.replay import verify_journal

from . import places
from .floors import Floor, RunAll, SqliteSteps, gather, nursery, stored_steps
from .numbers import Effort, Laps, Number, Result, check, mark
from .workload import STANDARD, check_answers, check_turn, new_engine, prompt

_BLOCK = 10
_NO_TRIO = "trio is not installed: the turn was measured on asyncio only"


def measure(effort: Effort, disk: Path) -> Result:
    """Return the standard turn in memory on both event loops, and durable in both places."""
    numbers = [*anyio.run(_memory, "asyncio", gather, effort.turns)]
    notes = places.notes()
    if find_spec("trio"):
        numbers += anyio.run(_memory, "trio", nursery, effort.turns, backend="trio")
    else:
        notes = (*notes, _NO_TRIO)
    with places.both(disk) as found:
        for place in found:
            count = effort.turns if place.label == "ram" else effort.disk_turns
            numbers += anyio.run(_durable, place, count)
    return Result(tuple(numbers), notes)


async def _memory(loop: str, run_all: RunAll, count: int) -> tuple[Number, ...]:
    floor = Floor(STANDARD, run_all)
    async with new_engine(STANDARD) as engine:
        session = await engine.open("bench")
        await _alternate(floor, session, range(_BLOCK))
        pair = await _alternate(floor, session, range(_BLOCK, _BLOCK + count))
    return pair.numbers(f"turn.memory.{loop}")


class _Pair(NamedTuple):
    """The laps of the floor and of ours."""

    bare: Laps
    ours: Laps

    def numbers(self, name: str) -> tuple[Number, ...]:
        bare, ours = self.bare, self.ours
        return *bare.numbers(f"{name}.floor"), *ours.numbers(f"{name}.ours"), *ours.ratios(name, bare)


async def _alternate(floor: Floor, session: Session, turns: range) -> _Pair:
    """Run the turns on both sides, block by block; every answer is checked outside the laps."""
    pair = _Pair(Laps(), Laps())
    for start in turns[::_BLOCK]:
        block = range(start, min(start + _BLOCK, turns.stop))
        answers: list[str] = []
        for turn in block:
            since = mark()
            answers.append(await floor.turn(turn))
            pair.bare.add(since)
        check_answers(answers, block, STANDARD)
        for turn in block:
            since = mark()
            result = await session.ask(prompt(turn))
            pair.ours.add(since)
            check_turn(result, turn, STANDARD)
    return pair


async def _durable(place: places.Place, count: int) -> tuple[Number, ...]:
    """Run turns whose every step is durable before the next begins; then open both stores again and count."""
    name = f"turn.durable.{place.label}"
    steps_path, ours_path = place.folder / "floor.db", place.folder / "ours.db"
    steps, journal = SqliteSteps(steps_path), SqliteJournal(ours_path)
    floor = Floor(STANDARD, gather, steps.store)
    turns = _BLOCK + count
    async with new_engine(STANDARD, journal) as engine:
        session = await engine.open("bench")
        await _alternate(floor, session, range(_BLOCK))
        commits = journal.commits
        pair = await _alternate(floor, session, range(_BLOCK, turns))
        commits = journal.commits - commits
        content_bytes = sum(len(canonical(message)) for message in session.messages)
        records = session.seq
    steps.close()
    kept = stored_steps(steps_path)
    check(kept == turns * STANDARD.steps, f"the floor stored {kept} steps of {turns * STANDARD.steps}")
    await _check_history(ours_path, records)
    stored_bytes, floor_bytes = _size(ours_path), _size(steps_path)
    return (
        *pair.numbers(name),
        Number(f"{name}.commits", "commits a turn", commits / count),
        Number(f"{name}.bytes_a_record", "B", stored_bytes / records),
        Number(f"{name}.bytes_a_step", "B", stored_bytes / kept),
        Number(f"{name}.floor_bytes_a_step", "B", floor_bytes / kept),
        Number(f"{name}.bytes_above_content", "B a record", (stored_bytes - 1.5 * content_bytes) / records),
    )


async def _check_history(path: Path, records: int) -> None:
    journal = SqliteJournal(path)
    (found,) = await verify_journal(journal)
    await journal.aclose()
    check(found.ok and found.records == records, f"{found.records} of {records} records hold: {found.diverged}")


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
