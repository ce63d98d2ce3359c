"""fork: how long it takes to fork a long history near its beginning, in its middle and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio

from engine import TransitionRecord
from engine.journal import JsonlJournal, MemoryJournal, SqliteJournal
from engine.ports import Journal
from engine.replay import fork
from engine.runtime.clock import SystemClock

from . import places
from .histories import history
from .numbers import Effort, Laps, Number, Result, check, mark
from .workload import SMALL

_PAGE = 2_000
_DEPTHS = {"first": 0.0, "middle": 0.5, "last": 1.0}


def measure(effort: Effort, disk: Path) -> Result:
    """Return milliseconds to fork a session of small turns, by journal and by place."""
    records = history("long", effort.history_turns, SMALL)
    numbers: list[Number] = [Number("fork.records", "records", len(records))]
    with places.ram_disk(disk) as place:
        journals: dict[str, Journal] = {
            "memory": MemoryJournal(),
            "sqlite": SqliteJournal(place.folder / "long.db"),
            "jsonl": JsonlJournal(place.folder / "long"),
        }
        for name, journal in journals.items():
            numbers += anyio.run(_measure, name, journal, records, effort.runs)
    return Result(tuple(numbers), places.notes())


async def _measure(name: str, journal: Journal, records: Sequence[TransitionRecord], runs: int) -> list[Number]:
    writer = await journal.claim("long")
    for start in range(0, len(records), _PAGE):
        await writer.append(records[start : start + _PAGE])
    await writer.release()
    # Files are indexed by whoever reads them first; that is reading's price, not the fork's.
    await fork(journal, "long", 1, clock=SystemClock())
    laps = {depth: Laps() for depth in _DEPTHS}
    for _ in range(runs):
        for depth, share in _DEPTHS.items():
            seq = max(1, round(share * len(records)))
            since = mark()
            made = await fork(journal, "long", seq, clock=SystemClock())
            laps[depth].add(since)
            shared = await journal.read(made, seq - 1, 2)
            check(
                [line.text for line in shared[:1]] == [records[seq - 1].line], "the fork does not begin as its parent"
            )
            check(len(shared) == 2, "the fork has no record of its own")
    await journal.aclose()
    return [number for depth, lap in laps.items() for number in lap.numbers(f"fork.{name}.{depth}", "ms")]
