"""Every file, folder, name and owner that a journal cannot use is refused with an error that says what to do."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import (
    EngineError,
    InvalidId,
    JournalCorrupt,
    JournalTooNew,
    JournalUnavailable,
    NotAJournal,
    SessionBusy,
    UsageError,
)
from engine.journal import JsonlJournal, MemoryJournal, SqliteJournal, open_journal
from engine.journal._claims import Claims, Standing
from engine.journal._jsonl_layout import file_name, session_of
from engine.journal._jsonl_store import translate
from engine.journal._owner import Owner, Token, living_owner
from engine.ports import Journal
from engine.testing.conformance import HOSTILE_IDS
from engine.testing.records import chain, read_all

from .stores import DURABLE, KINDS, factory_of, path_of


async def refusals(journal: Journal) -> set[type[EngineError]]:
    """Return how claim, read and list fail."""
    seen: set[type[EngineError]] = set()
    for attempt in (journal.claim("s"), journal.read("s"), journal.sessions()):
        with pytest.raises(EngineError) as caught:
            await attempt
        assert str(caught.value)
        seen.add(caught.type)
    await journal.aclose()
    return seen


# Names


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.db", SqliteJournal), ("a.jsonl", JsonlJournal), ("new/", JsonlJournal), ("folder", JsonlJournal)],
)
def test_open_journal_knows_the_forms(name: str, kind: type[Journal], tmp_path: Path) -> None:
    """The ending of the path, or the folder that is there, says which journal it is; nothing is created."""
    (tmp_path / "folder").mkdir()
    journal = open_journal(f"{tmp_path}/{name}")
    assert isinstance(journal, kind)
    assert getattr(journal, "path", None) == str(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("name", ["postgresql://host/db", "postgres://host/db", "runs", "runs.txt", "", "runs.db.gz"])
def test_open_journal_refuses_other_forms(name: str) -> None:
    """Any other name is a usage error that lists the forms."""
    with pytest.raises(UsageError, match=r"\.db.*\.jsonl.*folder"):
        open_journal(name)


def test_sqlite_in_memory_is_refused() -> None:
    """The name that SQLite gives to memory is answered with the journal that lives there."""
    with pytest.raises(UsageError, match="MemoryJournal"):
        SqliteJournal(":memory:")


# Ids


@pytest.mark.anyio
@pytest.mark.parametrize("kind", KINDS)
async def test_f14_f15_hostile_ids_leave_no_trace(kind: str, tmp_path: Path) -> None:
    """No hostile id creates a file, and none reaches a session that exists."""
    root = tmp_path / "root"
    root.mkdir()
    journal = factory_of(kind, root)()
    await (await journal.claim("s")).append(chain("s", 1))
    files = set(tmp_path.rglob("*"))
    for session in HOSTILE_IDS:
        for attempt in (journal.claim(session, takeover=True), journal.read(session)):
            with pytest.raises(InvalidId):
                await attempt
    seen, after = await journal.sessions(), set(tmp_path.rglob("*"))
    await journal.aclose()
    assert [info.id for info in seen] == ["s"]
    assert after == files


@pytest.mark.anyio
async def test_f15_symbolic_link_in_a_folder_is_not_followed(tmp_path: Path) -> None:
    """A link planted under a session's file name leads no append out of the folder."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    path = path_of("jsonl-folder", tmp_path)
    path.mkdir()
    (path / file_name("s")).symlink_to(outside)
    journal = JsonlJournal(path)
    seen = await refusals(journal)
    assert seen == {JournalUnavailable}
    assert outside.read_bytes() == b""


def test_f15_file_names_tell_ids_apart_without_case() -> None:
    """Names differ after folding case, lead back to their id, and no other file is taken for one."""
    ids = ("order", "Order", "ORDER", "con", "x" * 128, "-", "_")
    names = [file_name(session) for session in ids]
    assert len({name.casefold() for name in names}) == len(ids)
    assert [session_of(name) for name in names] == list(ids)
    assert max(map(len, names)) < 255
    assert [session_of(name) for name in ("order.jsonl", "order.0123456789abcdef.jsonl", "sessions.claims")] == [
        None
    ] * 3


# Files


