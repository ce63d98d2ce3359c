"""workers: what a tool in a process of its own costs, how fast it is dead, and what a killed host leaves behind.

A worker that reports the moment at which its own memory crosses the limit is killed; from then until the host hears
that its tree is gone is the latency. The hosts that are killed are processes of this module. May import the engine.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import psutil

from engine import ToolContext
from engine.tools.workers import Ending, WorkerCall, WorkerLimits, WorkerOutcome, WorkerPool, target_of
from engine.tools.workers.protocol import context_to_json

from .numbers import Effort, Laps, Number, Result, check, distribution, mark

_ROOT = Path(__file__).resolve().parent.parent
_MEBIBYTE = 2**20
_LIMIT_MB = 200
_PIECE_MB = 8
_WANTED_MB = 2048
_TIMEOUT_S = 60.0
_CONTEXT = ToolContext("c", "f", {}, "k", _TIMEOUT_S, "bench", 1)


def add(a: int, b: int) -> int:
    """Do next to nothing."""
    return a + b


def eat(context: ToolContext) -> int:
    """Allocate ten times what is allowed, and report the moment of crossing the limit."""
    held: list[bytearray] = []
    crossed = False
    for _ in range(_WANTED_MB // _PIECE_MB):
        held.append(bytearray(_PIECE_MB * _MEBIBYTE))
        held[-1][::4096] = b"x" * (_PIECE_MB * _MEBIBYTE // 4096)
        if not crossed and psutil.Process().memory_info().rss > _LIMIT_MB * _MEBIBYTE:
            crossed = True
            context.progress(str(time.monotonic_ns()))
    return len(held)


def gets_away(context: ToolContext) -> None:
    """Leave a child in a session of its own and an orphan of two forks, and wait."""
    waiting = [sys.executable, "-c", "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"]
    context.progress(str(subprocess.Popen(waiting, start_new_session=True).pid))
    quiet = f"stdout={subprocess.DEVNULL}, stderr={subprocess.DEVNULL}"
    script = f"import subprocess; print(subprocess.Popen({waiting!r}, start_new_session=True, {quiet}).pid)"
    middle = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    context.progress(middle.stdout.strip())
    context.progress(str(os.getpid()))
    time.sleep(_TIMEOUT_S)


_REPORTED = 3
"""How many processes `gets_away` reports."""


def measure(effort: Effort, disk: Path) -> Result:
    """Return starts and calls, the latency of kills, and the orphans of killed hosts."""
    kills = max(1, min(50, effort.turns // 10))
    return Result(
        (
            *anyio.run(_starts_and_calls, effort),
            *anyio.run(_memory_kills, max(1, kills // 5)),
            *_host_kills(kills),
        )
    )


def _call(function: Callable[..., Any], arguments: Mapping[str, Any], limits: WorkerLimits) -> WorkerCall:
    return WorkerCall(target_of(function), arguments, context_to_json(_CONTEXT), _TIMEOUT_S, limits)


async def _starts_and_calls(effort: Effort) -> Sequence[Number]:
    cold, replaced, warm = Laps(), Laps(), Laps()
    for _ in range(effort.runs):
        since = mark()
        async with WorkerPool(size=1, idle=0, recycle_after=effort.turns) as pool:
            await _add(pool)
            cold.add(since)
            for _ in range(effort.turns - 1):
                since = mark()
                await _add(pool)
                warm.add(since)
            since = mark()
            await _add(pool)
            replaced.add(since)
    return (
        cold.numbers("workers.first_call", "ms")[0],
        replaced.numbers("workers.call_in_new_process", "ms")[0],
        warm.numbers("workers.call", "ms")[0],
    )


async def _add(pool: WorkerPool) -> None:
    outcome = await pool.run(_call(add, {"a": 1, "b": 2}, WorkerLimits()))
    check(outcome.content == "3", f"1 + 2 = {outcome}")


async def _memory_kills(count: int) -> Sequence[Number]:
    """Kill workers that want too much, beside one that does not, and see how far both the tree and the host grow."""
    latency_ms: list[float] = []
    overshoot_mb: list[float] = []
    siblings: list[WorkerOutcome] = []
    host = psutil.Process()
    async with WorkerPool(size=2, idle=1) as pool:
        await _add(pool)
        before = host.memory_info().rss

        async def sibling() -> None:
            siblings.append(await pool.run(_call(add, {"a": 1, "b": 2}, WorkerLimits())))

        for _ in range(count):
            crossed_ns: list[str] = []
            async with anyio.create_task_group() as group:
                group.start_soon(sibling)
                outcome = await pool.run(_call(eat, {}, WorkerLimits(tree_memory_mb=_LIMIT_MB)), crossed_ns.append)
            ended_ns = time.monotonic_ns()
            check(outcome.ending is Ending.MEMORY_EXCEEDED, f"it ended as {outcome.ending}")
            # A worker that was dead before it could report the crossing was killed faster than it could look.
            latency_ms += [(ended_ns - int(text)) / 1e6 for text in crossed_ns or [str(ended_ns)]]
            overshoot_mb.append(outcome.usage.peak_memory_bytes / _MEBIBYTE - _LIMIT_MB)
        growth_mb = (host.memory_info().rss - before) / _MEBIBYTE
    check(all(outcome.content == "3" for outcome in siblings), "a sibling did not finish")
    return (
        distribution("workers.memory_kill.after_crossing", "ms", latency_ms),
        distribution("workers.memory_kill.overshoot", "MiB", overshoot_mb),
        Number("workers.memory_kill.host_growth", "MiB", growth_mb),
    )


def _host_kills(count: int) -> Sequence[Number]:
    """Kill hosts with SIGKILL and count what is left of their tools a second later."""
    orphans = 0
    latency_ms: list[float] = []
    for _ in range(count):
        command = [sys.executable, "-m", __name__]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as host:
            assert host.stdout is not None
            handles = [os.pidfd_open(int(host.stdout.readline())) for _ in range(_REPORTED)]
            host.kill()
            killed = time.monotonic()
            for handle in handles:
                left_ms = max(0.0, 1000 - (time.monotonic() - killed) * 1000)
                poll = select.poll()
                poll.register(handle, select.POLLIN)
                orphans += not poll.poll(left_ms)
                os.close(handle)
            latency_ms.append((time.monotonic() - killed) * 1000)
    return (
        Number("workers.host_kill.orphans_after_1_s", "processes", orphans, samples=count * _REPORTED),
        distribution("workers.host_kill.all_gone", "ms", latency_ms),
    )


async def _be_killed() -> None:
    """Be a host whose tool gets away."""
    async with WorkerPool(size=1, idle=0) as pool:
        await pool.run(_call(gets_away, {}, WorkerLimits()), lambda text: print(text, flush=True))


if __name__ == "__main__":
    anyio.run(_be_killed)
