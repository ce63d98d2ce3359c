"""append: what it costs each journal to keep one record, and a batch of them; how many sessions share a commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import anyio

from engine import TransitionRecord
from engine.journal import JsonlJournal, MemoryJournal, SqliteJournal
from engine.ports import Journal, Writer
from engine.testing.records import chain

from . import places
from .numbers import Effort, Laps, Number, Result, check, mark

_BATCH = 5
"""Records that become durable together in a round of the standard turn: ends of two calls, context, and neighbours."""
_APPENDS_A_SESSION = 5


def measure(effort: Effort, disk: Path) -> Result:
    """Return µs an append of one record and of a batch, and appends a commit, journal by journal and place by place."""
    numbers = [*anyio.run(_appends, "append.memory", MemoryJournal(), effort.turns)]
    with places.both(disk) as found:
        for place in found:
            count = effort.turns if place.label == "ram" else effort.disk_turns
            numbers.append(places.flush_number(place, count))
            for kind, make in _durable(place.folder).items():
                name = f"append.{kind}.{place.label}"
                numbers += anyio.run(_appends, name, make("one"), count)
                numbers += anyio.run(_shared, name, make("many"), effort.group)
    return Result(tuple(numbers), places.notes())


def _durable(folder: Path) -> dict[str, Callable[[str], SqliteJournal | JsonlJournal]]:
    return {
        "jsonl": lambda name: JsonlJournal(folder / f"{name}.jsonl"),
        "sqlite": lambda name: SqliteJournal(folder / f"{name}.db"),
    }


async def _appends(name: str, journal: Journal, count: int) -> tuple[Number, ...]:
    """Append `count` single records and as many batches, one after the other, each kind in turn."""
    records = chain("bench", 1 + count * (1 + _BATCH))
    writer = await journal.claim("bench")
    await writer.append(records[:1])
    single, batch = Laps(), Laps()
    place = 1
    for _ in range(count):
        since = mark()
        await writer.append(records[place : place + 1])
        single.add(since)
        since = mark()
        await writer.append(records[place + 1 : place + 1 + _BATCH])
        batch.add(since)
        place += 1 + _BATCH
    await _check_stored(journal, writer, len(records))
    await journal.aclose()
    return *single.numbers(f"{name}.one"), *batch.numbers(f"{name}.batch_of_{_BATCH}")


async def _shared(name: str, journal: SqliteJournal | JsonlJournal, sessions: int) -> tuple[Number, ...]:
    """Let sessions append one record at a time, all at once."""
    histories = [chain(f"bench{number}", _APPENDS_A_SESSION) for number in range(sessions)]
    writers = [await journal.claim(records[0].session) for records in histories]
    before, laps, since = journal.commits, Laps(), mark()
    async with anyio.create_task_group() as group:
        for writer, records in zip(writers, histories, strict=True):
            group.start_soon(partial(_one_by_one, writer, records))
    appends = sessions * _APPENDS_A_SESSION
    laps.add(since, appends)
    commits = journal.commits - before
    for writer in writers:
        await writer.release()
    held = sum(info.records for info in await journal.sessions())
    await journal.aclose()
    check(held == appends, f"{name}: {held} records are stored of {appends}")
    check(commits > 0, f"{name}: nothing was committed")
    shared = Number(f"{name}.shared.appends_a_commit", "appends", appends / commits)
    return shared, *laps.numbers(f"{name}.shared")


async def _one_by_one(writer: Writer, records: Sequence[TransitionRecord]) -> None:
    for record in records:
        await writer.append([record])


async def _check_stored(journal: Journal, writer: Writer, count: int) -> None:
    await writer.release()
    held = sum(info.records for info in await journal.sessions())
    check(held == count, f"{held} records are stored of {count}")
