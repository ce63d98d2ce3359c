"""`diff`: histories against the code and configuration of today, or two histories against each other.

May import api, replay, journal, core, errors and its neighbours. Must never call a model or a tool, and never write to
a journal. It imports the module that the caller names, and nothing that a journal names.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from importlib import import_module
from pathlib import Path

from ..api import Engine, read_history
from ..core.record import TransitionRecord
from ..core.values import JsonObject
from ..errors import UsageError
from ..ports import Journal
from ..replay import compare, diverge
from .histories import chosen_sessions, existing_journal
from .signals import run_command
from .terminal import Screen, safe


def add_diff_options(parser: ArgumentParser) -> None:
    """Add the options of `diff`."""
    parser.add_argument("--journal", metavar="J", required=True, help="a path ending in .db or .jsonl, or a folder")
    parser.add_argument(
        "session", nargs="?", metavar="SESSION", help="one session (with --engine: default all of them)"
    )
    parser.add_argument("other", nargs="?", metavar="OTHER", help="the session to compare it with")
    parser.add_argument("--other-journal", metavar="J", help="where OTHER is (default: the same journal)")
    parser.add_argument(
        "--engine", metavar="MODULE:NAME", help="an Engine of yours to judge the histories by; its module is imported"
    )


def diff(options: Namespace, screen: Screen) -> int:
    """Judge histories by an engine, or compare two."""
    if (options.engine is None) is (options.other is None):
        raise UsageError(
            "say what to hold the histories against: diff --journal J SESSION OTHER, or "
            "diff --journal J [SESSION] --engine MODULE:NAME"
        )
    if options.engine is not None:
        engine = find_engine(options.engine)
        return run_command(lambda interrupts: _judge(options, screen, engine))
    return run_command(lambda interrupts: _compare(options, screen))


def find_engine(name: str) -> Engine:
    """Return the engine that stands in a module under a name; the module is looked for in the working folder too.

    Raises:
        UsageError: there is no such module or name, the module fails, or what stands there is no engine.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise UsageError(f"--engine {name!r}: name a module and what stands in it, such as shop.agents:engine")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:
        raise UsageError(f"--engine {name!r} cannot be used: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    if not isinstance(found, Engine):
        raise UsageError(f"--engine {name!r} is {type(found).__name__}, not an Engine: name one that the module makes")
    return found


async def _judge(options: Namespace, screen: Screen, engine: Engine) -> int:
    reports: list[JsonObject] = []
    diverged = 0
    async with existing_journal(options.journal) as journal:
        for name in await chosen_sessions(journal, options.session):
            report = diverge(await _load(journal, name), engine)
            diverged += not report.ok
            reports.append(report.as_json())
            for line in report.lines():
                screen.line(screen.paint(safe(line), "green" if report.ok else "red"))
    screen.result({"sessions": len(reports), "diverged": diverged, "reports": [*reports]})
    return 1 if diverged else 0


async def _compare(options: Namespace, screen: Screen) -> int:
    async with existing_journal(options.journal) as journal:
        left = await _load(journal, options.session)
        if options.other_journal is None:
            right = await _load(journal, options.other)
        else:
            async with existing_journal(options.other_journal) as another:
                right = await _load(another, options.other)
    found = compare(left, right)
    for line in found.lines():
        screen.line(screen.paint(safe(line), "green" if found.ok else "red"))
    screen.result(found.as_json())
    return 0 if found.ok else 1


async def _load(journal: Journal, session: str) -> list[TransitionRecord]:
    return [record async for record in read_history(journal, session)]
