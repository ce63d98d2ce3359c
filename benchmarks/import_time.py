"""import_time: `import engine` in a fresh interpreter, beside the import of the five packages it needs.

The package loads the engine when the first of its names is asked for, so `from engine import Engine` is measured too:
that is what a host waits for once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import engine

from .numbers import Effort, Laps, Result, check

_ENGINE = "import engine"
_FIRST_NAME = "from engine import Engine"
_NEEDS = "import anyio, pydantic, transitions, structlog, psutil"
_PROGRAM = """
from time import perf_counter_ns, process_time_ns
cpu, wall = process_time_ns(), perf_counter_ns()
{statement}
wall, cpu = perf_counter_ns() - wall, process_time_ns() - cpu
print(wall, cpu)
"""


def measure(effort: Effort, disk: Path) -> Result:
    """Return the time of the imports, taking turns, compiled files at hand; see that importing is silent."""
    ours, first, needs = Laps(), Laps(), Laps()
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=disk) as folder:
        environment = _environment(folder)
        said = _run(_FIRST_NAME, environment, folder)
        check(said == "", f"`{_FIRST_NAME}` printed {said!r}")
        _time(_NEEDS, Laps(), environment, folder)
        for _ in range(2 * effort.runs):
            _time(_NEEDS, needs, environment, folder)
            _time(_ENGINE, ours, environment, folder)
            _time(_FIRST_NAME, first, environment, folder)
    return Result(
        (
            *ours.numbers("import_time.engine", "ms"),
            *first.numbers("import_time.first_name", "ms"),
            *needs.numbers("import_time.dependencies", "ms"),
            *ours.ratios("import_time", needs),
            *first.ratios("import_time.first_name", needs),
        )
    )


def _environment(folder: str) -> Mapping[str, str]:
    """Return an environment that finds this very engine, and keeps its compiled files in `folder`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(Path(engine.__file__).resolve().parent.parent)
    environment["PYTHONPYCACHEPREFIX"] = folder
    return environment


def _time(statement: str, laps: Laps, environment: Mapping[str, str], folder: str) -> None:
    said = _run(_PROGRAM.format(statement=statement), environment, folder)
    numbers = said.split()
    check(len(numbers) == 2 and all(number.isdecimal() for number in numbers), f"`{statement}` printed {said!r}")
    wall_ns, cpu_ns = map(int, numbers)
    laps.wall_ns.append(wall_ns)
    laps.cpu_ns.append(cpu_ns)


def _run(program: str, environment: Mapping[str, str], folder: str) -> str:
    """Run a program in a fresh interpreter and return everything it printed, errors included."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    check(done.returncode == 0, f"a fresh interpreter ended with {done.returncode}: {done.stdout}")
    return done.stdout