@pytest.mark.anyio
@pytest.mark.parametrize("content", [b"hello", b"hello\n" * 500, b"\0" * 4096, b"SQLite format 2\0" + b"\0" * 500])
async def test_sqlite_leaves_other_files_alone(content: bytes, tmp_path: Path) -> None:
    """A file that is no database is refused and stays byte for byte, with nothing beside it."""
    file = tmp_path / "notes.db"
    file.write_bytes(content)
    seen = await refusals(SqliteJournal(file))
    assert seen == {NotAJournal}
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (content, [file])


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
async def test_sqlite_leaves_other_databases_alone(mode: str, tmp_path: Path) -> None:
    """Another program's database is refused and stays byte for byte, with nothing beside it."""
    file = tmp_path / "other.db"
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE records (session, seq, line)")
    connection.close()
    content = file.read_bytes()
    seen = await refusals(SqliteJournal(file))
    assert seen == {NotAJournal}
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (content, [file])


async def change(path: Path, statement: str, *values: object) -> None:
    """Write a history of four records and change the database behind the journal's back."""
    journal = SqliteJournal(path)
    await (await journal.claim("s")).append(chain("s", 4, external_id="mine"))
    await journal.aclose()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(statement, values)
    connection.close()


@pytest.mark.anyio
async def test_sqlite_of_a_newer_release_is_named_as_such(tmp_path: Path) -> None:
    """Tables of a newer version are not touched: upgrade."""
    await change(tmp_path / "a.db", "PRAGMA user_version = 2")
    assert await refusals(SqliteJournal(tmp_path / "a.db")) == {JournalTooNew}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("UPDATE records SET line = replace(line, 'hello', ?) WHERE seq = 4", "hullo"),
        ("UPDATE records SET line = ? WHERE seq = 4", b"bytes"),
        ("UPDATE records SET line = CAST(x'ff00ff' AS TEXT) WHERE seq = 4 AND ?", 1),
        ("UPDATE records SET seq = ? WHERE seq = 4", 9),
        ("UPDATE records SET seq = 4.5 WHERE seq = 4 AND ?", 1),
    ],
)
async def test_f8_damaged_last_row_stops_claim_and_reader(statement: str, value: object, tmp_path: Path) -> None:
    """A row that is not the record it was is reported by the claim and by the verified reading, with its sequence."""
    await change(tmp_path / "a.db", statement, value)
    journal = SqliteJournal(tmp_path / "a.db")
    with pytest.raises(JournalCorrupt) as claimed:
        await journal.claim("s")
    with pytest.raises(JournalCorrupt) as read:
        await read_all(journal, "s")
    await journal.aclose()
    assert {claimed.value.where, read.value.where} == {"s"}


@pytest.mark.anyio
async def test_f8_missing_row_stops_the_reader(tmp_path: Path) -> None:
    """A hole in a history is reported at the record after it."""
    await change(tmp_path / "a.db", "DELETE FROM records WHERE seq = 2")
    with pytest.raises(JournalCorrupt, match="sequence 3 follows 1") as read:
        await read_all(SqliteJournal(tmp_path / "a.db"), "s")
    assert read.value.offset == 3


@pytest.mark.anyio
async def test_f8_damaged_external_id_is_reported(tmp_path: Path) -> None:
    """The list of sessions does not invent a name."""
    await change(tmp_path / "a.db", "UPDATE sessions SET external_id = 'mi'")
    with pytest.raises(JournalCorrupt, match="external id"):
        await SqliteJournal(tmp_path / "a.db").sessions()


@pytest.mark.anyio
async def test_f8_damaged_database_file_is_reported(tmp_path: Path) -> None:
    """Pages that SQLite itself cannot read are damage, and nothing is done about them."""
    file = tmp_path / "a.db"
    await change(file, "VACUUM")
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    journal = SqliteJournal(file)
    with pytest.raises(JournalCorrupt, match="database file"):
        await journal.claim("s")
    with pytest.raises(JournalCorrupt, match="database file"):
        await journal.read("s")
    await journal.aclose()
    assert file.stat().st_size == len(content)


