"""replay: records verified a second (decode, hash chain, step, compare), beside transitions alone and a plain dict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio

from engine import TransitionRecord
from engine.journal import MemoryJournal, SqliteJournal
from engine.ports import Journal
from engine.replay import verify_journal

from . import places
from .histories import history
from .machines import Bare, run_dict, triggers
from .numbers import Effort, Laps, Result, check, mark
from .workload import STANDARD


def measure(effort: Effort, disk: Path) -> Result:
    """Return records a second, of memory and of SQLite; the four ways take turns."""
    records = history("bench", effort.replay_turns, STANDARD)
    with places.ram_disk(disk) as place:
        return anyio.run(_measure, records, SqliteJournal(place.folder / "bench.db"), effort.runs)


async def _measure(records: Sequence[TransitionRecord], stored: SqliteJournal, runs: int) -> Result:
    in_memory = MemoryJournal()
    for journal in (in_memory, stored):
        writer = await journal.claim("bench")
        await writer.append(records)
        await writer.release()
    names, bare = triggers(len(records)), Bare()
    memory, sqlite, transitions, plain = Laps(), Laps(), Laps(), Laps()
    for _ in range(runs):
        await _verify(in_memory, records, memory)
        await _verify(stored, records, sqlite)
        since = mark()
        bare.run(names)
        transitions.add(since, len(names))
        since = mark()
        run_dict(names)
        plain.add(since, len(names))
    await stored.aclose()
    return Result(
        (
            *memory.rates("replay.memory", "records/s"),
            *sqlite.rates("replay.sqlite", "records/s"),
            *transitions.rates("replay.transitions_alone", "transitions/s"),
            *plain.rates("replay.dict", "transitions/s"),
        ),
        places.notes(),
    )


async def _verify(journal: Journal, records: Sequence[TransitionRecord], laps: Laps) -> None:
    since = mark()
    (found,) = await verify_journal(journal)
    laps.add(since, len(records))
    check(found.ok and found.records == len(records), f"only {found.records} records hold: {found.diverged}")
    check(found.hash == records[-1].hash, "the history ends with another hash")
