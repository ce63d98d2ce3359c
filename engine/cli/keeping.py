"""`redact` and `prune`: what is kept of the histories in a journal.

May import replay, runtime's clock, errors and its neighbours. Must never take a value from the command line, which
other users of the machine can see, nor print one.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from ..core.values import JsonObject
from ..errors import HistoryShared, SessionBusy, UsageError
from ..replay.retention import Account, Rewritten, last_before, prune, redact
from ..runtime.clock import SystemClock
from .histories import chosen_sessions, existing_journal
from .signals import run_command
from .terminal import Screen, complain, safe

Work = Callable[[str], Awaitable[Rewritten]]
"""Does with one session what was asked for."""


def add_redact_options(parser: ArgumentParser) -> None:
    """Add the options of `redact`."""
    _add_common(parser)
    parser.add_argument(
        "--value-env", metavar="NAME", help="the environment variable that holds the value (default: a line of input)"
    )


def add_prune_options(parser: ArgumentParser) -> None:
    """Add the options of `prune`."""
    _add_common(parser)
    through = parser.add_mutually_exclusive_group(required=True)
    through.add_argument("--before", type=_moment, metavar="TIME", help="what was recorded before may go (ISO 8601)")
    through.add_argument("--keep", type=_count, metavar="N", help="all but the newest N records may go")
    parser.add_argument("--forget", action="store_true", help="let go of the conversation up to there, too")


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument("--journal", metavar="J", required=True, help="a path ending in .db or .jsonl, or a folder")
    parser.add_argument("session", nargs="?", metavar="SESSION", help="one session (default: all of them)")
    parser.add_argument("--reason", default="", help="why; stays on record")
    parser.add_argument("--by", metavar="WHO", help="who asked for it; stays on record")


def redact_value(options: Namespace, screen: Screen) -> int:
    """Take a value out of sessions; a session in which it still stands somewhere is status 1."""
    value = os.environ.get(options.value_env, "") if options.value_env else sys.stdin.readline().rstrip("\n")
    if not value:
        where = f"the variable {options.value_env}" if options.value_env else "the first line of the input"
        raise UsageError(f"{where} holds no value; put the value to take out there")

    async def work(session: str) -> Rewritten:
        async with existing_journal(options.journal) as journal:
            return await redact(journal, session, value, _account(options))

    return run_command(lambda interrupts: _each(options, screen, work))


def prune_histories(options: Namespace, screen: Screen) -> int:
    """Drop old records of sessions."""

    async def work(session: str) -> Rewritten:
        async with existing_journal(options.journal) as journal:
            if options.keep is None:
                through = await last_before(journal, session, options.before)
            else:
                [last] = [info.records for info in await journal.sessions() if info.id == session]
                through = last - options.keep
            return await prune(journal, session, through, _account(options), forget=options.forget)

    return run_command(lambda interrupts: _each(options, screen, work))


async def _each(options: Namespace, screen: Screen, work: Work) -> int:
    async with existing_journal(options.journal) as journal:
        sessions = await chosen_sessions(journal, options.session)
    done: list[Rewritten] = []
    busy: list[str] = []
    shared: list[str] = []
    for session in sessions:
        try:
            done.append(await work(session))
        except SessionBusy as error:
            # Whoever has it open keeps it; the others need not wait.
            complain(str(error))
            busy.append(session)
            continue
        except HistoryShared as error:
            complain(str(error))
            shared.append(session)
            continue
        screen.line(_told(done[-1]))
    screen.result({"sessions": {one.session: _as_json(one) for one in done}, "busy": [*busy], "shared": [*shared]})
    return 1 if busy or shared or any(one.left for one in done) else 0


def _told(one: Rewritten) -> str:
    if one.declared is None:
        done = "nothing to do"
    elif one.dropped:
        done = f"{one.dropped} records dropped, declared in {one.declared}"
    else:
        done = f"{len(one.rewritten)} records rewritten, declared in {one.declared}"
    left = f"; it still stands in {', '.join(map(str, one.left))}" if one.left else ""
    return f"{safe(one.session)}: {done}{left}"


def _as_json(one: Rewritten) -> JsonObject:
    return {
        "rewritten": [*one.rewritten], "dropped": one.dropped, "declared": one.declared, "left": [*one.left],
    }  # fmt: skip


def _account(options: Namespace) -> Account:
    return Account(SystemClock(), options.reason, options.by)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no time; write 2027-01-15 or 2027-01-15T08:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is no count; give a whole number")
    return int(text)