@pytest.mark.anyio
async def test_f8_database_without_its_end_is_reported(tmp_path: Path) -> None:
    """A database file that lost its last pages is damage."""
    file = tmp_path / "a.db"
    await change(file, "VACUUM")
    os.truncate(file, 4096)
    assert await refusals(SqliteJournal(file)) == {JournalCorrupt}


@pytest.mark.anyio
async def test_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    """An empty file, as `touch` leaves it, is a place for a new journal; reading it creates nothing."""
    file = tmp_path / "a.db"
    file.touch()
    journal = SqliteJournal(file)
    before = (list(await journal.read("s")), file.stat().st_size)
    await (await journal.claim("s")).append(chain("s", 2))
    after = len(await journal.read("s"))
    await journal.aclose()
    assert (before, after) == (([], 0), 2)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["sqlite", "jsonl-file"])
async def test_folder_where_a_file_should_be_is_refused(kind: str, tmp_path: Path) -> None:
    """A folder under the name of a file cannot be used, and is said to be one."""
    path_of(kind, tmp_path).mkdir()
    assert await refusals(factory_of(kind, tmp_path)()) == {JournalUnavailable}


@pytest.mark.anyio
async def test_file_where_a_folder_should_be_is_refused(tmp_path: Path) -> None:
    """A file under the name of a folder cannot be used."""
    path_of("jsonl-folder", tmp_path).write_bytes(b"mine")
    assert await refusals(factory_of("jsonl-folder", tmp_path)()) == {JournalUnavailable}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", DURABLE)
async def test_f12_device_is_refused(kind: str, tmp_path: Path) -> None:
    """A device, here the one that is always full, is no place for a journal."""
    path_of(kind, tmp_path).symlink_to("/dev/full")
    assert await refusals(factory_of(kind, tmp_path)()) == {JournalUnavailable}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", DURABLE)
