"""`replay`, and what the other commands on histories share.

May import replay, journal, core, errors and its neighbours. Must never call a model or a tool.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from ..api import read_history
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.values import JsonObject, check_id
from ..errors import UnknownSession, UsageError
from ..journal import open_journal
from ..ports import Journal
from ..replay import Verification, state_at, verify_journal
from .signals import Interrupts, run_command
from .story import Storyteller, shown_call
from .terminal import Screen, progress, safe


def add_replay_options(parser: ArgumentParser) -> None:
    """Add the options of `replay`."""
    parser.add_argument("--journal", metavar="J", required=True, help="a path ending in .db or .jsonl, or a folder")
    parser.add_argument("session", nargs="?", metavar="SESSION", help="one session (default: all of them)")
    parser.add_argument("--at", metavar="SEQ", type=int, help="show the state right after this record of SESSION")
    parser.add_argument("--show", action="store_true", help="print the records of SESSION as they were written")


@asynccontextmanager
async def existing_journal(name: str) -> AsyncGenerator[Journal]:
    """Open a journal for reading and close it at the end.

    Raises:
        UsageError: there is none.
    """
    journal = open_journal(name)
    if not await anyio.Path(name).exists():
        raise UsageError(f"there is no journal at {name!r}; give the path of one that a run has written")
    try:
        yield journal
    finally:
        with anyio.CancelScope(shield=True):
            await journal.aclose()


async def chosen_sessions(journal: Journal, session: str | None) -> list[str]:
    """Return the one session that was asked for, or all.

    Raises:
        InvalidId, UnknownSession: there is no such session.
    """
    known = [info.id for info in await journal.sessions()]
    if session is None:
        return known
    if check_id(session) not in known:
        raise UnknownSession(session)
    return [session]


@dataclass(frozen=True)
class Checked:
    """What a check of a journal found, and how long it took, in seconds."""

    checks: tuple[Verification, ...]
    seconds: float

    @property
    def records(self) -> int:
        """How many records hold."""
        return sum(check.records for check in self.checks)

    @property
    def failed(self) -> list[Verification]:
        """The sessions that do not hold."""
        return [check for check in self.checks if not check.ok]

    def as_json(self) -> JsonObject:
        """Return the members that `replay --json` promises."""
        return {
            "sessions": len(self.checks),
            "records": self.records,
            "seconds": round(self.seconds, 6),
            "diverged": len(self.failed),
        }


async def check_all(name: str, session: str | None = None) -> Checked:
    """Verify one session of a journal, or all.

    Raises:
        UsageError: there is no such journal or session.
        JournalError: the journal cannot be read at all.
    """
    async with existing_journal(name) as journal:
        sessions = None if session is None else await chosen_sessions(journal, session)
        total = sum(info.records for info in await journal.sessions() if session in (None, info.id))
        with progress("replay", total) as show:
            started = time.perf_counter()
            checks = await verify_journal(journal, sessions, show)
            return Checked(checks, time.perf_counter() - started)


def replay(options: Namespace, screen: Screen) -> int:
    """Verify everything, or show one session."""
    if options.session is None and (options.at is not None or options.show):
        raise UsageError("--at and --show need a SESSION: replay --journal J SESSION --at SEQ")

    async def work(interrupts: Interrupts) -> int:
        if options.at is not None:
            return await _show_state(options, screen)
        if options.show:
            await _show_records(options, screen)
        found = await check_all(options.journal, options.session)
        _report(found, screen)
        return 1 if found.failed else 0

    return run_command(work)


def _report(found: Checked, screen: Screen) -> None:
    findings: list[JsonObject] = []
    for check in found.checks:
        for unknown in (*check.rewritten, *check.unknown):
            screen.line(screen.paint(f"{safe(check.session)}:{unknown.seq}: {safe(unknown.text)}", "yellow"))
        for finding in check.diverged:
            place = "" if finding.offset is None else f" (at {finding.offset})"
            screen.line(screen.paint(f"{safe(check.session)}:{finding.seq}: {safe(finding.text)}{place}", "red"))
            findings.append(
                {"session": check.session, "seq": finding.seq, "text": finding.text, "offset": finding.offset}
            )
    rate = f", {found.records / found.seconds:,.0f} records/s" if found.seconds else ""
    verdict = f"{len(found.failed)} do not hold" if found.failed else "all hold"
    screen.line(
        f"{len(found.checks)} sessions, {found.records:,} records in {found.seconds:.3f} s{rate}: "
        + screen.paint(verdict, "red" if found.failed else "green")
    )
    screen.result({**found.as_json(), "findings": [*findings]})


async def _show_records(options: Namespace, screen: Screen) -> None:
    story = Storyteller(screen)
    for record in await _history(options):
        story.on_record(record)


async def _history(options: Namespace) -> list[TransitionRecord]:
    async with existing_journal(options.journal) as journal:
        await chosen_sessions(journal, options.session)
        return [record async for record in read_history(journal, options.session)]


async def _show_state(options: Namespace, screen: Screen) -> int:
    records = await _history(options)
    at: int = options.at
    if not 1 <= at <= len(records):
        raise UsageError(f"--at {at} is outside of this history; its records count from 1 to {len(records)}")
    session = state_at(records, at)
    story = Storyteller(screen)
    for record in records[: at - 1]:
        story.listen(record)
    story.on_record(records[at - 1])
    screen.line()
    for message in session.messages():
        calls = "  ".join(shown_call(call) for call in message.tool_calls)
        screen.line(f"  {message.role:<10} {safe(' '.join(part for part in (message.text, calls) if part))}")
    for call in session.open_calls:
        screen.line(f"  {call.status.value:<10} {safe(shown_call(call.call))}")
    for request in session.pending:
        screen.line(f"  waits for  {safe(request.text)}")
    screen.result(_state_as_json(session))
    return 0


def _state_as_json(session: Session) -> JsonObject:
    return {
        "session": session.id, "seq": session.seq, "state": session.state.value, "turns": session.turns,
        "messages": [message.model_dump(mode="json", exclude_none=True) for message in session.messages()],
        "pending": [request.model_dump(mode="json") for request in session.pending],
    }  # fmt: skip
