"""`python -m benchmarks`: run the benchmarks and print the table.

May import everything beside it. Exit status 0, whatever the numbers are; 1 where something that was measured did not do
its work (a wrong text or count), 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import TypeAlias

from . import (
    append,
    forking,
    growth,
    guards,
    import_time,
    inspector,
    lag,
    opening,
    rate,
    replay,
    sessions,
    step,
    turn,
    workers,
)  # fmt: skip
from .numbers import FULL, NORMAL, QUICK, Effort, Result, WrongResult
from .report import Run, as_json, as_text, load, versions

Measure: TypeAlias = Callable[[Effort, Path], Result]

BENCHMARKS: Mapping[str, Measure] = {
    "step": step.measure,
    "append": append.measure,
    "turn": turn.measure,
    "guards": guards.measure,
    "growth": growth.measure,
    "open": opening.measure,
    "fork": forking.measure,
    "replay": replay.measure,
    "import_time": import_time.measure,
    "inspector": inspector.measure,
    "sessions": sessions.measure,
    "workers": workers.measure,
    "rate": rate.measure,
    "lag": lag.measure,
}


def run(benchmarks: Mapping[str, Measure], effort: Effort, disk: Path) -> Run:
    """Run benchmarks one after the other; one that goes wrong is reported and stops no other.

    Args:
        benchmarks: by name, in their order.
        effort: how much of each.
        disk: a folder on a real disk, for what is to be durable there.
    """
    found = Run(effort.name, versions())
    found.notes.append(f"load at the beginning: {load()}")
    for name, measure in benchmarks.items():
        began = perf_counter()
        print(f"{name} …", end=" ", file=sys.stderr, flush=True)
        try:
            result = measure(effort, disk)
        except* WrongResult as group:
            found.wrong += [f"{name}: {error}" for error in leaves(group)]
        else:
            found.add(result.numbers, result.notes)
        print(f"{perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    found.notes.append(f"load at the end: {load()}")
    return found


def leaves(group: ExceptionGroup[WrongResult]) -> list[WrongResult]:
    """Return the errors of a group, however deep they are."""
    found: list[WrongResult] = []
    for error in group.exceptions:
        found += [error] if isinstance(error, WrongResult) else leaves(error)
    return found


def _effort(given: argparse.Namespace) -> Effort:
    if given.quick:
        return QUICK
    return FULL if given.full else NORMAL


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What the engine costs, and its floors.")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--quick", action="store_true", help="less of everything: under a minute instead of a few")
    effort.add_argument("--full", action="store_true", help="more of everything, growth up to turn 10,000")
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there as well")
    parser.add_argument("--disk", type=Path, metavar="FOLDER", help="a folder on the disk to measure on")
    given = parser.parse_args(arguments)
    disk = given.disk or Path(tempfile.gettempdir())
    if not disk.is_dir():
        parser.error(f"--disk {disk}: there is no such folder")
    found = run({name: BENCHMARKS[name] for name in given.only or BENCHMARKS}, _effort(given), disk)
    print(as_text(found))
    if given.json is not None:
        given.json.write_text(json.dumps(as_json(found), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
