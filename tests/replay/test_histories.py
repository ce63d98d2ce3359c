"""Histories of every release replay for ever: each verifies, and leads to what it led to when it was written.

`tests/histories/RELEASE.jsonl` holds them, written once by `python -m tests.histories.make RELEASE`. A change that
makes one of them fail needs an upcaster, not another file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from engine.core.table import ROWS
from engine.journal import SqliteJournal
from engine.journal.codec import decode
from engine.replay import verify, verify_journal
from tests.histories.make import FOLDER, folded

RELEASES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))
ENTRIES: list[tuple[str, dict[str, Any]]] = [
    (release, json.loads(line))
    for release in RELEASES
    for line in (FOLDER / f"{release}.jsonl").read_text(encoding="ascii").splitlines()
]


@pytest.mark.parametrize(
    ("release", "entry"), ENTRIES, ids=[f"{release}: {entry['name']}" for release, entry in ENTRIES]
)
def test_recorded_history_still_replays(release: str, entry: dict[str, Any]) -> None:
    """Every hash and every step of a history that an earlier release wrote holds, and it leads to the same session."""
    records = [decode(line) for line in entry["lines"]]
    check = verify(records)
    assert (check.diverged, check.unknown) == ((), ())
    assert json.loads(folded(records)) == json.loads(entry["folded"])


def test_recorded_histories_meet_every_event() -> None:
    """There is no kind of event that the kept histories do not hold."""
    triggers = {decode(line).trigger for _, entry in ENTRIES for line in entry["lines"]}
    assert {row.trigger for row in ROWS} - triggers == set()


def test_recorded_histories_verify_where_they_are_stored(tmp_path: Path) -> None:
    """A journal takes them as they are, those that were redacted and pruned included."""

    async def check() -> None:
        for number, (_, entry) in enumerate(ENTRIES):
            if entry["name"] not in ("redacted", "pruned", "redacted and pruned"):
                continue
            journal = SqliteJournal(tmp_path / f"{number}.db")
            writer = await journal.claim("s")
            await writer.append([decode(line) for line in entry["lines"]])
            await writer.release()
            [found] = await verify_journal(journal)
            await journal.aclose()
            assert found.ok, entry["name"]

    anyio.run(check)
