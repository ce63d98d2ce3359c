"""`counterfactual`: a recorded session again with one fact changed, in a new session.

May import counterfactual, replay, core, errors and its neighbours. Must never change the session that it starts from,
and never run a tool with effects on the world that was not allowed by name.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from pydantic import ValidationError

from ..core.events import EVENT_TYPES
from ..core.values import ToolEffect
from ..counterfactual import READS, Counterfactual, Setup, counterfactual, setup_of
from ..errors import ReplayError, UsageError
from ..ports import Journal
from ..replay.reading import read_history
from ..replay.reusing import Fact, Use
from .differences import find_engine
from .histories import existing_journal
from .signals import run_command
from .terminal import Screen, safe

_CHANGEABLE = ("model_replied", "tool_finished", "user_answered")
_MAY_RUN: tuple[ToolEffect, ...] = ("idempotent", "write")


def add_counterfactual_options(parser: ArgumentParser) -> None:
    """Add the options of `counterfactual`."""
    parser.add_argument("--journal", metavar="J", required=True, help="a path ending in .db or .jsonl, or a folder")
    parser.add_argument("session", metavar="SESSION", help="the recorded session")
    parser.add_argument("--at", metavar="SEQ", type=int, required=True, help="the record whose fact is another one")
    parser.add_argument(
        "--change", metavar="JSON",
        help="members of its event with other values, such as {\"content\": \"7\"} for a tool's result or "
        "{\"approve\": false} for an answer (default: only what the engine changes is changed)",
    )  # fmt: skip
    parser.add_argument(
        "--engine",
        metavar="MODULE:NAME",
        required=True,
        help="an Engine of yours to run it with; its module is imported",
    )
    parser.add_argument(
        "--may-run", metavar="EFFECT", action="append", choices=_MAY_RUN, default=[],
        help="let tools of this effect really run, not reads alone: idempotent or write",
    )  # fmt: skip


def run_counterfactual(options: Namespace, screen: Screen) -> int:
    """Run a session again with one fact changed; what was withheld or waits for a person is status 1."""
    setup = setup_of(find_engine(options.engine))
    setup["may_run"] = READS | frozenset(options.may_run)
    return run_command(lambda interrupts: _run(options, screen, setup))


async def _run(options: Namespace, screen: Screen, setup: Setup) -> int:
    async with existing_journal(options.journal) as journal:
        fact = None if options.change is None else await _fact(journal, options)
        found = await counterfactual(journal, options.session, options.at, fact, **setup)
    _show(found, screen)
    screen.result(found.as_json())
    return 1 if found.withheld or found.pending else 0


async def _fact(journal: Journal, options: Namespace) -> Fact:
    """Return the event of the record with what is to be changed in it.

    Raises:
        UsageError: it cannot be changed, or not like this.
    """
    try:
        change = json.loads(options.change)
    except ValueError as error:
        raise UsageError(f'--change is no JSON ({error}): give an object such as {{"content": "7"}}') from error
    if not isinstance(change, dict) or "kind" in change:
        raise UsageError('--change is an object with members of the event but its kind, such as {"content": "7"}')
    async for record in read_history(journal, options.session):
        if record.seq != options.at:
            continue
        if record.trigger not in _CHANGEABLE:
            raise UsageError(
                f"record {options.at} is a {record.trigger}; what can be changed: {', '.join(_CHANGEABLE)}"
            )
        told = record.event.model_dump(mode="json", exclude_defaults=True)
        try:
            return EVENT_TYPES[record.trigger].model_validate({**told, "kind": record.trigger, **change})  # type: ignore[return-value]
        except ValidationError as error:
            raise UsageError(f"record {options.at} cannot be changed like this: {error}") from error
    raise ReplayError(f"session {options.session!r} has no record {options.at}")


def _show(found: Counterfactual, screen: Screen) -> None:
    for line in found.comparison.lines():
        screen.line(safe(line))
    for title, uses in (
        ("reused", found.reused),
        ("run again", found.run_again),
        ("invalidated", found.invalidated),
        ("withheld", found.withheld),
    ):
        screen.line(f"{title}: {len(uses)}{_named(uses)}")
    for request in found.pending:
        screen.line(f"it waits for an answer: {safe(request.text)}")
    screen.line(f"the new session is {safe(found.session)}")


def _named(uses: tuple[Use, ...]) -> str:
    """Return what a list of uses is about, each name once."""
    names = dict.fromkeys(safe(use.name) if use.kind == "tool" else "the model" for use in uses)
    return f" ({', '.join(names)})" if names else ""
