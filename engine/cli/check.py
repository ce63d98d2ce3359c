"""`check`: rules about the order of events, over a journal.

A file of rules is Python that is read and never run: assignments of rules to names, arguments that are literals. So a
file from anywhere is safe to check with, and a test may import the same one. May import replay, errors and its
neighbours.
"""

from __future__ import annotations

import ast
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..core.values import JsonObject
from ..errors import UsageError
from ..replay import read_history
from ..replay.monitors import CONSTRUCTORS, Rule, Standing, check_journal, on
from ..replay.searching import Query
from .histories import chosen_sessions, existing_journal
from .signals import run_command
from .story import Storyteller
from .terminal import Screen, safe

T = TypeVar("T")


def add_check_options(parser: ArgumentParser) -> None:
    """Add the options of `check`."""
    parser.add_argument("rules", metavar="RULES", help="a file of rules, such as rules.py")
    parser.add_argument("journal", metavar="J", help="a path ending in .db or .jsonl, or a folder")
    parser.add_argument("session", nargs="?", metavar="SESSION", help="one session (default: all of them)")


def check(options: Namespace, screen: Screen) -> int:
    """Check; a rule that does not hold is status 1."""
    rules = read_rules(options.rules)
    return run_command(lambda interrupts: _check(options, screen, rules))


async def _check(options: Namespace, screen: Screen, rules: list[Rule]) -> int:
    async with existing_journal(options.journal) as journal:
        sessions = await chosen_sessions(journal, options.session)
        standings = await check_journal(rules, journal, sessions)
        for standing in standings:
            shortest = standing.shortest
            if shortest is None:
                screen.line(f"{safe(standing.rule.name)}: {screen.paint('holds', 'green')}")
                continue
            count = screen.paint(f"{standing.violations} times violated", "red")
            screen.line(f"{safe(standing.rule.name)}: {count}; in {safe(shortest.session)}: {shortest.reason}")
            story = Storyteller(screen)
            async for record in read_history(journal, shortest.session):
                if record.seq in shortest.seqs:
                    story.on_record(record)
                else:
                    story.listen(record)
                if record.seq == shortest.seqs[-1]:
                    break
    screen.result({"sessions": len(sessions), "rules": [_as_json(standing) for standing in standings]})
    return 1 if any(standing.violations for standing in standings) else 0


def _as_json(standing: Standing) -> JsonObject:
    shortest = standing.shortest
    return {
        "rule": standing.rule.name,
        "violations": standing.violations,
        "session": None if shortest is None else shortest.session,
        "seqs": [] if shortest is None else [*shortest.seqs],
        "reason": None if shortest is None else shortest.reason,
    }


def read_rules(name: str) -> list[Rule]:
    """Return the rules of a file, each named as it is there.

    Raises:
        UsageError: there is no such file, or something in it is no rule; the text says in which line.
    """
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"there is no file of rules at {name!r}")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{name} is no Python: {error}") from error
    rules: list[Rule] = []
    for statement in tree.body:
        match statement:
            case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
                continue
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Call(func=ast.Name(id=word)) as call):
                rules.append(_rule(name, call, word, target))
            case _:
                raise _no_rule(name, statement)
    if not rules:
        raise UsageError(f'{name} holds no rule; write one as in: no_pay = never(on(tool="pay"))')
    return rules


def _rule(name: str, call: ast.Call, word: str, target: str) -> Rule:
    make = CONSTRUCTORS.get(word)
    if make is None or any(keyword.arg is None for keyword in call.keywords):
        raise _no_rule(name, call)
    queries = [_query(name, argument) for argument in call.args]
    return _made(name, call, lambda given: make(*queries, **{"name": target, **given}))


def _query(name: str, node: ast.expr) -> Query:
    match node:
        case ast.Call(func=ast.Name(id="on"), args=[]) if all(keyword.arg for keyword in node.keywords):
            return _made(name, node, lambda given: on(**given))
        case _:
            raise _no_rule(name, node)


def _made(name: str, call: ast.Call, make: Callable[[dict[str, Any]], T]) -> T:
    """Return what the literal arguments of a call make."""
    try:
        return make({keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg})
    except (ValueError, TypeError, UsageError) as error:
        raise UsageError(f"{name}, line {call.lineno}: {error}") from error


def _no_rule(name: str, node: ast.stmt | ast.expr) -> UsageError:
    return UsageError(
        f"{name}, line {node.lineno}: not a rule; a line is NAME = RULE(on(…), …) with a rule of "
        f"{', '.join(CONSTRUCTORS)} and literal arguments: the file is read, not run"
    )
