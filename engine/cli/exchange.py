"""`import` and `export`: chat logs and traces in and out, and journals copied from one form into another.

May import replay, journal, core, errors and its neighbours. Must never leave half a chat log under the name that was
asked for.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from ..core.values import JsonObject
from ..errors import ImportRefused, UsageError
from ..journal import JsonlJournal, SqliteJournal, open_journal
from ..ports import Journal
from ..replay import ImportReport, copy_journal, export_chats, import_chats
from ..replay.anthropic_chats import converted, to_anthropic
from ..replay.importing import Source
from ..replay.otlp import export_otlp, import_otlp
from ..runtime.clock import SystemClock
from .histories import chosen_sessions, existing_journal
from .signals import Interrupts, run_command
from .terminal import Progress, Screen, complain, progress, safe

_CHATS = ("openai", "anthropic")
"""Formats of chat logs; the others copy records."""

_LOGS = (*_CHATS, "otlp")
"""Formats of files with a line a conversation or turn."""


def add_import_options(parser: ArgumentParser) -> None:
    """Add the options of `import`."""
    parser.add_argument("file", metavar="FILE", help="a chat log (JSON lines with `id` and `messages`), or traces")
    parser.add_argument("--journal", metavar="J", required=True, help="the journal to add the sessions to")
    parser.add_argument("--format", choices=_LOGS, default="openai", help="of the log (default: %(default)s)")
    parser.add_argument("--skip-bad", action="store_true", help="go on after a line that cannot be imported")


def add_export_options(parser: ArgumentParser) -> None:
    """Add the options of `export`."""
    parser.add_argument("--journal", metavar="J", required=True, help="the journal to export from")
    parser.add_argument("session", nargs="?", metavar="SESSION", help="for logs: one session (default: all of them)")
    parser.add_argument(
        "--format", choices=(*_LOGS, "jsonl", "sqlite"), default="openai",
        help="openai, anthropic: a chat log; otlp: traces for OpenTelemetry; jsonl, sqlite: the same records in "
        "another journal (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="FILE", required=True,
        help="a chat log is replaced; a journal is continued from where an earlier copy stopped",
    )  # fmt: skip


def import_log(options: Namespace, screen: Screen) -> int:
    """Import a chat log."""
    if not Path(options.file).is_file():
        raise UsageError(
            f"there is no file {options.file!r} to import; give a chat log of JSON lines with `id` and `messages`"
        )
    _check_folder(options.journal)
    return run_command(lambda interrupts: _import(options, screen))


def export(options: Namespace, screen: Screen) -> int:
    """Export a journal."""
    _check_folder(options.output)
    target = Path(options.output)
    if target.is_dir() or target.resolve() == Path(options.journal).resolve():
        raise UsageError(f"--output {options.output!r} must name a file other than the journal")
    if options.format not in _LOGS and options.session is not None:
        raise UsageError(f"--format {options.format} copies whole journals; leave {options.session!r} out")
    if options.format == "jsonl" and target.suffix != ".jsonl":
        raise UsageError("--format jsonl writes one file: give --output a name ending in .jsonl")

    async def work(interrupts: Interrupts) -> int:
        async with existing_journal(options.journal) as journal:
            if options.format in _CHATS:
                return await _export_chats(options, screen, journal)
            if options.format == "otlp":
                return await _export_traces(options, screen, journal)
            return await _copy(options, screen, journal)

    return run_command(work)


async def _import(options: Namespace, screen: Screen) -> int:
    if options.format == "otlp":
        return await _import_traces(options, screen)
    journal = open_journal(options.journal)
    try:
        with progress("import") as show:
            seen = _Increments(show)
            refused: list[ImportRefused] = []
            with ExitStack() as stack:
                source: Source = options.file
                if options.format == "anthropic":
                    lines = stack.enter_context(Path(options.file).open("rb"))  # noqa: ASYNC230 - a log is read as it goes
                    source = converted(lines, refused if options.skip_bad else None)
                report = await import_chats(
                    source, journal, clock=SystemClock(), progress=seen.take, skip_bad=options.skip_bad
                )
            report = replace(report, refused=(*report.refused, *refused))
    finally:
        await journal.aclose()
    for refusal in report.refused:
        complain(str(refusal))
    screen.line(f"{report.sessions} sessions, {report.records:,} records imported, {len(report.refused)} lines refused")
    screen.result({"sessions": report.sessions, "records": report.records, "refused": len(report.refused)})
    return 0 if report.ok else 1


class _Increments:
    """Turns reports of what was done so far into steps of a progress."""

    def __init__(self, show: Progress) -> None:
        self._show = show
        self._done = 0

    def take(self, report: ImportReport) -> None:
        """Show what is new in a report."""
        self._show(report.records - self._done)
        self._done = report.records


async def _import_traces(options: Namespace, screen: Screen) -> int:
    if options.skip_bad:
        raise UsageError("--skip-bad is for chat logs: traces are imported whole or not at all; leave it out")
    journal = open_journal(options.journal)
    try:
        with Path(options.file).open("rb") as lines:  # noqa: ASYNC230 - a log is read as it goes
            sessions = await import_otlp(lines, journal)
    finally:
        await journal.aclose()
    screen.line(f"{sessions} sessions imported")
    screen.result({"sessions": sessions})
    return 0


async def _export_traces(options: Namespace, screen: Screen, journal: Journal) -> int:
    names = await chosen_sessions(journal, options.session)
    count = await _write(options.output, (json.dumps(trace) async for trace in export_otlp(journal, names)))
    return _exported(screen, {"traces": count, "output": options.output})


async def _export_chats(options: Namespace, screen: Screen, journal: Journal) -> int:
    messages = 0

    async def lines() -> AsyncIterator[str]:
        nonlocal messages
        async for chat in export_chats(journal, await chosen_sessions(journal, options.session)):
            messages += len(chat["messages"])
            yield json.dumps(_written(chat, options.format))

    sessions = await _write(options.output, lines())
    return _exported(screen, {"sessions": sessions, "messages": messages, "output": options.output})


async def _write(output: str, lines: AsyncIterator[str]) -> int:
    """Write lines into a file that takes its place when it is complete; return how many there were."""
    target = anyio.Path(output)
    count = 0
    async with anyio.TemporaryDirectory(dir=str(target.parent), prefix=".export-") as folder:
        part = anyio.Path(folder, "part")
        async with await part.open("w", encoding="ascii") as file:
            with progress("export") as show:
                async for line in lines:
                    await file.write(line + "\n")
                    count += 1
                    show(1)
        await part.replace(target)
    return count


def _written(chat: dict[str, Any], form: str) -> dict[str, Any]:
    if form == "openai":
        return chat
    try:
        return to_anthropic(chat)
    except ValueError as error:
        raise UsageError(f"conversation {chat['id']!a}: {error}; nothing was written") from error


async def _copy(options: Namespace, screen: Screen, journal: Journal) -> int:
    target = SqliteJournal(options.output) if options.format == "sqlite" else JsonlJournal(options.output)
    try:
        with progress("export") as show:
            report = await copy_journal(journal, target, show)
    finally:
        await target.aclose()
    return _exported(
        screen,
        {"sessions": report.sessions, "records": report.records, "present": report.present, "output": options.output},
    )


def _exported(screen: Screen, report: JsonObject) -> int:
    numbers = ", ".join(f"{value:,} {name}" for name, value in report.items() if isinstance(value, int))
    screen.line(f"{numbers} written to {safe(str(report['output']))}".replace(" present", " there already"))
    screen.result(report)
    return 0


def _check_folder(name: str) -> None:
    folder = Path(name).parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {str(folder)!r} for {Path(name).name!r}; create it first")
