"""`fork`: a new session that begins with the records of another one.

May import replay, journal, runtime, core, errors and its neighbours. Must never change the parent.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..replay import fork as fork_session
from ..runtime.clock import SystemClock
from .histories import existing_journal
from .signals import run_command
from .terminal import Screen, safe


def add_fork_options(parser: ArgumentParser) -> None:
    """Add the options of `fork`."""
    parser.add_argument("--journal", metavar="J", required=True, help="a path ending in .db or .jsonl, or a folder")
    parser.add_argument("session", metavar="SESSION", help="the session to fork")
    parser.add_argument("--at", metavar="SEQ", type=int, required=True, help="the last record that the fork shares")
    parser.add_argument("--name", metavar="ID", help="the id of the new session (default: a unique one)")


def fork(options: Namespace, screen: Screen) -> int:
    """Fork a session."""
    return run_command(lambda interrupts: _fork(options, screen))


async def _fork(options: Namespace, screen: Screen) -> int:
    async with existing_journal(options.journal) as journal:
        name = await fork_session(journal, options.session, options.at, clock=SystemClock(), name=options.name)
    screen.line(f"{safe(name)} begins with records 1 to {options.at} of {safe(options.session)}")
    screen.line(f"it goes on with: agent-engine run --journal {safe(options.journal)} --session {safe(name)}")
    screen.result({"session": name, "parent": options.session, "at": options.at})
    return 0
