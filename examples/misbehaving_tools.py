"""One tool for each way to misbehave, run in worker processes; what becomes of each, and what is left of it.

    python examples/misbehaving_tools.py

Every tool says through its progress which processes it has started. Afterwards none of them is there any more.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import IO

import anyio

from engine import Engine, ModelReply, Prompt, ToolCall, ToolContext, tool
from engine.core.notices import ToolProgress
from engine.models import FunctionModel
from engine.tools.workers import WorkerLimits

bounded = tool(
    effect="read",
    timeout_s=1,
    isolation="process",
    limits=WorkerLimits(cpu_s=0.5, tree_memory_mb=200, open_files=64, output_bytes=100_000, grace_s=0.2),
)
"""A process of its own for each of them, one second, and little of everything."""


@bounded
def hangs(context: ToolContext) -> None:
    """Never come back."""
    context.progress(str(os.getpid()))
    time.sleep(3600)


@bounded
def ignores_sigterm(context: ToolContext) -> None:
    """Not even when asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.progress(str(os.getpid()))
    time.sleep(3600)


@bounded
async def swallows_cancellation(context: ToolContext) -> None:
    """Go on waiting, whoever cancels it."""
    context.progress(str(os.getpid()))
    while True:
        with suppress(anyio.get_cancelled_exc_class()):
            await anyio.sleep(3600)


@bounded
def eats_memory(context: ToolContext, megabytes: int = 2048) -> int:
    """Allocate 2 GB, in pieces of 8 MB."""
    context.progress(str(os.getpid()))
    return len([bytearray(8 * 2**20) for _ in range(megabytes // 8)])


@bounded
def eats_memory_in_children(context: ToolContext, children: int = 6, megabytes: int = 100) -> None:
    """Let each of several processes allocate what one alone may have."""
    source = f"import time; held = bytearray({megabytes} * 2**20); time.sleep(3600)"
    for _ in range(children):
        context.progress(str(subprocess.Popen([sys.executable, "-c", source]).pid))  # noqa: S603 - itself
    time.sleep(3600)


@bounded
def leaves_its_session(context: ToolContext) -> str:
    """Start a process in a session of its own, and end well."""
    lingering = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
    context.progress(str(lingering.pid))
    return "started"


@bounded
def forks_twice(context: ToolContext) -> str:
    """Start a process that nobody is the parent of, in a session of its own, deaf to requests; and end well."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.write(writing, str(os.getpid()).encode())
            time.sleep(3600)
        os._exit(0)
    os.waitpid(child, 0)
    context.progress(os.read(reading, 20).decode())
    return "started"


@bounded
def floods_output(context: ToolContext) -> None:
    """Print without end."""
    context.progress(str(os.getpid()))
    while True:
        print("and so on" * 1000)


@bounded
def burns_cpu(context: ToolContext) -> None:
    """Compute nothing, without end."""
    context.progress(str(os.getpid()))
    while True:
        pass


@bounded
def opens_files() -> None:
    """Open the same file without end."""
    held: list[IO[str]] = []
    while True:
        held.append(open(os.devnull))  # noqa: PTH123, SIM115 - that is the point


@bounded
def dies(context: ToolContext) -> None:
    """End the whole process, as a fault in a compiled library would."""
    context.progress(str(os.getpid()))
    os.abort()


TOOLS = (
    hangs, ignores_sigterm, swallows_cancellation, eats_memory, eats_memory_in_children, leaves_its_session,
    forks_twice, floods_output, burns_cpu, opens_files, dies,
)  # fmt: skip


def lives(pid: int) -> bool:
    """Return whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def main() -> None:
    """Run them one by one and print how each ended."""
    model = FunctionModel(lambda request: ModelReply(text="I see."))
    async with Engine(model=model, tools=TOOLS) as engine:
        session = await engine.open("misbehaving")
        for name in (made.spec.name for made in TOOLS):
            started: list[int] = []
            async for item in session.stream(Prompt(calls=[ToolCall(id="c1", name=name)])):
                if isinstance(item, ToolProgress):
                    started.append(int(item.text))
            (call,) = session.turns[-1].tool_calls
            left = sum(lives(pid) for pid in started)
            text = call.content.splitlines()[0]
            print(f"{name:24} {call.status:16} {left} of {len(started)} processes left · {text}")


if __name__ == "__main__":
    anyio.run(main)
