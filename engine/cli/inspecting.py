"""`inspect`: one history to look at, as a page, a trace, a diagram or text; or live, while it is written.

May import inspect, replay and its neighbours. Must never call a model or a tool, or listen to the network unless asked.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..core.record import TransitionRecord
from ..errors import JournalCorrupt, UsageError
from ..inspect import exports
from ..inspect.feed import Feed
from ..inspect.filtering import filtered
from ..inspect.inspector import inspect_page
from ..ports import Journal
from ..replay import read_history, verify
from .following import follow
from .histories import chosen_sessions, existing_journal
from .signals import Interrupts, run_command
from .terminal import Screen, complain, progress, safe

_SHOWN_IDS = 5


def add_inspect_options(parser: ArgumentParser) -> None:
    """Add the options of `inspect`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="the journal, unless --journal names it; the session")
    parser.add_argument("--journal", metavar="J", help="a path ending in .db or .jsonl, or a folder")
    parser.add_argument(
        "--format", choices=("html", "trace", "mermaid", "text"), default="html",
        help="html: a page that needs nothing else; trace: for Perfetto or speedscope (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="where to (default: SESSION.html for a page, else standard output)"
    )
    parser.add_argument(
        "--diagram",
        choices=("sequence", "states"),
        default="sequence",
        help="what mermaid draws (default: %(default)s)",
    )
    parser.add_argument("--follow", action="store_true", help="serve the page and let it grow with the journal")
    parser.add_argument("--host", default="127.0.0.1", help="where --follow listens (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8765, help="… and its port; 0: any free one (default: %(default)s)")
    parser.add_argument("--filter", metavar="F", default="", help="for text and sequences: only records that pass")


class _Found(NamedTuple):
    """The records of a session as far as they can be read, and what is wrong after them."""

    session: str
    records: Sequence[TransitionRecord]
    damage: str | None


def inspect(options: Namespace, screen: Screen) -> int:
    """Show a history."""
    names = [*([] if options.journal is None else [options.journal]), *options.names]
    if not 1 <= len(names) <= 2:
        raise UsageError("inspect takes a journal and a session: agent-engine inspect runs.db SESSION -o run.html")
    if options.filter and (options.format in ("html", "trace") or options.diagram == "states"):
        raise UsageError("--filter is for --format text and for sequences; the page has a filter of its own")
    if options.follow and (options.format != "html" or options.output is not None):
        raise UsageError("--follow serves a page: leave --format and --output out")
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port {options.port}: ports count from 1 to 65535; 0 takes any that is free")
    if options.output is not None and not Path(options.output).parent.is_dir():
        raise UsageError(f"there is no folder {str(Path(options.output).parent)!r}; create it first")

    async def work(interrupts: Interrupts) -> int:
        async with existing_journal(names[0]) as journal:
            session = await _one_session(journal, names[0], names[1] if len(names) == 2 else None)
            if options.follow:
                feed = Feed(session, Path(names[0]).name)
                return await follow(feed, (names[0], journal), (options.host, options.port), (screen, interrupts))
            found = await _read(journal, session)
        return _show(found, names[0], options, screen)

    return run_command(work)


async def _one_session(journal: Journal, name: str, session: str | None) -> str:
    """Return the session that was asked for, or the only one.

    Raises:
        InvalidId, UnknownSession, UsageError: there is none, or more than one to choose from.
    """
    known = await chosen_sessions(journal, session)
    if len(known) == 1:
        return known[0]
    if not known:
        raise UsageError(f"{name!r} holds no session, so there is nothing to inspect")
    shown = ", ".join(known[:_SHOWN_IDS]) + (", …" if len(known) > _SHOWN_IDS else "")
    raise UsageError(f"{name!r} holds {len(known)} sessions: name one of them after the journal ({shown})")


async def _read(journal: Journal, session: str) -> _Found:
    """Read a history up to where it is damaged: what comes before is worth looking at all the more."""
    records: list[TransitionRecord] = []
    with progress("inspect") as show:
        try:
            async for record in read_history(journal, session):
                records.append(record)
                show(1)
        except JournalCorrupt as error:
            if not records:
                raise
            return _Found(session, records, str(error))
    check = verify(records)
    wrong = check.diverged[0] if check.diverged else None
    return _Found(session, records, None if wrong is None else f"{session}:{wrong.seq}: {wrong.text}")


def _show(found: _Found, name: str, options: Namespace, screen: Screen) -> int:
    target = options.output
    if target is None and options.format == "html":
        target = f"{found.session}.html"
    text = _FORMATS[options.format](found, Path(name).name, options)
    shown = len(found.records)
    if options.filter:
        shown = sum(1 for _ in filtered(found.records, options.filter))
    if target is not None:
        Path(target).write_text(text, encoding="utf-8", errors="backslashreplace")
        screen.line(f"{shown:,} records of {found.session} in {safe(target)}")
    else:
        screen.text(text.rstrip("\n"))
    if found.damage is not None:
        complain(f"the history does not hold: {found.damage}")
    screen.result(
        {
            "session": found.session, "format": options.format, "records": shown, "output": target,
            "damage": found.damage,
        }
    )  # fmt: skip
    return 0 if found.damage is None else 1


def _page(found: _Found, name: str, options: Namespace) -> str:
    return inspect_page(found.records, name, found.damage)


def _trace(found: _Found, name: str, options: Namespace) -> str:
    return json.dumps(exports.trace(found.records)) + "\n"


def _mermaid(found: _Found, name: str, options: Namespace) -> str:
    if options.diagram == "states":
        return exports.states(found.records)
    return exports.sequence(found.records, options.filter)


def _text(found: _Found, name: str, options: Namespace) -> str:
    return "\n".join(exports.text(found.records, options.filter)) + "\n"


_FORMATS: dict[str, Callable[[_Found, str, Namespace], str]] = {
    "html": _page, "trace": _trace, "mermaid": _mermaid, "text": _text,
}  # fmt: skip
