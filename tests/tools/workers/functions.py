"""Well-behaved functions for workers to find, and a few that fail in ordinary ways."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import anyio

from engine import ToolContext, tool
from examples import misbehaving_tools

loaded_in = os.getpid()
"""Which process has imported this module."""


def add(a: int, b: int) -> int:
    return a + b


def echo(text: str) -> str:
    return text


async def add_async(a: int, b: int) -> int:
    await anyio.lowlevel.checkpoint()
    return a + b


async def loop_name() -> str:
    return anyio.get_cancelled_exc_class().__module__.partition(".")[0]


@tool(effect="read")
def decorated(a: int) -> list[int]:
    return [a]


class Group:
    @staticmethod
    def inside(a: int) -> int:
        return a


def pid() -> int:
    return os.getpid()


def key_and_arguments(context: ToolContext, a: int) -> list[object]:
    return [context.idempotency_key, dict(context.arguments), dict(context.metadata), context.priority.value, a]


def reports(context: ToolContext) -> str:
    context.progress("half")
    context.progress("all")
    return "done"


def reports_much(context: ToolContext) -> None:
    while True:
        context.progress("x" * 1000)


def raises(text: str) -> None:
    sys.stdout.write("about to fail\n")
    raise ValueError(text)


async def raises_async() -> None:
    raise ValueError("async")


def exits() -> None:
    raise SystemExit(3)


def exits_at_once() -> None:
    sys.stdout.write("last words\n")
    os._exit(3)


def returns_object() -> object:
    return {"rows": [object()]}


def returns_text(size: int) -> str:
    return "x" * size


def leaves_a_thread() -> int:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    return os.getpid()


def environment() -> list[str]:
    return sorted(os.environ)


def surroundings() -> dict[str, object]:
    """What a worker stands in: its session, its open descriptors but for the one that lists them, its input."""
    folder = Path("/proc/self/fd")
    held = [number for number in folder.iterdir() if number.exists()] if folder.exists() else []
    return {"leads_session": os.getsid(0) == os.getpid(), "descriptors": len(held), "input": sys.stdin.read()}


def writes(path: str, megabytes: int) -> None:
    Path(path).write_bytes(bytes(megabytes * 2**20))


def allocates(megabytes: int) -> int:
    return len(bytearray(megabytes * 2**20))


def catches_memory_error(megabytes: int) -> str:
    try:
        bytearray(megabytes * 2**20)
    except MemoryError:
        return "caught"
    return "not limited"


def burns_in_child() -> None:
    subprocess.run([sys.executable, "-c", "while True: pass"], check=False)


def cleans_up(path: str, context: ToolContext) -> None:
    try:
        context.progress("waiting")
        signal.pause()
    finally:
        Path(path).write_text("cleaned", "ascii")


async def cleans_up_async(path: str, context: ToolContext) -> None:
    try:
        context.progress("waiting")
        await anyio.sleep_forever()
    finally:
        Path(path).write_text("cleaned", "ascii")  # noqa: ASYNC240 - the loop ends anyway


def waits(context: ToolContext) -> None:
    context.progress(str(os.getpid()))
    signal.pause()


def out_of_memory() -> None:
    raise MemoryError


def terminates_itself() -> str:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit:
        return "swallowed"
    return "not asked"


async def terminates_itself_async() -> str:
    # The request has a receiver of its own, which has to be there first.
    await anyio.wait_all_tasks_blocked()
    os.kill(os.getpid(), signal.SIGTERM)
    await anyio.sleep_forever()
    return "not asked"


def kills_its_supervisor() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def closes_its_socket() -> None:
    for number in range(3, 64):
        try:
            kind = socket.socket(fileno=number)
        except OSError:
            continue
        kind.close()


def detaches_and_waits(context: ToolContext) -> None:
    """Start every kind of process that tries to get away, and do not come back."""
    misbehaving_tools.leaves_its_session(context)
    misbehaving_tools.forks_twice(context)
    misbehaving_tools.ignores_sigterm(context)
