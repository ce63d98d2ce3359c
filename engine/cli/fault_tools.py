"""Tools that misbehave, for `demo --faults`: each in one way, and harmless to whoever watches.

At the top of a module, because worker processes find them by name. May import the public surface. Must never leave
anything behind that the engine is not there to end.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress

import anyio

from ..ports import Tool, ToolContext
from ..tools.function import tool
from ..tools.workers import WorkerLimits

_MEBIBYTE = 2**20
_BOUNDED = WorkerLimits(tree_memory_mb=120, grace_s=0.2)


def _keep_the_thread(seconds: float) -> None:
    """Do nothing, and let this thread do nothing else."""
    threading.Event().wait(seconds)


@tool(effect="read", timeout_s=0.2)
async def hang() -> str:
    """Wait for something that never comes."""
    await anyio.sleep_forever()
    return "never"


@tool(effect="read")
async def block() -> str:
    """Keep the event loop from everybody else."""
    await anyio.sleep(0.05)
    _keep_the_thread(1.0)
    return "done, alone"


@tool(timeout_s=0.4)
def transfer(amount: int) -> str:
    """Move money, slowly, in a thread that nobody can stop."""
    _keep_the_thread(0.8)
    return f"moved {amount}"


@tool(effect="read", timeout_s=30, isolation="process", limits=_BOUNDED)
def ignore_sigterm(context: ToolContext) -> None:
    """Stay, not even ended when asked to."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.progress(str(os.getpid()))
    _keep_the_thread(3600)


@tool(effect="read", timeout_s=30, isolation="process", limits=_BOUNDED)
def hoard(context: ToolContext, megabytes: int) -> int:
    """Allocate, in pieces of 8 MB."""
    context.progress(str(os.getpid()))
    return len([bytearray(b"x") * (8 * _MEBIBYTE) for _ in range(megabytes // 8)])


@tool(effect="read")
async def hoard_here(megabytes: int) -> str:
    """Allocate in the engine's own process, and hold on to it."""
    held = bytearray(b"x") * (megabytes * _MEBIBYTE)
    await anyio.sleep_forever()
    return str(len(held))


@tool(effect="read")
async def look() -> str:
    """Look at something that never changes."""
    return "as before"


@tool(effect="read", on_failure="stop")
async def break_down() -> str:
    """Fail, in a way that leaves nothing to go on with."""
    raise RuntimeError("the disk of the service is gone")


class Stubborn:
    """A tool that swallows its cancellation, until somebody lets it end. Made where an event loop runs."""

    def __init__(self) -> None:
        self._released = anyio.Event()

    def let_end(self) -> None:
        """Let the tool end."""
        self._released.set()

    def tool(self) -> Tool:
        """Return it."""

        @tool(effect="read", timeout_s=0.2)
        async def swallow() -> str:
            """Go on, whoever cancels it."""
            with suppress(anyio.get_cancelled_exc_class()):
                await self._released.wait()
            with anyio.CancelScope(shield=True):
                await self._released.wait()
            return "at last"

        return swallow


class Counted:
    """Tools that remember how often they have run, and behave by it.

    Attributes:
        runs: the names of the tools, each time that one has run.
    """

    def __init__(self) -> None:
        self.runs: list[str] = []

    def tools(self) -> tuple[Tool, ...]:
        """Return a tool that answers the third time, a write, a read, and one that answers the second time."""

        @tool(effect="read", on_failure="retry")
        async def call_service() -> str:
            """Ask a service that has a bad moment."""
            self.runs.append("call_service")
            if self.runs.count("call_service") < 3:
                raise ConnectionError("no answer")
            return "it answers"

        @tool
        async def pay(amount: int = 1) -> str:
            """Pay."""
            self.runs.append("pay")
            return f"paid {amount}"

        @tool(effect="read")
        async def read_one() -> str:
            """Read at once."""
            self.runs.append("read_one")
            return "one"

        @tool(effect="read")
        async def read_slowly() -> str:
            """Read, and take for ever the first time."""
            self.runs.append("read_slowly")
            if self.runs.count("read_slowly") < 2:
                await anyio.sleep_forever()
            return "two"

        return call_service, pay, read_one, read_slowly


__all__ = [
    "Counted", "Stubborn", "block", "break_down", "hang", "hoard", "hoard_here", "ignore_sigterm", "look", "transfer",
]  # fmt: skip
