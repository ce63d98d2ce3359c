"""How a call in a worker process ended, and what that means for the call's record. May import ports and core."""

from __future__ import annotations

import signal
from enum import StrEnum
from typing import NamedTuple

from ...core.values import ResourceUsage, ToolEffect, ToolStatus
from ...ports import ToolOutput


class Ending(StrEnum):
    """How a call ended. Of the first two the function itself reported; the rest is what was done to it, or befell it.

    STOPPED: the host asked for it. DIED: the process ended by itself, or by the hand of someone else.
    """

    COMPLETED = "completed"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    MEMORY_EXCEEDED = "memory_exceeded"
    CPU_EXCEEDED = "cpu_exceeded"
    OUTPUT_EXCEEDED = "output_exceeded"
    STOPPED = "stopped"
    DIED = "died"


_STATUS = {
    Ending.TIMED_OUT: ToolStatus.TIMED_OUT,
    Ending.CPU_EXCEEDED: ToolStatus.TIMED_OUT,
    Ending.MEMORY_EXCEEDED: ToolStatus.MEMORY_EXCEEDED,
    Ending.STOPPED: ToolStatus.CANCELLED,
}
"""Of a call that can do no harm. Every other ending is a failure."""

_MAX_SHOWN_CHARS = 1000


class WorkerUsage(NamedTuple):
    """What a call used: processor time of the whole tree, the most memory that a look at the tree saw, wall time. All
    zero where nobody has seen the end.
    """

    cpu_s: float = 0.0
    peak_memory_bytes: int = 0
    duration_s: float = 0.0

    @property
    def resources(self) -> ResourceUsage | None:
        """What is recorded of it; None where nobody has seen the end."""
        if self == WorkerUsage():
            return None
        return ResourceUsage(cpu_s=self.cpu_s, peak_memory_bytes=self.peak_memory_bytes)


class WorkerOutcome(NamedTuple):
    """How a call ended.

    `content` is the result's text, or in words what went wrong. `error` is the kind of error: an exception's name, or
    the ending. `exit_code` or `signal` say how a worker died. `printed` is the end of what the tool wrote to its
    standard output and error.
    """

    ending: Ending
    content: str = ""
    error: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    printed: str = ""
    usage: WorkerUsage = WorkerUsage()

    def output(self, effect: ToolEffect) -> ToolOutput:
        """Return what is recorded and what the model is told.

        Args:
            effect: of the tool. Nobody knows what a write did that was killed or died: its status is UNKNOWN.
        """
        return self._output(effect)._replace(resources=self.usage.resources)

    def _output(self, effect: ToolEffect) -> ToolOutput:
        if self.ending is Ending.COMPLETED:
            return ToolOutput(self.content)
        printed = self.printed.strip()[-_MAX_SHOWN_CHARS:]
        text = f"{self.content}\nIt had printed:\n{printed}" if printed else self.content
        if self.ending is Ending.FAILED:
            return ToolOutput(text, ToolStatus.FAILED, self.error)
        if effect == "write":
            return ToolOutput(f"It may have taken effect: {text}", ToolStatus.UNKNOWN, self.error)
        return ToolOutput(text, _STATUS.get(self.ending, ToolStatus.FAILED), self.error)


def describe_death(exit_code: int | None, signal_number: int | None) -> str:
    """Return in words how a worker ended that nobody had asked to.

    Args:
        exit_code: its exit status; None where it was killed, or where nobody saw its end.
        signal_number: what killed it.
    """
    if signal_number is None:
        return "its process ended" if exit_code is None else f"its process ended with exit status {exit_code}"
    by_whom = ", possibly by the system for want of memory" if signal_number == signal.SIGKILL else ""
    return f"its process was killed by {_name(signal_number)}{by_whom}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
