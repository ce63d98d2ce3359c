"""What the tests of the command line share: the real command as a process, the same in this process, a journal."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from engine.cli import main
from tests.cli.commands import LIMIT_S, Done, Run, environment, start_of


@pytest.fixture
def process(tmp_path: Path) -> Run:
    """Run the real command in a process of its own, in an empty folder, warnings as errors."""

    def run(*arguments: str, given: str | None = None, **extra: str) -> Done:
        done = subprocess.run(
            start_of(*arguments),
            input=given, capture_output=True, text=True, encoding="utf-8", errors="surrogateescape",
            timeout=LIMIT_S, check=False, cwd=tmp_path, env=environment(**extra),
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `main` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        status = main(list(arguments))
        told = capsys.readouterr()
        return Done(status, told.out, told.err)

    return run


@pytest.fixture
def journal(command: Run) -> str:
    """A SQLite journal with two sessions of one turn each: two parallel reads, and a write."""
    for session, prompt in (("a", "weather in Oslo and Lima"), ("b", "note buy milk")):
        done = command("run", prompt, "--journal", "runs.db", "--session", session, "--model", "scripted", "--quiet")
        assert done.status == 0, done.err
    return "runs.db"
