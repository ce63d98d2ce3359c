"""A worker as the host sees it: a socket, and a supervisor behind it.

Works on asyncio and on trio: the process is started without their help, and its end is seen at the socket. Closing the
socket, in whatever way, is the end of the whole tree. May import anyio. Must never run a function of the host's.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio
from anyio import to_thread

from .outcome import Ending, WorkerOutcome
from .protocol import WorkerCall, outcome_from_json
from .wire import Kind, Reader, frame

_CHUNK_BYTES = 65_536
_MARGIN_S = 5.0
"""What a supervisor gets beyond the grace period of a call before it is killed itself."""

_PASSED = ("PATH", "HOME", "LANG", "TZ", "PYTHONPATH")
"""The variables of the host's environment that workers see, beside LC_* and what the pool is told."""


def start_supervisor(
    recycle_after: int, environment: Mapping[str, str]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start a supervisor and return its process, and the socket that it serves.

    Args:
        recycle_after: how many calls a worker process runs before another takes its place.
        environment: what workers see of the environment beyond the usual.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        # A session of its own: what a terminal sends to the host's processes is the host's affair.
        process = subprocess.Popen(  # noqa: S603 - the interpreter that runs this
            _command(theirs.fileno(), recycle_after),
            env=_environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    return process, ours


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    passed = {name: value for name, value in os.environ.items() if name in _PASSED or name.startswith("LC_")}
    return {**passed, **more}


def _command(handle: int, recycle_after: int) -> list[str]:
    source = (
        "import sys; sys.path[:] = sys.argv[3:]; "
        f"from {__package__}.supervisor import main; main(int(sys.argv[1]), int(sys.argv[2]))"
    )
    flags = ["-B"] if sys.dont_write_bytecode else []
    # An empty entry is the current folder, which the host may leave.
    path = [str(Path.cwd() / entry) for entry in sys.path]
    return [sys.executable, *flags, "-c", source, str(handle), str(recycle_after), *path]


class Worker:
    """One supervisor and whatever runs below it, for one call at a time.

    Attributes:
        ready: whether it can take a call.
    """

    def __init__(self, recycle_after: int, environment: Mapping[str, str]) -> None:
        self.ready = True
        self._reader = Reader()
        self._process, self._socket = start_supervisor(recycle_after, environment)
        self._socket.setblocking(False)

    async def call(self, call: WorkerCall, on_progress: Callable[[str], object]) -> WorkerOutcome:
        """Run one call. A cancellation stops it, with its grace period, before it is raised.

        Args:
            call: what to run.
            on_progress: takes what the tool reports meanwhile.
        """
        self.ready = False
        net_s = call.timeout_s + call.limits.grace_s + _MARGIN_S
        try:
            with anyio.move_on_after(net_s):
                await self._send(frame(Kind.CALL, call.to_json()))
                return await self._outcome(on_progress)
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(call.limits.grace_s + _MARGIN_S, shield=True):
                await self._send(frame(Kind.STOP, None))
                await self._outcome(on_progress)
            raise
        text = f"timed out after {call.timeout_s:g} s, and its supervisor did not answer; everything was killed"
        return WorkerOutcome(Ending.TIMED_OUT, text, Ending.TIMED_OUT.value)

    def hang_up(self) -> None:
        """Let the supervisor know that it is over: it kills the whole tree, and ends."""
        self.ready = False
        self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Hang up and wait until nothing is left."""
        self.hang_up()
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(_MARGIN_S) as waited:
                while await self._receive():
                    pass
            if waited.cancelled_caught:
                self._process.kill()
            # It ends now. The limiter is nobody else's: reaping must not wait for the threads of tools.
            await to_thread.run_sync(self._process.wait, limiter=anyio.CapacityLimiter(1))
            self._socket.close()

    async def _outcome(self, on_progress: Callable[[str], object]) -> WorkerOutcome:
        result: list[str] | None = None
        while data := await self._receive():
            for item in self._reader.feed(data):
                if item.kind == Kind.PROGRESS:
                    on_progress(item.value)
                elif item.kind == Kind.RESULT:
                    result = item.value
                else:
                    self.ready = True
                    return _joined(outcome_from_json(item.value), result)
        return WorkerOutcome(
            Ending.DIED, "the tool did not finish: its supervisor ended, and its process with it", "died"
        )

    async def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except ConnectionError:
                return  # its end is seen, and reported, where it is read from

    async def _receive(self) -> bytes:
        """Return what has come; nothing where the supervisor is gone."""
        await anyio.wait_readable(self._socket)
        try:
            return self._socket.recv(_CHUNK_BYTES)
        except ConnectionError:
            return b""


def _joined(outcome: WorkerOutcome, result: list[str] | None) -> WorkerOutcome:
    if result is None:
        return outcome
    ending, content, error = result
    return outcome._replace(ending=Ending(ending), content=content, error=error)
