"""A process that runs a conversation again and kills itself: `python children.py FILE LINE DATABASE COUNT`.

It sends itself SIGKILL in the moment in which record COUNT of the session has become durable.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio

from engine.core.notices import Notice
from engine.core.record import TransitionRecord
from engine.journal import MemoryJournal, SqliteJournal
from engine.replay import import_chats
from engine.testing.records import read_all

REPOSITORY = Path(__file__).resolve().parents[2]


class Killer:
    """Ends the process without a warning, once a record of this sequence is durable."""

    def __init__(self, seq: int) -> None:
        self._seq = seq

    def on_record(self, record: TransitionRecord) -> None:
        if record.seq >= self._seq:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_notice(self, session: str, notice: Notice) -> None: ...


def run_and_die(path: Path, line: int, database: Path, count: int) -> int:
    """Run a conversation again in a child that is killed at record `count`; return the child's exit status."""
    command = [sys.executable, __file__, str(path), str(line), str(database), str(count)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, timeout=120, check=False, env=environment).returncode


async def main(chat: str, database: str, count: int) -> None:
    from tests.replay.logs import StoppedClock, run_again

    journal = MemoryJournal()
    await import_chats([chat], journal, clock=StoppedClock())
    [info] = await journal.sessions()
    await run_again(await read_all(journal, info.id), SqliteJournal(database), [Killer(count)])


if __name__ == "__main__":
    path, line, database, count = sys.argv[1:]
    anyio.run(main, Path(path).read_text(encoding="utf-8").splitlines()[int(line)], database, int(count))
