"""The worker process: runs the host's functions, one call at a time, until somebody ends it.

Here, and nowhere else among the workers, code of the host's runs, under limits that were set before any of it was
imported. SIGTERM asks it to end: a synchronous function meets SystemExit, an async one its cancellation, and both have
the grace period for their `finally` blocks. May import the tool adapter. Must never outlive its supervisor.
"""

from __future__ import annotations

import inspect
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn, get_type_hints

import anyio

from ...core.notices import Notice, ToolProgress
from ...errors import EncodingError
from ...ports import ToolContext
from ..encode import describe, encode_result
from ..function import FunctionTool
from .limits import confine
from .outcome import Ending
from .protocol import WorkerCall, context_from_json
from .target import Target, find
from .tree import die_with_parent
from .wire import Kind, Reader, frame

_CHUNK_BYTES = 65_536
_ENDED_ON_REQUEST = 128 + signal.SIGTERM


def become_worker(parent: int, sock: socket.socket, printed: int) -> NoReturn:
    """Turn this process, which has just been forked, into a worker, and be one until it ends.

    Args:
        parent: number of the supervisor's process.
        sock: what calls come through.
        printed: descriptor that standard output and error go to.
    """
    status = 1
    try:
        _cut_loose(parent, sock, printed)
        serve(sock)
    except SystemExit:
        status = _ENDED_ON_REQUEST
    except BaseException as error:
        # Ends up in what the tool has printed.
        sys.excepthook(type(error), error, error.__traceback__)
        raise
    finally:
        # Whatever the host's modules have registered or started does not keep the process.
        os._exit(status)


def _cut_loose(parent: int, sock: socket.socket, printed: int) -> None:
    """Leave the supervisor's session, signals and descriptors."""
    die_with_parent(parent)
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, destination in ((null, 0), (printed, 1), (printed, 2)):
        os.dup2(source, destination)
    os.closerange(3, sock.fileno())
    os.closerange(sock.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    if sys.platform == "linux":
        # Where the system itself runs out of memory, it takes a worker first and not the host.
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def serve(sock: socket.socket) -> None:
    """Run the calls that come through a blocking socket until its other end is gone."""
    reader = Reader()
    worker = _Worker(sock)
    while data := sock.recv(_CHUNK_BYTES):
        for item in reader.feed(data):
            worker.run(WorkerCall.from_json(item.value))


class _Function(NamedTuple):
    """A function of the host's, what validates its arguments, and which parameter wants the context."""

    function: Callable[..., Any]
    tool: FunctionTool[..., Any]
    context_name: str | None


@cache
def _load(target: Target) -> _Function:
    # The function under a tool is called itself: the tool would send the call to another worker.
    function: Callable[..., Any] = inspect.unwrap(find(target), stop=lambda found: not isinstance(found, FunctionTool))
    hints = get_type_hints(function, include_extras=True)
    context_name = next((name for name, hint in hints.items() if hint is ToolContext), None)
    return _Function(function, FunctionTool(function, {"name": "call"}), context_name)


class _Worker:
    """What runs a call and says how it went."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        # Tools may report progress from threads of their own.
        self._sending = threading.Lock()
        self._asked_to_end = False

    def run(self, call: WorkerCall) -> None:
        """Run one call and send its result, or end the process where that was asked for."""
        signal.signal(signal.SIGTERM, self._on_request)
        kind, result = self._result(call)
        if self._asked_to_end:
            raise SystemExit(_ENDED_ON_REQUEST)
        data = frame(kind, result)
        if len(data) > call.limits.output_bytes:
            text = f"the tool ran, but its result of {len(data)} bytes exceeds output_bytes={call.limits.output_bytes}"
            data = frame(kind, (Ending.FAILED, text, "result_too_large"))
        sys.stdout.flush()
        sys.stderr.flush()
        self._send(data)

    def _result(self, call: WorkerCall) -> tuple[Kind, tuple[Ending, str, str | None]]:
        kind = Kind.RESULT
        result: tuple[Ending, str, str | None]
        try:
            result = (Ending.COMPLETED, self._perform(call), None)
        except EncodingError as error:
            text = f"the tool ran, but its result cannot be recorded: {error}"
            result = (Ending.FAILED, text, "result_not_encodable")
        except MemoryError as error:
            kind = Kind.LAST_RESULT
            result = (Ending.MEMORY_EXCEEDED, _memory_text(call, error), "memory_exceeded")
        except BaseException as error:
            result = (Ending.FAILED, describe(error), type(error).__name__)
        # A thread that goes on would do so under the next call's name.
        return (Kind.LAST_RESULT if threading.active_count() > 1 else kind), result

    def _perform(self, call: WorkerCall) -> str:
        confine(call.limits)
        function, tool, context_name = _load(call.target)
        arguments = dict(tool.bind(dict(call.arguments)))
        if context_name is not None:
            arguments[context_name] = context_from_json(call, self._emit)
        if tool.is_async:
            return anyio.run(self._perform_async, function, arguments, backend=call.backend)
        return encode_result(function(**arguments))

    async def _perform_async(self, function: Callable[..., Any], arguments: Mapping[str, Any]) -> str:
        text, failure = "", None
        async with anyio.create_task_group() as group:
            group.start_soon(self._await_request, group.cancel_scope)
            try:
                text = encode_result(await function(**arguments))
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:
                # Raised outside, where the task group does not make a group of it.
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return text

    async def _await_request(self, scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as requests:
            async for _ in requests:
                self._asked_to_end = True
                scope.cancel()

    def _on_request(self, number: int, interrupted: FrameType | None) -> None:
        self._asked_to_end = True
        raise SystemExit(_ENDED_ON_REQUEST)

    def _emit(self, notice: Notice) -> None:
        if isinstance(notice, ToolProgress):
            self._send(frame(Kind.PROGRESS, notice.text))

    def _send(self, data: bytes) -> None:
        with self._sending:
            self._socket.sendall(data)


def _memory_text(call: WorkerCall, error: MemoryError) -> str:
    bound = call.limits.address_space_mb
    return f"{describe(error)}: the tool needed more than address_space_mb={bound}" if bound else describe(error)
