"""Verification finds what does not hold, says where, and lets no session keep another from being checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from engine import Message, State, TransitionRecord
from engine.core.events import PromptReceived
from engine.errors import ReplayError, UnknownSession
from engine.journal import JsonlJournal, MemoryJournal
from engine.journal.canonical import canonical
from engine.journal.codec import RECORD_VERSION, decode, seal
from engine.ports import Journal, StoredLine
from engine.replay import Verification, verify, verify_journal
from engine.testing.records import chain

from .logs import SAMPLE_CHATS, imported, stored


class ReadingOf(MemoryJournal):
    """A journal that gives these lines for session "s", whatever they are."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__()
        self._lines = [StoredLine(line, offset) for offset, line in enumerate(lines, 100)]

    async def read(self, session: str, after: int = 0, limit: int = 512) -> Sequence[StoredLine]:
        return self._lines[after : after + limit]


def resealed(record: TransitionRecord, **changes: object) -> TransitionRecord:
    """Return a record with other members and a hash that fits them."""
    fields = {**json.loads(record.line), **changes}
    del fields["hash"]
    digest = sha256(canonical(fields).encode()).hexdigest()
    return decode(canonical({**fields, "hash": digest}))


def continued(records: Sequence[TransitionRecord], prev: str) -> list[TransitionRecord]:
    """Return the records with their chain hung on another hash."""
    hung: list[TransitionRecord] = []
    for record in records:
        hung.append(resealed(record, prev=prev))
        prev = hung[-1].hash
    return hung


def test_sound_history_is_reported_whole() -> None:
    """A history that holds is reported with its length, its last hash, its state, and nothing else."""
    records = chain("s", 6)
    assert verify(records) == Verification("s", 6, records[-1].hash, State.PROCESSING)


def test_nothing_to_verify_is_an_error() -> None:
    """An empty history has no session to report about."""
    with pytest.raises(ReplayError, match="empty"):
        verify([])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"event": PromptReceived(messages=(Message(role="user", text="forged"),))}, "hash does not match"),
        ({"at": "2027-01-01T00:00:00.000000Z"}, "hash does not match"),
        ({"dest": State.ERROR}, "hash does not match"),
        ({"hash": "0" * 64}, "hash does not match"),
        ({"prev": "0" * 64}, "chain is broken"),
        ({"seq": 7}, "sequence 7 follows 1"),
        ({"session": "other"}, "session 'other'"),
    ],
)
def test_forged_member_is_found(changes: dict[str, object], reason: str) -> None:
    """Whichever member of a record in memory is changed, the check ends there and says so."""
    records = chain("s", 4)
    found = verify([records[0], records[1]._replace(**changes), *records[2:]])  # type: ignore[arg-type]
    assert (found.ok, found.records, found.hash) == (False, 1, records[0].hash)
    [finding] = found.diverged
    assert finding.seq == 2
    assert reason in finding.text


def test_v1_consistent_forgery_is_found_by_the_step() -> None:
    """A record that was forged together with all hashes after it is found, because its step gives something else."""
    records = chain("s", 4)
    forged = resealed(records[1], dest="idle", effects=[])
    found = verify([records[0], forged, *continued(records[2:], forged.hash)])
    assert [finding.seq for finding in found.diverged] == [2]
    assert "now it gives processing" in found.diverged[0].text


def test_a1_event_of_a_newer_release_is_reported_and_passed() -> None:
    """A kind of event that this release does not know is no fault: it is listed, and the check goes on after it."""
    first, second, third = chain("s", 3)
    newer = resealed(first, trigger="moon_rose", event={"kind": "moon_rose", "phase": 3}, seq=2, prev=first.hash)
    rest = continued([resealed(second, seq=3), resealed(third, seq=4)], newer.hash)
    found = verify([first, newer, *rest])
    assert (found.ok, found.records) == (True, 4)
    assert [(finding.seq, "'moon_rose'" in finding.text) for finding in found.unknown] == [(2, True)]


def test_forged_event_of_a_newer_release_is_found() -> None:
    """What cannot be stepped is still held against its hash."""
    first = chain("s", 1)[0]
    newer = resealed(first, trigger="moon_rose", event={"kind": "moon_rose", "phase": 3}, seq=2, prev=first.hash)
    assert not isinstance(newer.event, PromptReceived)
    forged = newer._replace(event=newer.event.model_copy(update={"data": {"phase": 4}}))
    assert [finding.seq for finding in verify([first, forged]).diverged] == [2]


@pytest.mark.anyio
async def test_journal_is_verified_session_by_session() -> None:
    """Every session of a journal gets its result, sorted by id, and the progress adds up to all records."""
    seen: list[int] = []
    found = await verify_journal(await imported(*SAMPLE_CHATS), progress=seen.append)
    assert [result.session for result in found] == sorted(result.session for result in found)
    assert len(found) == len(SAMPLE_CHATS)
    assert all(result.ok for result in found)
    assert sum(seen) == sum(result.records for result in found)


