"""A call that runs in a worker: what it has used so far, why it ends, and what is said about it then.

Looks at nothing itself: samples, bytes and ends are handed in. May import its neighbours.
"""

from __future__ import annotations

import signal

from .outcome import Ending, WorkerOutcome, WorkerUsage, describe_death
from .protocol import WorkerCall
from .tree import Ended, Sample, proportional_bytes
from .wire import Frame

_TAIL_BYTES = 4096
_SPARE_BYTES = 4096
"""How far a result may exceed its limit before the worker counts as out of hand: it keeps to the limit by itself."""

_EVEN_WHEN_ASKED = (Ending.MEMORY_EXCEEDED, Ending.CPU_EXCEEDED, Ending.OUTPUT_EXCEEDED)


class Watched:
    """One call.

    Attributes:
        ending: why it ends, None while it runs. The first reason counts.
        result: the frame with what the function returned or raised, if it got so far.
    """

    def __init__(self, call: WorkerCall, started_s: float, spent_before_s: float) -> None:
        self.call = call
        self.started_s = started_s
        self.ending: Ending | None = None
        self.result: Frame | None = None
        self._asked_to_end = False
        self._spent_before_s = spent_before_s
        self._spent_s = 0.0
        self._peak_bytes = 0
        self._output_bytes = 0
        self._tail = bytearray()

    def end(self, ending: Ending) -> None:
        """Note a reason to end. Once the call was asked to, only a limit is one."""
        if self.ending is None and (not self._asked_to_end or ending in _EVEN_WHEN_ASKED):
            self.ending = ending

    def ask_to_end(self) -> None:
        """Note that the call was asked to end, and has its grace period."""
        self._asked_to_end = True
        self.ending = None

    def returned(self, result: Frame) -> None:
        """Note what the function returned. What comes later than the end of the call is dropped."""
        self.end(Ending.COMPLETED)
        if self.ending is Ending.COMPLETED:
            self.result = result

    def holds(self, partial_bytes: int) -> None:
        """Hold a frame that is still coming against the limit."""
        if partial_bytes > self.call.limits.output_bytes + _SPARE_BYTES:
            self.end(Ending.OUTPUT_EXCEEDED)

    def reported(self, size_bytes: int) -> None:
        """Count what the tool has reported or printed."""
        self._output_bytes += size_bytes
        if self._output_bytes > self.call.limits.output_bytes:
            self.end(Ending.OUTPUT_EXCEEDED)

    def printed(self, data: bytes) -> None:
        """Count what the tool has printed, and keep the end of it."""
        self.reported(len(data))
        self._tail += data
        del self._tail[:-_TAIL_BYTES]

    def looked(self, sample: Sample, reaped_s: float) -> None:
        """Hold the tree against the limits.

        Args:
            sample: what lives.
            reaped_s: processor time of what has ended, in seconds.
        """
        limits, memory_bytes = self.call.limits, sample.memory_bytes
        if memory_bytes > limits.memory_bytes:
            # Pages that processes share were counted for each; only now is the exact sum worth what it costs.
            memory_bytes = proportional_bytes(sample)
            if memory_bytes > limits.memory_bytes:
                self.end(Ending.MEMORY_EXCEEDED)
        self._peak_bytes = max(self._peak_bytes, memory_bytes)
        # The end of a process may move its time from one sum to the other between two looks.
        self._spent_s = max(self._spent_s, sample.cpu_s + reaped_s - self._spent_before_s)
        if limits.cpu_s is not None and self._spent_s > limits.cpu_s:
            self.end(Ending.CPU_EXCEEDED)

    def outcome(self, ending: Ending, ended: Ended | None, now_s: float) -> WorkerOutcome:
        """Return how the call ended, but for what its result says.

        Args:
            ending: why.
            ended: how the worker process ended by itself, if it did.
            now_s: the time.
        """
        usage = WorkerUsage(round(self._spent_s, 6), self._peak_bytes, round(now_s - self.started_s, 6))
        tail = self._tail.decode("utf-8", "replace")
        if ending is not Ending.DIED or ended is None:
            return WorkerOutcome(ending, self._words(ending), ending.value, printed=tail, usage=usage)
        if ended.signal == signal.SIGXCPU:
            return WorkerOutcome(Ending.CPU_EXCEEDED, self._words(Ending.CPU_EXCEEDED), "cpu_exceeded", usage=usage)
        text = f"the tool did not finish: {describe_death(ended.exit_code, ended.signal)}"
        return WorkerOutcome(ending, text, ending.value, ended.exit_code, ended.signal, tail, usage)

    def _words(self, ending: Ending) -> str:
        limits = self.call.limits
        match ending:
            case Ending.TIMED_OUT:
                return f"timed out after {self.call.timeout_s:g} s; its process was ended"
            case Ending.MEMORY_EXCEEDED:
                return f"it used more than tree_memory_mb={limits.tree_memory_mb} and was killed"
            case Ending.CPU_EXCEEDED:
                return f"it used more than cpu_s={limits.cpu_s} of processor time and was killed"
            case Ending.OUTPUT_EXCEEDED:
                return f"it printed or reported more than output_bytes={limits.output_bytes} and was killed"
            case _:
                return "it was stopped"
