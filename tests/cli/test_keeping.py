"""`redact` and `prune` change what is stored, say so, and never show the value."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from engine.journal import SqliteJournal
from tests.cli.commands import Done, Run

MILK = "buy milk"


@pytest.fixture
def stored(command: Run) -> str:
    for _ in range(2):
        assert command("run", f"note {MILK}", "--journal", "j.db", "--session", "s", "--model", "scripted").status == 0
    return "j.db"


def test_redact_takes_its_value_from_the_input(process: Run, command: Run, stored: str) -> None:
    """The value comes as a line of input, is gone from the history, and is on no output; the history verifies."""
    done = process("redact", "--journal", stored, "s", "--reason", "asked for", given=f"{MILK}\n")
    assert done.status == 0, done.err
    assert "records rewritten, declared in" in done.out
    assert MILK not in done.out + done.err
    assert command("search", "--journal", stored, "--text", MILK).status == 1
    checked = command("replay", "--journal", stored)
    assert (checked.status, "was redacted" in checked.out) == (0, True)


def test_redact_takes_its_value_from_a_variable(command: Run, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable can hold the value; without a value nothing is done."""
    monkeypatch.setenv("NOTE", MILK)
    done = command("redact", "--journal", stored, "--value-env", "NOTE", "--json")
    assert (done.status, len(done.json["sessions"]["s"]["rewritten"]) > 0) == (0, True)
    assert command("redact", "--journal", stored, "--value-env", "NOWHERE").status == 2


def test_prune_keeps_the_newest(command: Run, stored: str) -> None:
    """The older turn goes, the history verifies and goes on."""
    done = command("prune", "--journal", stored, "s", "--keep", "4", "--json")
    assert (done.status, done.json["sessions"]["s"]["dropped"]) == (0, 7)
    assert command("replay", "--journal", stored).status == 0
    assert command("run", "hello", "--journal", stored, "--session", "s", "--model", "scripted").status == 0
    assert command("prune", "--journal", stored, "--before", "2020-01-01").out.startswith("s: nothing to do")


def test_sessions_that_are_open_are_told_of(process: Run, stored: str, tmp_path: Path) -> None:
    """A session that somebody has open stays as it is, and the status says so."""

    async def held() -> Done:
        journal = SqliteJournal(tmp_path / stored)
        await journal.claim("s")
        try:
            return await anyio.to_thread.run_sync(process, "prune", "--journal", stored, "--keep", "0", "--json")
        finally:
            await journal.aclose()

    done = anyio.run(held)
    assert (done.status, done.json["busy"]) == (1, ["s"])


def test_sessions_that_forks_share_are_told_of(command: Run, stored: str) -> None:
    """Records that a fork shares stay, the text says what to do, and the status says that they are there."""
    assert command("fork", "--journal", stored, "s", "--at", "6", "--name", "f").status == 0
    done = command("prune", "--journal", stored, "--keep", "0", "--json")
    assert (done.status, done.json["shared"], done.json["busy"]) == (1, ["s"], [])
    assert "prune each fork up to a point of its own" in done.err
    assert command("replay", "--journal", stored).status == 0
