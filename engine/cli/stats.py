"""`stats`: what a journal's histories add up to, by session and in total.

May import core, api and its neighbours. Must never load more than one record at a time.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from ..api import read_history
from ..core.events import ModelReplied, PromptReceived, ToolFinished
from ..core.record import TransitionRecord
from ..core.values import JsonObject, State, ToolStatus, Usage
from .histories import chosen_sessions, existing_journal
from .signals import Interrupts, run_command
from .terminal import Screen, progress, safe


def add_stats_options(parser: ArgumentParser) -> None:
    """Add the options of `stats`."""
    parser.add_argument("--journal", metavar="J", required=True, help="a path ending in .db or .jsonl, or a folder")
    parser.add_argument("session", nargs="?", metavar="SESSION", help="one session (default: all of them)")


@dataclass
class ToolNumbers:
    """The calls of one tool: how they ended, and how long they took, in seconds."""

    statuses: Counter[str] = field(default_factory=Counter[str])
    durations_s: list[float] = field(default_factory=list[float])

    def as_json(self) -> JsonObject:
        """Return count, ends, mean and 95th percentile (nearest rank)."""
        ranked = sorted(self.durations_s)
        failed = sum(count for status, count in self.statuses.items() if status != ToolStatus.COMPLETED.value)
        return {
            "calls": len(ranked), "failed": failed, "statuses": dict(self.statuses),
            "mean_s": round(sum(ranked) / len(ranked), 6) if ranked else 0.0,
            "p95_s": round(ranked[math.ceil(0.95 * len(ranked)) - 1], 6) if ranked else 0.0,
        }  # fmt: skip


@dataclass
class Numbers:
    """What one or more histories add up to."""

    records: int = 0
    turns: int = 0
    faults: int = 0
    state: State = State.IDLE
    entered: Counter[str] = field(default_factory=Counter[str])
    tools: defaultdict[str, ToolNumbers] = field(default_factory=lambda: defaultdict(ToolNumbers))
    usage: Usage = field(default_factory=Usage)
    _names: dict[str, str] = field(default_factory=dict[str, str])

    def take(self, record: TransitionRecord) -> None:
        """Add one record."""
        self.note(record)
        self.records += 1
        self.state = record.dest
        if record.source is not record.dest:
            self.entered[record.dest.value] += 1
        match record.event:
            case PromptReceived():
                self.turns += 1
            case ModelReplied(reply=reply):
                if reply.usage is not None:
                    self.usage = self.usage + reply.usage
            case ToolFinished() as end:
                numbers = self.tools[self._names.get(end.call_id, "?")]
                numbers.statuses[end.status.value] += 1
                numbers.durations_s.append(end.duration_s)
            case _:
                self.faults += record.dest is State.ERROR and record.source is not State.ERROR

    def note(self, record: TransitionRecord) -> None:
        """Learn what calls are called, also from a record that is not counted here."""
        match record.event:
            case PromptReceived(direct_calls=calls):
                self._names = {call.id: call.name for call in calls}
            case ModelReplied(reply=reply):
                self._names |= {call.id: call.name for call in reply.tool_calls}
            case _:
                pass

    def add(self, other: Numbers) -> None:
        """Add what other histories add up to."""
        self.records += other.records
        self.turns += other.turns
        self.faults += other.faults
        self.entered += other.entered
        self.usage = self.usage + other.usage
        for name, numbers in other.tools.items():
            self.tools[name].statuses += numbers.statuses
            self.tools[name].durations_s += numbers.durations_s

    def as_json(self) -> JsonObject:
        """Return everything but the state."""
        return {
            "records": self.records, "turns": self.turns, "faults": self.faults, "states_entered": dict(self.entered),
            "tools": {name: numbers.as_json() for name, numbers in sorted(self.tools.items())},
            "input_tokens": self.usage.input_tokens, "output_tokens": self.usage.output_tokens,
            "cached_tokens": self.usage.cached_tokens,
        }  # fmt: skip


def stats(options: Namespace, screen: Screen) -> int:
    """Print the numbers of a journal."""

    async def work(interrupts: Interrupts) -> int:
        found = await collect(options.journal, options.session)
        _show(found, screen)
        return 0

    return run_command(work)


class Found(NamedTuple):
    """What was found: each session with everything it begins with, and all together, what forks share counted once."""

    sessions: dict[str, Numbers]
    total: Numbers


async def collect(name: str, session: str | None = None) -> Found:
    """Return the numbers of each session, or of the one, and of all together.

    Raises:
        UsageError: there is no such journal or session.
        JournalError: a history cannot be read, or is damaged.
    """
    found: dict[str, Numbers] = {}
    total = Numbers()
    async with existing_journal(name) as journal:
        with progress("stats") as show:
            chosen = await chosen_sessions(journal, session)
            for key in chosen:
                numbers = found[key] = Numbers()
                own = Numbers()
                async for record in read_history(journal, key):
                    numbers.take(record)
                    # What a fork shares is its parent's, and counted there.
                    if record.session == key or record.session not in chosen:
                        own.take(record)
                    else:
                        own.note(record)
                total.add(own)
                show(numbers.records)
    return Found(found, total)


def _show(given: Found, screen: Screen) -> None:
    found, total = given
    width = min(40, max((len(name) for name in found), default=7))
    screen.line(
        screen.paint(
            f"{'session':<{width}}  {'state':<19} {'records':>8} {'turns':>6} {'calls':>6} {'failed':>6} {'tokens':>8}",
            "bold",
        )
    )
    for name, numbers in found.items():
        screen.line(_row(name, numbers.state.value, numbers, width))
    screen.line(screen.paint(_row(f"{len(found)} sessions", "", total, width), "bold"))
    if total.tools:
        screen.heading(f"{'tool':<24} {'calls':>6} {'failed':>6} {'mean':>9} {'p95':>9}")
    for name, tool in sorted(total.tools.items()):
        shown = tool.as_json()
        counts = f"{shown['calls']:>6} {shown['failed']:>6}"
        screen.line(f"{safe(name):<24} {counts} {shown['mean_s']:>7.3f} s {shown['p95_s']:>7.3f} s")
    if total.entered:
        screen.heading("states entered")
    for state in State:
        if total.entered[state.value]:
            screen.line(f"{state.value:<24} {total.entered[state.value]:>6}")
    screen.result(
        {
            "sessions": {name: {"state": numbers.state.value, **numbers.as_json()} for name, numbers in found.items()},
            "total": {"sessions": len(found), **total.as_json()},
        }
    )


def _row(name: str, state: str, numbers: Numbers, width: int) -> str:
    calls = sum(len(tool.durations_s) for tool in numbers.tools.values())
    done = sum(tool.statuses[ToolStatus.COMPLETED.value] for tool in numbers.tools.values())
    tokens = numbers.usage.input_tokens + numbers.usage.output_tokens
    counts = f"{numbers.records:>8,} {numbers.turns:>6,} {calls:>6,} {calls - done:>6,} {tokens:>8,}"
    return f"{name:<{width}}  {state:<19} {counts}"
