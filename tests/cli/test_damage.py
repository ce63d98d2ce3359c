"""Journals that are not what they should be: each a clear line and a status, never a traceback."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tests.cli.commands import Run


@pytest.fixture
def lines(command: Run, journal: str, tmp_path: Path) -> Path:
    """The small journal as one JSONL file."""
    assert command("export", "--journal", journal, "--format", "jsonl", "--output", "lines.jsonl").status == 0
    return tmp_path / "lines.jsonl"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def test_f8_flipped_bit_is_found_with_its_place(command: Run, lines: Path) -> None:
    """One changed bit inside a record: status 1, with the session, the sequence and the offset."""
    text = lines.read_text(encoding="ascii")
    begin = text.index('"seq":5,')
    offset = text.rindex("\n", 0, begin) + 1
    flip(lines, text.index("degrees", offset))
    done = command("replay", "--journal", lines.name, "--json")
    assert (done.status, done.json["diverged"]) == (1, 1)
    [finding] = done.json["findings"]
    assert (finding["session"], finding["seq"], finding["offset"]) == ("a", 5, offset)
    shown = command("replay", "--journal", lines.name)
    assert "a:5:" in shown.out
    assert "1 do not hold" in shown.out
    assert command("stats", "--journal", lines.name).status == 1


def test_f8_flipped_bit_in_sqlite_is_found(command: Run, journal: str, tmp_path: Path) -> None:
    """A changed record in a database is found as well."""
    with sqlite3.connect(tmp_path / journal) as database:
        database.execute(
            "UPDATE records SET line = replace(line, 'degrees', 'degreez') WHERE session = 'a' AND seq = 5"
        )
    database.close()
    done = command("replay", "--journal", journal, "--json")
    assert (done.status, done.json["diverged"]) == (1, 1)
    assert done.json["findings"][0]["seq"] == 5


def test_missing_record_is_found(command: Run, lines: Path) -> None:
    """A line that was taken out of the middle is a gap."""
    kept = lines.read_text(encoding="ascii").splitlines(keepends=True)
    lines.write_text("".join(kept[:3] + kept[4:]), encoding="ascii")
    done = command("replay", "--journal", lines.name, "--json")
    assert (done.status, done.json["diverged"]) == (1, 1)


def test_changed_outcome_with_a_mended_hash_diverges(command: Run, lines: Path) -> None:
    """A record whose state was changed and whose hash was computed again does not reproduce."""
    from hashlib import sha256

    kept = lines.read_text(encoding="ascii").splitlines()
    index = max(number for number, line in enumerate(kept) if json.loads(line)["session"] == "b")
    record = json.loads(kept[index])
    record["dest"] = "error"
    del record["hash"]
    body = json.dumps(record, separators=(",", ":"), sort_keys=True)
    record["hash"] = sha256(body.encode("ascii")).hexdigest()
    kept[index] = json.dumps(record, separators=(",", ":"), sort_keys=True)
    lines.write_text("\n".join(kept) + "\n", encoding="ascii")
    done = command("replay", "--journal", lines.name, "b", "--json")
    assert (done.status, done.json["diverged"]) == (1, 1)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_truncated_database_is_reported(command: Run, journal: str, tmp_path: Path, keep: float) -> None:
    """A database that lost its end: status 1 or 2 and a clear line."""
    path = tmp_path / journal
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    done = command("replay", "--journal", journal)
    assert done.status in (1, 2)
    assert done.out + done.err != ""
    assert "Traceback" not in done.err


def test_f8_torn_tail_is_no_damage(command: Run, lines: Path) -> None:
    """A last line that a crash cut off was never acknowledged: what precedes it holds."""
    data = lines.read_bytes()
    lines.write_bytes(data[:-20])
    done = command("replay", "--journal", lines.name, "--json")
    assert (done.status, done.json["records"]) == (0, 15)


@pytest.mark.parametrize("name", ["notes.db", "text.db", "text.jsonl", "array.jsonl"])
@pytest.mark.parametrize("verb", ["replay", "stats"])
def test_file_of_another_program_is_refused(command: Run, tmp_path: Path, name: str, verb: str) -> None:
    """A foreign database or text is refused, said to be one, and not touched."""
    path = tmp_path / name
    if name == "notes.db":
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE notes (text TEXT)")
        database.close()
    else:
        path.write_text("hello, this is no journal\n" if "text" in name else "[1, 2, 3]\n", encoding="utf-8")
    before = path.read_bytes()
    done = command(verb, "--journal", name)
    assert done.status in (1, 2)
    assert (done.out + done.err).strip() != ""
    assert "Traceback" not in done.err
    assert path.read_bytes() == before
