"""`search`: the records of a journal that are about something.

May import replay, core, errors and its neighbours. Must never hold more than a page of a history.
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from datetime import datetime

from ..core.events import EVENT_TYPES
from ..core.values import JsonObject, State
from ..errors import JournalCorrupt
from ..replay.searching import Match, Query, search
from .histories import chosen_sessions, existing_journal
from .signals import run_command
from .terminal import Screen, clip, complain, safe


def add_search_options(parser: ArgumentParser) -> None:
    """Add the options of `search`."""
    parser.add_argument("--journal", metavar="J", required=True, help="a path ending in .db or .jsonl, or a folder")
    parser.add_argument("session", nargs="?", metavar="SESSION", help="one session (default: all of them)")
    parser.add_argument("--text", default="", metavar="T", help="stands in some text of the event, in any case")
    parser.add_argument(
        "--trigger", action="append", default=[], choices=sorted(EVENT_TYPES), metavar="KIND",
        help="this kind of event; may be repeated",
    )  # fmt: skip
    parser.add_argument("--tool", action="append", default=[], metavar="NAME", help="a call of this tool; likewise")
    parser.add_argument(
        "--state", action="append", default=[], choices=[state.value for state in State], metavar="STATE",
        help="led to this state; likewise",
    )  # fmt: skip
    parser.add_argument("--since", type=_moment, metavar="TIME", help="recorded then or later (ISO 8601)")
    parser.add_argument("--until", type=_moment, metavar="TIME", help="recorded before (ISO 8601)")
    parser.add_argument("--limit", type=_count, default=100, metavar="N", help="stop after so many (default: 100)")


def find(options: Namespace, screen: Screen) -> int:
    """Search; nothing found is status 1."""
    query = Query(
        options.text, frozenset(options.trigger), frozenset(options.tool), frozenset(map(State, options.state)),
        options.since, options.until,
    )  # fmt: skip
    return run_command(lambda interrupts: _find(options, screen, query))


async def _find(options: Namespace, screen: Screen, query: Query) -> int:
    found: list[Match] = []
    damaged: list[str] = []
    async with existing_journal(options.journal) as journal:
        for name in await chosen_sessions(journal, options.session):
            try:
                async for match in search(journal, query, [name]):
                    found.append(match)
                    screen.line(_shown(match, screen))
                    if len(found) == options.limit:
                        break
            except JournalCorrupt as error:
                # One bad session must not keep the others from being searched.
                complain(str(error))
                damaged.append(name)
            if len(found) == options.limit:
                break
    more = ", there may be more: --limit" if len(found) == options.limit else ""
    screen.line(f"{len(found)} records{more}")
    screen.result({"found": [_as_json(match) for match in found], "damaged": [*damaged]})
    return 0 if found and not damaged else 1


def _shown(match: Match, screen: Screen) -> str:
    record = match.record
    place = f"{safe(record.session)}:{record.seq}"
    line = f"{place:<24} {safe(record.at)}  {safe(record.trigger):<18} → {record.dest.value:<19} "
    return screen.paint(line, "bold" if match.excerpt else "dim") + clip(match.excerpt, max(20, screen.width - 90))


def _as_json(match: Match) -> JsonObject:
    record = match.record
    return {
        "session": record.session, "seq": record.seq, "at": record.at, "trigger": record.trigger,
        "source": record.source.value, "dest": record.dest.value, "excerpt": match.excerpt,
    }  # fmt: skip


def _moment(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no time; write 2027-01-15 or 2027-01-15T08:00:00Z") from None


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no count; give a whole number from 1")
    return int(text)
