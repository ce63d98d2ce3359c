"""open: how long it takes to open a session with a long history.

Without a checkpoint every record is checked and stepped again; with one the session begins where the checkpoint stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio

from engine import TransitionRecord
from engine.journal import SqliteJournal

from . import places
from .histories import history
from .numbers import Effort, Laps, Number, Result, check, mark
from .workload import SMALL, answer, new_engine

_PAGE = 2_000
_TURNS = 10_000
"""What the goal is about. A shorter history is scaled up to it: opening is linear, every record is looked at once."""


def measure(effort: Effort, disk: Path) -> Result:
    """Return seconds to open a session of small turns from SQLite."""
    records = history("long", effort.history_turns, SMALL)
    with places.ram_disk(disk) as place:
        path = place.folder / "long.db"
        anyio.run(_store, path, records)
        laps, short = Laps(), Laps()
        for _ in range(effort.runs):
            anyio.run(_open, path, effort.history_turns, laps, None)
        anyio.run(_open, path, effort.history_turns, Laps(), 1)  # leaves the checkpoint
        for _ in range(effort.runs):
            anyio.run(_open, path, effort.history_turns, short, None)
    scaled = Laps()
    scaled.wall_ns = [lap * _TURNS / effort.history_turns for lap in laps.wall_ns]
    scaled.cpu_ns = [lap * _TURNS / effort.history_turns for lap in laps.cpu_ns]
    return Result(
        (
            Number("open.turns", "turns", effort.history_turns),
            Number("open.records", "records", len(records)),
            *laps.numbers("open.time", "s"),
            *scaled.numbers("open.for_10000_turns", "s"),
            *short.numbers("open.by_checkpoint", "s"),
        ),
        places.notes(),
    )


async def _store(path: Path, records: Sequence[TransitionRecord]) -> None:
    journal = SqliteJournal(path)
    writer = await journal.claim("long")
    for start in range(0, len(records), _PAGE):
        await writer.append(records[start : start + _PAGE])
    await writer.release()
    await journal.aclose()


async def _open(path: Path, turns: int, laps: Laps, checkpoint_records: int | None) -> None:
    async with new_engine(SMALL, SqliteJournal(path), checkpoint_records=checkpoint_records) as engine:
        since = mark()
        session = await engine.open("long")
        laps.add(since)
        last = session.turns[-1]
        check(last.response == answer(turns - 1, SMALL), f"the last turn answers {last.response!r}")
        check(len(session.messages) == turns * (2 + 2 * SMALL.results), f"{len(session.messages)} messages")
