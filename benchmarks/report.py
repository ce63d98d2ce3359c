"""A run as text and as JSON, with the versions that its numbers belong to.

May import the standard library. Must never name the machine, its user or a path of it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import engine

from .goals import Standing, standings
from .numbers import Number

_PACKAGES = ("anyio", "pydantic", "transitions", "structlog", "psutil", "trio")


@dataclass
class Run:
    """Everything that one run of benchmarks found."""

    effort: str
    versions: dict[str, str]
    numbers: dict[str, Number] = field(default_factory=dict[str, Number])
    notes: list[str] = field(default_factory=list[str])
    wrong: list[str] = field(default_factory=list[str])

    def add(self, numbers: Sequence[Number], notes: Sequence[str]) -> None:
        """Add what one benchmark found."""
        self.numbers.update((number.name, number) for number in numbers)
        self.notes += [note for note in notes if note not in self.notes]


def versions() -> dict[str, str]:
    """Return what the numbers of this run belong to."""
    found = {"engine": engine.__version__, "python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["system"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    commit = _commit()
    return found if commit is None else {**found, "commit": commit}


def _commit() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def load() -> str:
    """Return how busy the machine is: the load of the last minute, and the number of cores it is to be held against."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def as_json(run: Run) -> dict[str, Any]:
    """Return a run as JSON."""
    return {
        "effort": run.effort,
        "versions": run.versions,
        "numbers": {name: number._asdict() for name, number in run.numbers.items()},
        "goals": [
            {**place.goal._asdict(), "value": place.value, "required_holds": place.required, "goal_holds": place.wished}
            for place in standings(run.numbers)
        ],
        "notes": run.notes,
        "wrong": run.wrong,
    }


def as_text(run: Run) -> str:
    """Return a run as text: the numbers, then how they stand to the goals, then what a reader has to know."""
    lines = [_numbers_table(list(run.numbers.values()))]
    places = standings(run.numbers)
    if places:
        lines += ["", _goals_table(places)]
    lines += ["", ", ".join(f"{name} {text}" for name, text in run.versions.items())]
    lines += [f"note: {note}" for note in run.notes]
    lines += [f"WRONG: {wrong}" for wrong in run.wrong]
    return "\n".join(lines)


def _numbers_table(numbers: Sequence[Number]) -> str:
    rows: list[tuple[str, ...]] = [("number", "unit", "median", "p10", "p99", "samples")]
    for number in numbers:
        spread = ("", "") if number.p10 is None or number.p99 is None else (_short(number.p10), _short(number.p99))
        rows.append((number.name, number.unit, _short(number.median), *spread, str(number.samples)))
    return _table(rows)


def _goals_table(places: Sequence[Standing]) -> str:
    rows = [("goal", "measured", "required", "", "goal", "")]
    for place in places:
        goal = place.goal
        sign = "≥" if goal.at_least else "≤"
        required = "" if goal.required is None else f"{sign} {_short(goal.required)}"
        wished = "" if goal.goal is None else f"{sign} {_short(goal.goal)}"
        rows.append((goal.what, _short(place.value), required, place.required or "", wished, place.wished or ""))
    return _table(rows)


def _short(value: float) -> str:
    """Return a number with three digits that mean something, thousands parted."""
    if value == 0:
        return "0"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return a Markdown table, which is readable as it is: the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
