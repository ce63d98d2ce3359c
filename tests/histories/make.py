"""Writes the histories of a release: `python -m tests.histories.make RELEASE`, once, when the release is made.

Each is a session that meets another part of the table; `folded` beside the lines is what it leads to. A history that
has been released is never written again: that is what it is for. Until then its file may be removed and written anew.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio

from engine.core.events import GrantRevoked, KnownEvent, LateResult, Resumed, SessionForked, TurnCancelled
from engine.core.record import TransitionRecord
from engine.journal import MemoryJournal
from engine.journal.canonical import canonical
from engine.journal.codec import decode
from engine.journal.snapshots import message_lines, session_text
from engine.replay import Account, fold, prune, redact
from engine.testing.recording import Recording
from tests.core.scenarios import ASKED, CONTEXT, RUN, SESSIONS, ended, prompt, reply, says

FOLDER = Path(__file__).resolve().parent
SHUT_DOWN = ("shut down: tools, two started", "shut down: waiting for two approvals", "shut down: error, to ask")
SECRET = "+49 170 5550199"  # noqa: S105 - a number that nobody has


class StoppedClock:
    """It is always the same moment."""

    def time_ns(self) -> int:
        return 1_767_225_600_000_000_000

    def monotonic_ns(self) -> int:
        return 1_000


def folded(records: Sequence[TransitionRecord]) -> str:
    """Return what a history leads to, as canonical text."""
    session = fold(records)
    messages = [json.loads(line) for line in message_lines(session)]
    return canonical({"messages": messages, "session": json.loads(session_text(session))})


def told() -> list[KnownEvent]:
    turn: list[KnownEvent] = [
        prompt(f"call {SECRET}"),
        CONTEXT,
        reply(RUN),
        ended(1),
        CONTEXT,
        says(f"called {SECRET}"),
    ]
    return [*SESSIONS["idle"], *turn, *turn]


async def rewritten(how: str) -> list[TransitionRecord]:
    """Return a history that was redacted, or pruned, or both."""
    journal, account = MemoryJournal(), Account(StoppedClock(), "a release", "the tests")
    writer = await journal.claim("s")
    await writer.append(Recording().play(told()).records)
    await writer.release()
    if "redacted" in how:
        await redact(journal, "s", SECRET, account)
    if "pruned" in how:
        await prune(journal, "s", 8, account)
    return [decode(line.text) for line in await journal.read("s")]


def histories() -> dict[str, list[TransitionRecord]]:
    """Return every history to keep, by its name."""
    found = {
        name: Recording().play(events).records
        for name, events in SESSIONS.items()
        if events and (not name.startswith("shut down") or name in SHUT_DOWN)
    }
    asides: list[KnownEvent] = [
        GrantRevoked(grant_id="s:4:0:approval", by="owner"),
        LateResult(call_id="c1", key="s:4:0"),
    ]
    found["asides"] = Recording().play([*SESSIONS["idle with a grant"], *asides, prompt(), TurnCancelled()]).records
    found["two turns"] = Recording().play([*ASKED, says(), *told()[1:]]).records
    forked: list[KnownEvent] = [SessionForked(session="f", parent="s"), Resumed()]
    found["forked"] = Recording().play([*told()[:4], *forked, *told()[4:]]).records
    for how in ("redacted", "pruned", "redacted and pruned"):
        found[how] = anyio.run(rewritten, how)
    return found


def write(release: str) -> None:
    """Write the histories of a release that has none yet."""
    path = FOLDER / f"{release}.jsonl"
    with path.open("x", encoding="ascii") as file:
        for name, records in histories().items():
            entry = {"name": name, "lines": [record.line for record in records], "folded": folded(records)}
            file.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    write(sys.argv[1])
