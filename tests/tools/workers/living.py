"""Tools that ask for a process of their own, as a host would make them, for the tests of the living engine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from engine import ToolContext, tool
from engine.tools.function import FunctionTool
from engine.tools.workers import WorkerLimits
from examples import misbehaving_tools as bad
from tests.tools.workers.talking import PATIENCE_S

TIGHT = WorkerLimits(tree_memory_mb=200, output_bytes=100_000, open_files=64, grace_s=0.1)
SHORT_S = 0.8
"""A deadline that is meant to pass, when the tool has said which processes it has started."""

BRANCHING = 3
"""How deep `forks_and_forks` goes: 2³ processes at its ends, all of them in sessions of their own."""


def bounded(function: Callable[..., object], timeout_s: float = SHORT_S) -> FunctionTool[..., object]:
    """Return a read that is tightly bounded, and whose deadline passes if it is not given a later one."""
    return tool(effect="read", timeout_s=timeout_s, isolation="process", limits=TIGHT)(function)


def forks_and_forks(path: str) -> None:
    """Fork, and let every child fork, all deaf to requests and gone from their sessions; note who is there."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for _ in range(BRANCHING):
        if os.fork() == 0:
            os.setsid()
    with Path(path).open("a", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(PATIENCE_S)


@tool(isolation="process", limits=TIGHT, timeout_s=SHORT_S)
async def write_that_waits(context: ToolContext) -> None:
    """Wait for ever, as an async write would wait for an answer that does not come."""
    context.progress(str(os.getpid()))
    await anyio.sleep_forever()


@tool(isolation="process", limits=TIGHT)
def write_that_hangs(context: ToolContext) -> None:
    """Hang, deaf to requests, until somebody cancels the turn."""
    bad.ignores_sigterm(context)


@tool(effect="read", isolation="process", limits=TIGHT, timeout_s=PATIENCE_S)
def holds(until: str, context: ToolContext) -> str:
    """Hold a worker until a file is there."""
    context.progress(str(os.getpid()))
    os.open(until, os.O_RDONLY)
    return "held"


@tool(effect="read", isolation="process", limits=TIGHT, timeout_s=PATIENCE_S)
def half(number: int) -> float:
    """Divide by two, and say on which side of the process it was done."""
    return number / 2


@tool(effect="read", isolation="process")
async def where() -> list[object]:
    """Return which process this is, and which loop runs here."""
    return [os.getpid(), anyio.get_cancelled_exc_class().__module__.partition(".")[0]]
