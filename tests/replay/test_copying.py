"""Copies are the same bytes, go on where they stopped, and never mix two histories."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import JournalCorrupt, ReplayError, SessionBusy
from engine.journal import JsonlJournal, MemoryJournal, SqliteJournal
from engine.ports import Journal, SessionInfo
from engine.replay import CopyReport, copy_journal
from engine.testing.records import chain

from .logs import SAMPLE_CHATS, imported, stored
from .test_verification import ReadingOf

pytestmark = pytest.mark.anyio


async def lines_of(journal: Journal) -> dict[str, list[str]]:
    return {
        info.id: [line.text for line in await journal.read(info.id, 0, info.records)]
        for info in await journal.sessions()
    }


async def test_round_trip_gives_the_same_bytes(tmp_path: Path) -> None:
    """JSONL → SQLite → JSONL: every canonical line is the same, external ids included, file by file."""
    first, second = JsonlJournal(tmp_path / "a.jsonl"), JsonlJournal(tmp_path / "b.jsonl")
    middle = SqliteJournal(tmp_path / "m.db")
    await copy_journal(await imported(*SAMPLE_CHATS), first)
    await copy_journal(first, middle)
    report = await copy_journal(middle, second)
    assert report.sessions == len(SAMPLE_CHATS)
    assert await lines_of(first) == await lines_of(middle) == await lines_of(second)
    assert await first.sessions() == await middle.sessions() == await second.sessions()
    for journal in (first, middle, second):
        await journal.aclose()
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize("present", [0, 1, 511, 512, 513, 1200])
async def test_copy_goes_on_where_the_target_ends(present: int) -> None:
    """What the target holds already is not written again; the rest is, page by page."""
    records = chain("s", 1200)
    source, target = await stored(records), await stored(records[:present])
    seen: list[int] = []
    assert await copy_journal(source, target, seen.append) == CopyReport(1, 1200 - present, present)
    assert sum(seen) == 1200 - present
    assert await lines_of(target) == await lines_of(source)


async def test_longer_target_is_left_as_it_is() -> None:
    """A target that has gone on from the source keeps its own records."""
    records = chain("s", 9)
    target = await stored(records)
    assert await copy_journal(await stored(records[:4]), target) == CopyReport(1, 0, 4)
    assert len((await lines_of(target))["s"]) == 9


@pytest.mark.parametrize(("ours", "theirs"), [(6, 3), (3, 3), (3, 6)])
async def test_another_history_of_the_same_id_is_refused(ours: int, theirs: int) -> None:
    """Two sessions of one id that differ are not mixed, whichever is longer; the target stays as it is."""
    target = await stored(chain("s", theirs, text="theirs"))
    before = await lines_of(target)
    with pytest.raises(ReplayError, match="another history"):
        await copy_journal(await stored(chain("s", ours, text="ours")), target)
    assert await lines_of(target) == before
    await (await target.claim("s")).release()


async def test_f9_damaged_record_is_not_copied() -> None:
    """A record that does not hold ends the copy with its place; nothing of its page is written."""

    class Damaged(ReadingOf):
        async def sessions(self) -> list[SessionInfo]:
            return [SessionInfo("s", 4)]

    lines = [record.line for record in chain("s", 4)]
    target = MemoryJournal()
    with pytest.raises(JournalCorrupt) as caught:
        await copy_journal(Damaged([lines[0], lines[1], lines[3]]), target)
    assert caught.value.offset == 102
    assert await lines_of(target) == {}


async def test_session_in_use_is_not_copied_over() -> None:
    """A session that somebody writes to in the target is refused as busy."""
    target = MemoryJournal()
    await target.claim("s")
    with pytest.raises(SessionBusy):
        await copy_journal(await stored(chain("s", 2)), target)


async def test_source_that_grows_meanwhile_disturbs_nothing() -> None:
    """A target that is longer than the source was when the copy began is left alone, however the source grows."""

    class Growing(MemoryJournal):
        async def sessions(self) -> list[SessionInfo]:
            return [SessionInfo("s", 2)]

    records, source = chain("s", 6), Growing()
    writer = await source.claim("s")
    await writer.append(records)
    target = await stored(records[:4])
    assert await copy_journal(source, target) == CopyReport(1, 0, 2)
    assert len((await lines_of(target))["s"]) == 4