async def test_missing_parent_folder_is_said(kind: str, tmp_path: Path) -> None:
    """A journal creates its own file or folder, not the folders above; reading there finds nothing."""
    journal = factory_of(kind, tmp_path / "missing")()
    nothing = (list(await journal.read("s")), list(await journal.sessions()))
    with pytest.raises(JournalUnavailable, match="folder"):
        await journal.claim("s")
    await journal.aclose()
    assert nothing == ([], [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ENOSPC", "EACCES", "ELOOP", "EIO", "EMFILE"])
def test_f12_every_system_error_gives_advice(name: str) -> None:
    """The text names the cause and says what to do."""
    import errno

    error = OSError(getattr(errno, name), os.strerror(getattr(errno, name)))
    text = str(translate("runs", error))
    assert os.strerror(getattr(errno, name)) in text
    assert "claim the session again" in text


# Owners


def stored(**changes: object) -> str:
    """Return the text of an owner like this process, but for the changes."""
    return json.dumps({**json.loads(Token().text), **changes})


def test_owner_is_judged_by_everything_that_names_it() -> None:
    """Alive: itself, another host or space of process numbers. Gone: another boot, a number free or used again."""
    token = Token()
    here = json.loads(token.text)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    judged = {
        "nobody": living_owner(None),
        "itself": living_owner(token.text),
        "dropped": living_owner(stored()),
        "host": living_owner(stored(host="elsewhere/1", boot="x", pid=1)),
        "boot": living_owner(stored(boot="an earlier one")),
        "space": living_owner(stored(space="pid:[1]", pid=1)),
        "gone": living_owner(stored(pid=child.pid)),
        "huge": living_owner(stored(pid=1 << 70)),
        "used again": living_owner(stored(pid=os.getppid(), started_s=here["started_s"] + 1e6)),
        "unreadable": living_owner('{"of": "a newer release"}'),
        "garbage": living_owner("{"),
    }
    alive = {name for name, description in judged.items() if description is not None}
    assert alive == {"itself", "host", "space", "unreadable", "garbage"}
    assert judged["host"] == "process 1 on host elsewhere"


def test_killed_child_that_nobody_waited_for_is_gone() -> None:
    """A process that is dead but still listed does not hold a session."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    path = Path(f"/proc/{child.pid}/stat")
    started_s = int(path.read_bytes().rpartition(b") ")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    text = stored(pid=child.pid, started_s=started_s)
    before = living_owner(text)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    after = living_owner(text)
    child.communicate()
    assert (before is None, after) == (False, None)


@pytest.mark.anyio
async def test_owner_on_another_host_keeps_its_session(tmp_path: Path) -> None:
    """What cannot be judged from here counts as alive, and only a takeover gets past it."""
    text = stored(host="elsewhere/1")
    await change(tmp_path / "a.db", "UPDATE sessions SET owner = ?", text)
    journal = SqliteJournal(tmp_path / "a.db")
    with pytest.raises(SessionBusy, match="host elsewhere"):
        await journal.claim("s")
    writer = await journal.claim("s", takeover=True)
    await journal.aclose()
    assert (writer.epoch, writer.tail.seq) == (2, 4)


def test_owner_text_comes_back() -> None:
    """The stored form holds everything."""
    token = Token()
    assert Owner(**json.loads(token.text)) == token.owner


# The log of claims


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["jsonl-file", "jsonl-folder"])
async def test_claims_are_kept_short_and_epochs_grow(kind: str, tmp_path: Path) -> None:
    """However often sessions are claimed, by however many objects, the log stays short and no epoch comes twice."""
    first, second = factory_of(kind, tmp_path)(), factory_of(kind, tmp_path)()
    epochs: list[int] = []
    for number in range(100):
        for journal in (first, second):
            await (await journal.claim(f"s{number % 3}")).release()
            writer = await journal.claim("s")
            epochs.append(writer.epoch)
            await writer.release()
    await first.aclose()
    await second.aclose()
    claims = next(path for path in tmp_path.rglob("*.claims"))
    assert epochs == list(range(1, 201))
    assert len(claims.read_bytes().splitlines()) < 200


@pytest.mark.anyio
@pytest.mark.parametrize("tail", [b'["s",7,', b"\0" * 20, b"\0\0\n\0"])
async def test_f8_torn_claim_is_cut(tail: bytes, tmp_path: Path) -> None:
    """A claim that a crash cut was given to nobody: the next one goes on from the epoch before."""
    journal = JsonlJournal(tmp_path / "a.jsonl")
    await journal.claim("s")
    await journal.aclose()
    with (tmp_path / "a.jsonl.claims").open("ab") as stream:
        stream.write(tail)
    epochs = [(await journal.claim("s")).epoch, (await journal.claim("s", takeover=True)).epoch]
    await journal.aclose()
    assert epochs == [2, 3]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "line", [b"garbage\n", b"7\n", b'["s",1]\n', b'["s","1",null]\n', b"[1,1,null]\n", b'["s",1,1]\n']
)
async def test_f8_damaged_claim_is_refused(line: bytes, tmp_path: Path) -> None:
    """A log of claims that cannot be read lets nobody write, and reading goes on."""
    journal = JsonlJournal(tmp_path / "a.jsonl")
    await (await journal.claim("s")).append(chain("s", 2))
    await journal.aclose()
    with (tmp_path / "a.jsonl.claims").open("ab") as stream:
        stream.write(line)
    with pytest.raises(JournalCorrupt, match="claim"):
        await journal.claim("s")
    seen = len(await journal.read("s"))
    await journal.aclose()
    assert seen == 2


def test_claims_replaced_or_removed_meanwhile_are_read_again(tmp_path: Path) -> None:
    """Whoever waited for the lock of a log that is not the current one any more takes the current one's."""
    folder = os.open(tmp_path, os.O_RDONLY)
    name = "a.claims"
    old, new = Claims(name), Claims(name)
    old.lock(folder)
    old.put(folder, "s", Standing(1, None))
    old.unlock()
    (tmp_path / name).rename(tmp_path / "b")
    (tmp_path / name).write_bytes(b'["s",5,null]\n')
    old.lock(folder)
    replaced = old.standing("s")
    old.unlock()
    (tmp_path / name).unlink()
    old.lock(folder)
    removed = old.standing("s")
    old.close()
    new.close()
    os.close(folder)
    assert (replaced, removed) == (Standing(5), Standing())


@pytest.mark.anyio
async def test_memory_journal_has_no_files() -> None:
    """A journal in memory passes through aclose with everything it holds."""
    journal = MemoryJournal()
    await (await journal.claim("s")).append(chain("s", 2))
    await journal.aclose()
    assert len(await journal.read("s")) == 2
