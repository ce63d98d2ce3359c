"""Journals under several real processes: killed ones, contending ones, ones on a full disk or without rights."""

# ruff: noqa: ASYNC240 - nothing else runs on these loops

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio
import pytest

from engine.errors import SessionBusy, StaleWriter
from engine.journal import SqliteJournal
from engine.testing.records import chain, read_all

from .children import lines_of, open_kind, start
from .stores import DURABLE


@pytest.mark.parametrize("kind", DURABLE)
def test_f8_killed_process_loses_no_acknowledged_record(kind: str, tmp_path: Path) -> None:
    """After kill -9 every acknowledged record is there, the chain holds, and the next process gets in at once."""
    acked = epoch = 0
    for kill in range(4):
        child = start("append_for_ever", kind, str(tmp_path))
        assert child.stdout is not None
        word, claimed_epoch, seq = child.stdout.readline().split()
        assert word == "claimed"
        assert int(claimed_epoch) > epoch
        assert int(seq) >= acked
        epoch = int(claimed_epoch)
        for _ in range(1 + 7 * kill):
            child.stdout.readline()
        child.kill()
        rest, _ = child.communicate()
        finished = rest[: rest.rfind("\n") + 1].split()
        acked = int(finished[-1]) if finished else int(seq)
        stored = anyio.run(read_all, open_kind(kind, str(tmp_path)), "s")
        assert len(stored) >= acked


VISIT = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); print(*c.execute(sys.argv[2]).fetchone()); c.close()"
COUNT = "SELECT count(*) FROM records"


@pytest.mark.anyio
async def test_f8_a_visitor_that_leaves_takes_no_record_along(tmp_path: Path) -> None:
    """Whoever opens and closes the file of a journal in use, by SQLite alone, does not become the last to close it: the
    log stays, and what is appended afterwards is there for everybody.
    """
    path = tmp_path / "runs.db"
    journal = SqliteJournal(str(path))
    writer = await journal.claim("s")
    records = chain("s", 4)
    await writer.append(records[:2])
    await journal.read("s")

    def visit() -> str:
        return subprocess.run(
            [sys.executable, "-c", VISIT, str(path), COUNT], capture_output=True, text=True, check=True
        ).stdout

    log = path.with_name("runs.db-wal").stat()
    seen = [await anyio.to_thread.run_sync(visit)]
    await writer.append(records[2:])
    seen.append(await anyio.to_thread.run_sync(visit))
    assert path.with_name("runs.db-wal").stat().st_ino == log.st_ino
    await journal.aclose()
    assert [line.strip() for line in seen] == ["2", "4"]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", DURABLE)
async def test_f10_second_process_is_refused_or_fences_the_first(kind: str, tmp_path: Path) -> None:
    """While one process holds a session another is told who; when it takes over, the first one's append is refused."""
    journal = open_kind(kind, str(tmp_path))
    writer = await journal.claim("s")
    await writer.append(chain("s", 2))
    busy = await anyio.to_thread.run_sync(lines_of, "try_claim", kind, str(tmp_path), "politely")
    over = await anyio.to_thread.run_sync(lines_of, "try_claim", kind, str(tmp_path), "takeover")
    with pytest.raises(StaleWriter):
        await writer.append(chain("s", 3)[2:])
    stored = await read_all(journal, "s")
    again = await journal.claim("s")
    await journal.aclose()
    assert busy[0].startswith("busy process ")
    assert (over, len(stored), again.epoch) == (["claimed 2"], 3, 3)


@pytest.mark.parametrize("kind", DURABLE)
def test_f10_contending_processes_leave_one_history(kind: str, tmp_path: Path) -> None:
    """Two processes that take a session from each other write one history, of what was acknowledged."""
    children = [start("contend", kind, str(tmp_path), "60") for _ in range(2)]
    outputs = [child.communicate(timeout=60)[0].split() for child in children]
    stored = anyio.run(read_all, open_kind(kind, str(tmp_path)), "s")
    assert [child.returncode for child in children] == [0, 0]
    assert len(stored) == sum(int(acked) for acked, _ in outputs)


def check_filled(lines: list[str]) -> None:
    words = dict(line.split() for line in lines)
    assert words["full"] == "True"
    assert int(words["acked"]) > 0
    assert words["stored"] == words["acked"]
    assert int(words["end"]) == int(words["acked"]) + 2


@pytest.mark.parametrize("kind", DURABLE)
def test_f12_file_size_limit_stops_appends_and_loses_nothing(kind: str, tmp_path: Path) -> None:
    """A refused append raises JournalUnavailable, what was acknowledged stays, and with room it goes on."""
    check_filled(lines_of("fill", kind, str(tmp_path), "300000"))


def can_mount() -> bool:
    """Whether this user may mount a small file system of its own."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    tried = subprocess.run([unshare, "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.skipif(not can_mount(), reason="this user may not mount a file system of its own")
@pytest.mark.parametrize("kind", DURABLE)
def test_f12_full_disk_stops_appends_and_loses_nothing(kind: str, tmp_path: Path) -> None:
    """On a file system without space left the same holds as under a file size limit."""
    folder = str(tmp_path)
    script = 'mount -t tmpfs -o size=3m none "$0" && exec "$@"'
    check_filled(lines_of("fill", kind, folder, "0", prefix=("unshare", "-Urm", "sh", "-c", script, folder)))


@pytest.mark.parametrize("kind", DURABLE)
@pytest.mark.parametrize("closed", ["folder", "file"])
def test_f12_missing_rights_are_said(kind: str, closed: str) -> None:
    """Where this user may not write, a claim raises JournalUnavailable and says which permission to give."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if closed == "file":
            anyio.run(one_record, kind, name)
            for path in folder.rglob("*"):
                path.chmod(0o555 if path.is_dir() else 0o444)
        folder.chmod(0o555)
        lines = lines_of("without_rights", kind, name)
        folder.chmod(0o755)
    assert lines == ["JournalUnavailable True"]


async def one_record(kind: str, folder: str) -> None:
    journal = open_kind(kind, folder)
    await (await journal.claim("s")).append(chain("s", 1))
    await journal.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", DURABLE)
async def test_f15_files_are_private(kind: str, tmp_path: Path) -> None:
    """Everything a journal creates is readable by its user alone."""
    journal = open_kind(kind, str(tmp_path))
    await (await journal.claim("s")).append(chain("s", 1))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    await journal.aclose()
    assert modes == {0o600}


@pytest.mark.anyio
async def test_f10_claims_of_two_journals_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    """A journal object that was dropped without being closed frees what it held; one that lives does not."""
    first = open_kind("sqlite", str(tmp_path))
    await first.claim("s")
    second = open_kind("sqlite", str(tmp_path))
    with pytest.raises(SessionBusy, match="this process"):
        await second.claim("s")
    await second.aclose()
    assert [info.id for info in await second.sessions()] == []
    await second.aclose()
    await first.aclose()
