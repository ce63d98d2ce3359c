"""`doctor`: what is installed, what this machine can enforce, what is missing and the command that gets it.

May import psutil, the standard library and its neighbours. Must never change anything but a temporary file of its own.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Literal

import psutil

from .._version import __version__
from ..core.values import JsonObject
from ..models.llama_cpp import packaged_model
from ..tools.workers import Strength, strength
from .terminal import Screen, safe

REQUIRED = ("anyio", "psutil", "pydantic", "structlog", "transitions")
EXTRAS = {"http": "httpx2", "local": "xllamacpp", "cli": "rich", "plot": "matplotlib", "ui": "uvicorn"}

_FSYNCS = 16
_OLDEST_SQLITE = (3, 35, 0)


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `get` is the exact command that mends it, where one does."""

    part: Literal["installed", "optional", "machine", "limits"]
    name: str
    shown: str
    level: Literal["ok", "note", "missing"] = "ok"
    get: str = ""


def add_doctor_options(parser: ArgumentParser) -> None:
    """Add the options of `doctor`: none of its own."""


def doctor(options: Namespace, screen: Screen) -> int:
    """Print what was found; 1 if something required is missing."""
    return report(examine(), screen)


def examine() -> list[Finding]:
    """Look at everything."""
    return [*_installed(REQUIRED), *_optional(), *_machine(), *_limits()]


def report(findings: Iterable[Finding], screen: Screen) -> int:
    """Print findings, the missing ones with what to do; return the exit status."""
    found = list(findings)
    part = ""
    for finding in found:
        if finding.part != part:
            part = finding.part
            screen.heading(part)
        mark = {
            "ok": screen.paint("✓", "green"),
            "note": screen.paint("·", "yellow"),
            "missing": screen.paint("✗", "red"),
        }
        screen.line(f"  {mark[finding.level]} {finding.name:<22} {safe(finding.shown)}")
        if finding.get:
            screen.line(f"    {'':<22} {screen.paint(finding.get, 'bold')}")
    missing = [finding.name for finding in found if finding.level == "missing"]
    screen.line()
    screen.line(f"missing: {', '.join(missing)}" if missing else "everything that is required is there")
    shown: list[JsonObject] = [
        {"part": item.part, "name": item.name, "text": item.shown, "level": item.level, "get": item.get}
        for item in found
    ]
    screen.result({"ok": not missing, "missing": [*missing], "findings": [*shown]})
    return 1 if missing else 0


def _version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _installed(required: Iterable[str]) -> list[Finding]:
    found = [Finding("installed", "agent-engine", __version__)]
    modern = sys.version_info >= (3, 11)
    found.append(
        Finding(
            "installed",
            "Python",
            f"{platform.python_version()} ({platform.python_implementation()})",
            "ok" if modern else "missing",
        )
    )
    for package in required:
        have = _version_of(package)
        found.append(
            Finding("installed", package, have)
            if have
            else Finding("installed", package, "not installed", "missing", f"pip install {package}")
        )
    modern = sqlite3.sqlite_version_info >= _OLDEST_SQLITE
    found.append(Finding("installed", "SQLite", sqlite3.sqlite_version, "ok" if modern else "missing"))
    model = packaged_model()
    if model.is_file():
        found.append(Finding("installed", "packaged model", f"{model.name}, {model.stat().st_size / 1e3:.0f} kB"))
    else:
        get = "pip install --force-reinstall agent-engine"
        found.append(Finding("installed", "packaged model", f"{model.name} is not there", "missing", get))
    return found


def _optional() -> list[Finding]:
    found: list[Finding] = []
    for extra, package in EXTRAS.items():
        have = _version_of(package)
        found.append(
            Finding("optional", f"extra {extra}", f"{package} {have}")
            if have
            else Finding(
                "optional",
                f"extra {extra}",
                f"{package} is not installed",
                "note",
                f"pip install 'agent-engine[{extra}]'",
            )
        )
    return found


