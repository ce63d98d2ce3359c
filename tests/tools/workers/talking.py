"""A real supervisor on the other side of a plain socket, and processes that are waited for until they are gone."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Mapping
from typing import Any

from engine import ToolContext
from engine.tools.workers import Ending, WorkerCall, WorkerLimits, WorkerOutcome, target_of
from engine.tools.workers.protocol import context_to_json, outcome_from_json
from engine.tools.workers.wire import Kind, Reader, frame
from engine.tools.workers.worker import start_supervisor

MEASURED = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
"""What the children need to measure the coverage of their part, where it is measured."""

PATIENCE_S = 60.0
"""How long a test waits for what has to come, on the slowest machine."""

CONTEXT = ToolContext(
    call_id="c1", name="f", arguments={}, idempotency_key="k1", timeout_s=30.0, session="s", turn=1,
    metadata={"origin": "test"},
)  # fmt: skip


def call_of(
    function: Callable[..., Any],
    arguments: Mapping[str, Any] | None = None,
    limits: WorkerLimits | None = None,
    timeout_s: float = PATIENCE_S,
    backend: str = "asyncio",
) -> WorkerCall:
    """Return a call of a function."""
    return WorkerCall(
        target_of(function), arguments or {}, context_to_json(CONTEXT), timeout_s, limits or WorkerLimits(), backend
    )


class Talk:
    """A supervisor, asked without an event loop."""

    def __init__(self, recycle_after: int = 1000) -> None:
        self.process, self.socket = start_supervisor(recycle_after, MEASURED)
        self.socket.settimeout(PATIENCE_S)
        self._reader = Reader()
        self.progress: list[str] = []

    def send(self, call: WorkerCall) -> None:
        """Send a call."""
        self.socket.sendall(frame(Kind.CALL, call.to_json()))

    def stop(self) -> None:
        """Ask for the end of the call."""
        self.socket.sendall(frame(Kind.STOP, None))

    def outcome(self, at_progress: Callable[[], object] | None = None) -> WorkerOutcome:
        """Return the outcome of the call that runs; what it reports meanwhile is kept in `progress`."""
        self.progress = []
        result: list[str] | None = None
        while data := self.socket.recv(65536):
            for item in self._reader.feed(data):
                if item.kind == Kind.END:
                    outcome = outcome_from_json(item.value)
                    if result is None:
                        return outcome
                    return outcome._replace(ending=Ending(result[0]), content=result[1], error=result[2])
                if item.kind == Kind.RESULT:
                    result = item.value
                    continue
                self.progress.append(item.value)
                if at_progress is not None:
                    at_progress()
        raise AssertionError("the supervisor is gone")

    def run(self, function: Callable[..., Any], **arguments: Any) -> WorkerOutcome:
        """Run a function with the usual limits."""
        self.send(call_of(function, arguments))
        return self.outcome()

    def run_limited(self, function: Callable[..., Any], limits: WorkerLimits, timeout_s: float) -> WorkerOutcome:
        """Run a function without arguments."""
        self.send(call_of(function, None, limits, timeout_s))
        return self.outcome()

    def close(self) -> int:
        """Hang up, and return the supervisor's exit status."""
        self.socket.close()
        return self.process.wait(PATIENCE_S)


def lives(pid: int) -> bool:
    """Return whether there is such a process, be it a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Watching:
    """Holds on to processes, so that their end can be waited for although they are nobody's children here."""

    def __init__(self, pids: list[int]) -> None:
        self._handles = [os.pidfd_open(pid) for pid in pids]

    def gone(self) -> bool:
        """Wait until all are gone; False where one is still there after a long time."""
        gone = True
        for handle in self._handles:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            gone = bool(poll.poll(10_000)) and gone
            os.close(handle)
        return gone