@pytest.mark.anyio
async def test_only_the_named_sessions_are_verified() -> None:
    """The sessions to check can be named; one that is not there is an error, not a good result."""
    journal = await imported(*SAMPLE_CHATS)
    assert [found.session for found in await verify_journal(journal, ["shop-2", "shop-1"])] == ["shop-2", "shop-1"]
    with pytest.raises(UnknownSession):
        await verify_journal(journal, ["nobody"])


@pytest.mark.anyio
async def test_f9_damaged_line_is_reported_with_its_offset() -> None:
    """A stored line whose text was changed is reported with its place; the records before it count."""
    lines = [record.line for record in chain("s", 4, text="hello")]
    lines[2] = lines[2].replace("hello", "hellO")
    [found] = await verify_journal(ReadingOf(lines), ["s"])
    assert (found.ok, found.records) == (False, 2)
    assert [(finding.seq, finding.offset) for finding in found.diverged] == [(3, 102)]


@pytest.mark.anyio
async def test_record_of_a_newer_version_is_reported() -> None:
    """A record that this release cannot read is reported with the advice to upgrade, and ends only its own session."""
    first, second = chain("s", 2)
    newer = second.line.replace(f'"v":{RECORD_VERSION}}}', '"v":99}')
    digest = json.loads(newer)["hash"]
    bare = newer.replace(f'"hash":"{digest}",', "")
    newer = newer.replace(digest, sha256(bare.encode()).hexdigest())
    [found] = await verify_journal(ReadingOf([first.line, newer]), ["s"])
    assert (found.records, "upgrade" in found.diverged[0].text) == (1, True)


@pytest.mark.anyio
async def test_diverging_record_in_a_journal_keeps_its_offset() -> None:
    """A step that does not reproduce is reported with the place of its record in the store."""
    first, second = chain("s", 2)
    forged = resealed(second, dest="idle")
    [found] = await verify_journal(ReadingOf([first.line, forged.line]), ["s"])
    assert [(finding.seq, finding.offset) for finding in found.diverged] == [(2, 101)]


async def _fill(journal: Journal, *names: str) -> None:
    for name in names:
        writer = await journal.claim(name)
        await writer.append(chain(name, 6))
    await journal.aclose()


def _damage(path: Path, line: int) -> int:
    """Damage one line of a file; return where it stands."""
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = b"x" + lines[line][1:]
    path.write_bytes(b"".join(lines))
    return sum(map(len, lines[:line]))


@pytest.mark.anyio
@pytest.mark.parametrize("line", [0, 3, 5])
async def test_f9_damage_in_one_file_leaves_the_other_checked(tmp_path: Path, line: int) -> None:
    """One session's file is damaged, at its first line or later: it is reported, and the other session holds."""
    folder = tmp_path / "runs"
    await _fill(JsonlJournal(folder), "a", "b")
    offset = _damage(next(folder.glob("a*.jsonl")), line)
    damaged, sound = await verify_journal(JsonlJournal(folder))
    assert (damaged.ok, damaged.records, sound.ok, sound.records) == (False, line, True, 6)
    assert damaged.diverged[0].offset == offset


@pytest.mark.anyio
async def test_f9_damage_before_every_session_is_reported(tmp_path: Path) -> None:
    """A file whose first record is destroyed lists no session; the damage is reported all the same."""
    path = tmp_path / "runs.jsonl"
    await _fill(JsonlJournal(path), "a")
    path.write_bytes(b'{"moth":"ate"}' + path.read_bytes())
    [found] = await verify_journal(JsonlJournal(path))
    assert (found.ok, found.records, found.diverged[0].offset) == (False, 0, 0)


@pytest.mark.anyio
async def test_empty_journal_has_nothing_to_report() -> None:
    """No session, no result."""
    assert await verify_journal(await stored(())) == ()


def test_record_written_with_defaults_spelt_out_still_verifies() -> None:
    """A line that says what this release leaves out is as good, as long as its hash fits."""
    records = chain("s", 1)
    spelt = resealed(records[0], event={"kind": "session_opened", "user": None})
    assert spelt.line != seal(
        session="s", seq=1, at=spelt.at, mono_ns=spelt.mono_ns, source=spelt.source, dest=spelt.dest,
        event=records[0].event, effects=(), prev=spelt.prev,  # type: ignore[arg-type]
    ).line  # fmt: skip
    assert verify([spelt]).ok


@pytest.mark.anyio
async def test_f8_session_whose_first_record_is_damaged_does_not_vanish(tmp_path: Path) -> None:
    """In a folder of files the damaged session is reported with its offset beside the sound one."""
    journal = JsonlJournal(f"{tmp_path}/runs/")
    for name in ("sound", "torn"):
        await (await journal.claim(name)).append(chain(name, 2))
    await journal.aclose()
    (file,) = (path for path in (tmp_path / "runs").iterdir() if path.name.startswith("torn"))
    file.write_bytes(b"X" + file.read_bytes()[1:])
    found = {each.session: each for each in await verify_journal(JsonlJournal(f"{tmp_path}/runs/"))}
    assert found["sound"].ok
    assert not found["torn"].ok
    assert found["torn"].diverged[0].offset == 0