def _machine() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd())
    found = [
        Finding("machine", "system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        Finding("machine", "cores", f"{cores} for this process"),
        Finding("machine", "memory", f"{_gib(memory.available)} free of {_gib(memory.total)}"),
        Finding("machine", "current folder", f"{_gib(disk.free)} free of {_gib(disk.total)}"),
        _fsync_time(),
    ]
    shared = Path("/dev", "shm")
    if shared.is_dir():
        found.append(Finding("machine", str(shared), f"{_gib(shutil.disk_usage(shared).free)} free"))
    else:
        found.append(Finding("machine", str(shared), "not there: no RAM disk for benchmarks", "note"))
    return found


def _fsync_time() -> Finding:
    """Measure what making one record durable costs in the current folder at least."""
    times_s: list[float] = []
    try:
        with tempfile.TemporaryFile(dir=Path.cwd()) as file:
            for _ in range(_FSYNCS):
                file.write(b"x" * 512)
                file.flush()
                started = time.perf_counter()
                os.fsync(file.fileno())
                times_s.append(time.perf_counter() - started)
    except OSError as error:
        return Finding(
            "machine", "fsync here", f"cannot be measured: {error.strerror}; journals need a writable folder", "note"
        )
    return Finding(
        "machine", "fsync here", f"{median(times_s) * 1e3:.2f} ms, the slowest of {_FSYNCS} {max(times_s) * 1e3:.2f} ms"
    )


def _limits() -> list[Finding]:
    found = [
        Finding("limits", "time of async tools", "enforced: cancelled at their deadline"),
        Finding(
            "limits",
            "time of sync tools",
            'their result is given up at the deadline, their thread ends by itself; isolation="process" ends it',
            "note",
        ),
        Finding("limits", "tools at a time", "enforced, threads counted until they really end"),
        *isolation(strength()),
    ]
    try:
        import resource
    except ImportError:
        return [*found, Finding("limits", "rlimits", "this system has none", "note")]
    for name, kind, unit in (
        ("address space", resource.RLIMIT_AS, "bytes"),
        ("CPU time", resource.RLIMIT_CPU, "s"),
        ("open files", resource.RLIMIT_NOFILE, ""),
    ):
        soft, hard = resource.getrlimit(kind)
        found.append(
            Finding(
                "limits",
                f"rlimit {name}",
                f"can be set; now {_limit(soft, unit)}, at most {_limit(hard, unit)}",
            )
        )
    found.append(_cgroup())
    return found


def isolation(machine: Strength) -> list[Finding]:
    """Say what holds for tools with `isolation="process"` on this machine."""
    if machine.memory == "advisory":
        text = "this system forks no workers: an engine with such tools is refused"
        return [Finding("limits", "tools in processes", text, "note")]
    memory = "rlimit: address_space_mb in the kernel, tree_memory_mb by samples every 20 ms"
    if machine.memory == "sampled":
        memory = "sampled: tree_memory_mb by samples every 20 ms; address_space_mb does not bind here"
    orphans = "enforced: whatever left its parents is found and killed"
    if not machine.orphans:
        orphans = "what cut itself off from its parents is not found here"
    return [
        Finding("limits", "tools in processes", f"killed with all they started; rlimits {', '.join(machine.rlimits)}"),
        Finding("limits", "memory of processes", memory, "ok" if machine.memory == "rlimit" else "note"),
        Finding("limits", "orphans of processes", orphans, "ok" if machine.orphans else "note"),
    ]


def _cgroup() -> Finding:
    """Say whether this process' memory is bounded from outside, and whether it could bound others itself."""
    mounted = Path("/sys/fs/cgroup")
    if not (mounted / "cgroup.controllers").is_file():
        return Finding("limits", "cgroup", "no cgroup v2 here: memory of tools cannot be bounded by one", "note")
    own = mounted
    try:
        line = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::")[2]
        own = mounted / line.lstrip("/") if (mounted / line.lstrip("/")).is_dir() else mounted
        limit_file = own / "memory.max"
        bound = limit_file.read_text(encoding="utf-8").strip() if limit_file.is_file() else "max"
    except OSError as error:
        return Finding("limits", "cgroup", f"v2, cannot be read: {error.strerror}", "note")
    shown = "unbounded" if bound == "max" else f"{int(bound) / 2**30:.1f} GiB"
    writable = os.access(own, os.W_OK)
    groups = "groups of its own can be made" if writable else "no groups can be made"
    return Finding("limits", "cgroup", f"v2, memory {shown}, {groups}", "ok" if writable else "note")


def _limit(value: int, unit: str) -> str:
    # RLIM_INFINITY is -1 here and the greatest number there.
    return "unlimited" if value < 0 or value >= 2**63 - 1 else f"{value:,} {unit}".strip()


def _gib(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
