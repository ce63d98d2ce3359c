"""The parts of a worker that need no process: frames, limits, what is said about an end, the tree by other means."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from engine import ToolStatus
from engine.tools.workers import Ending, WorkerCall, WorkerLimits, WorkerOutcome, WorkerUsage, strength
from engine.tools.workers.child import serve
from engine.tools.workers.outcome import describe_death
from engine.tools.workers.protocol import context_from_json, outcome_from_json, outcome_to_json
from engine.tools.workers.tree import Ended, Sample, look, look_with_psutil, proportional_bytes
from engine.tools.workers.watched import Watched
from engine.tools.workers.wire import Channel, Frame, Kind, Reader, frame
from tests.tools.workers import functions
from tests.tools.workers.talking import CONTEXT, call_of

ROOT = Path(__file__).resolve().parents[3]

FREE = WorkerLimits(tree_memory_mb=None, file_mb=None, open_files=100_000)
"""Binds nothing: these tests run in the process of all others."""


@given(st.lists(st.tuples(st.sampled_from(Kind), st.text())), st.integers(1, 50))
def test_frames_survive_any_cut(told: list[tuple[Kind, str]], piece: int) -> None:
    """However the bytes are cut on their way, the same frames come out, and nothing is held back."""
    data = b"".join(frame(kind, text) for kind, text in told)
    reader = Reader()
    heard = [item for start in range(0, len(data), piece) for item in reader.feed(data[start : start + piece])]
    assert [(item.kind, item.value) for item in heard] == told
    assert reader.held_bytes == 0


def test_channel_keeps_what_the_socket_does_not_take() -> None:
    """More than a socket holds is sent in turns, and nothing of it is lost."""
    one, other = socket.socketpair()
    with one, other:
        sending, receiving = Channel(one), Channel(other)
        text = "x" * 2_000_000
        sending.send(frame(Kind.RESULT, text))
        assert sending.unsent_bytes
        heard: list[Frame] = []
        while not heard:
            heard += receiving.receive() or []
            sending.send(b"")
        assert heard[0].value == text
        assert sending.unsent_bytes == 0


def test_channel_whose_other_end_is_gone_says_so_when_it_is_read() -> None:
    """Sending to nobody is no error, receiving from nobody is the end."""
    one, other = socket.socketpair()
    with one:
        other.close()
        channel = Channel(one)
        channel.send(b"lost")
        assert channel.unsent_bytes == 0
        assert channel.receive() is None


def test_call_and_outcome_survive_the_way() -> None:
    """What is sent is what arrives, for a call and its context, and for an outcome."""
    call = call_of(functions.add, {"a": 1}, WorkerLimits(cpu_s=2.0))
    arrived = WorkerCall.from_json(json.loads(json.dumps(call.to_json())))
    assert arrived == call
    context = context_from_json(arrived, CONTEXT.emit)
    assert context._replace(occupy=CONTEXT.occupy) == CONTEXT._replace(arguments={"a": 1})
    outcome = WorkerOutcome(Ending.DIED, "x", "died", None, 9, "tail", WorkerUsage(1.0, 2, 3.0))
    assert outcome_from_json(json.loads(json.dumps(outcome_to_json(outcome)))) == outcome


@pytest.mark.parametrize(
    "wrong", [{"cpu_s": 0}, {"tree_memory_mb": 0}, {"open_files": 3}, {"grace_s": -1}, {"nonsense": 1}]
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    """A limit out of its range, or one that there is not, is an error where it is written."""
    with pytest.raises(ValidationError):
        WorkerLimits(**wrong)


@pytest.mark.skipif(sys.platform != "linux", reason="says what Linux does")
def test_v16_strength_is_said_honestly() -> None:
    """On Linux memory is bounded in the kernel for each process, and orphans are found."""
    found = strength()
    assert (found.memory, found.orphans) == ("rlimit", True)
    assert found.rlimits == ("AS", "CPU", "FSIZE", "NOFILE", "CORE")


READ = {
    Ending.COMPLETED: ToolStatus.COMPLETED,
    Ending.FAILED: ToolStatus.FAILED,
    Ending.TIMED_OUT: ToolStatus.TIMED_OUT,
    Ending.MEMORY_EXCEEDED: ToolStatus.MEMORY_EXCEEDED,
    Ending.CPU_EXCEEDED: ToolStatus.TIMED_OUT,
    Ending.OUTPUT_EXCEEDED: ToolStatus.FAILED,
    Ending.STOPPED: ToolStatus.CANCELLED,
    Ending.DIED: ToolStatus.FAILED,
}


@pytest.mark.parametrize("ending", Ending)
def test_v22_every_ending_has_its_status(ending: Ending) -> None:
    """A read says what happened to it; a write that did not end by itself is unknown."""
    outcome = WorkerOutcome(ending, "text", None, printed="printed\n")
    assert outcome.output("read").status is READ[ending]
    own_end = ending in (Ending.COMPLETED, Ending.FAILED)
    assert outcome.output("write").status is (READ[ending] if own_end else ToolStatus.UNKNOWN)
    assert ("printed" in outcome.output("write").content) is (ending is not Ending.COMPLETED)


@pytest.mark.parametrize(
    ("exit_code", "number", "words"),
    [(None, None, "ended"), (3, None, "status 3"), (None, 6, "SIGABRT"), (None, 9, "want of memory"), (None, 62, "62")],
)
def test_death_is_put_into_words(exit_code: int | None, number: int | None, words: str) -> None:
    """Exit status and signal are named, and what a SIGKILL from nowhere usually means."""
    assert words in describe_death(exit_code, number)


def watched(**limits: Any) -> Watched:
    return Watched(call_of(functions.add, None, WorkerLimits(**limits)), 0.0, 0.0)


def test_first_reason_to_end_counts() -> None:
    """A call that exceeds a limit and then dies has exceeded the limit; a result that comes later is dropped."""
    call = watched(cpu_s=1.0)
    call.looked(Sample((), 0, 2.0), 0.0)
    call.end(Ending.DIED)
    call.returned(Frame(Kind.RESULT, b"null"))
    assert (call.ending, call.result) == (Ending.CPU_EXCEEDED, None)


def test_only_limits_cut_the_grace_period_short() -> None:
    """A call that was asked to end goes on until its time is over, or until it exceeds a limit."""
    call = watched(tree_memory_mb=None, cpu_s=1.0)
    call.ask_to_end()
    call.end(Ending.DIED)
    call.returned(Frame(Kind.RESULT, b"null"))
    assert call.ending is None
    call.looked(Sample((), 2**40, 2.0), 0.0)
    assert call.ending is Ending.CPU_EXCEEDED


def test_frame_that_grows_beyond_the_limit_ends_the_call() -> None:
    """A worker that does not keep its results within the limit is out of hand."""
    call = watched(output_bytes=10_000)
    call.holds(10_100)
    assert call.ending is None
    call.holds(20_000)
    assert call.ending is Ending.OUTPUT_EXCEEDED


def test_kernels_own_signal_for_processor_time_is_that_limit() -> None:
    """A worker that SIGXCPU has ended has exceeded its processor time."""
    outcome = watched(cpu_s=1.0).outcome(Ending.DIED, Ended(1, None, signal.SIGXCPU, 1.0), 2.0)
    assert (outcome.ending, outcome.error) == (Ending.CPU_EXCEEDED, "cpu_exceeded")


def test_only_the_end_of_what_was_printed_is_kept() -> None:
    """However much a tool prints, its record holds the last four kibibytes."""
    call = watched()
    for number in range(10_000):
        call.printed(b"%d\n" % number)
    printed = call.outcome(Ending.FAILED, None, 1.0).printed
    assert len(printed) == 4096
    assert printed.endswith("9999\n")


@pytest.fixture
def child() -> Iterator[int]:
    """A process below this one, which has come to rest."""
    program = [sys.executable, "-c", "print('ready', flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.mark.parametrize("way", [look, look_with_psutil])
def test_tree_is_seen_either_way(way: Any, child: int) -> None:
    """The kernel's own lists and psutil both show a child, with memory."""
    sample = way()
    assert child in sample.pids
    assert sample.memory_bytes > 0


def test_shared_pages_count_once(child: int) -> None:
    """The proportional sum is less than that of the resident sets, and a process that is gone adds nothing."""
    sample = look()
    exact = proportional_bytes(sample)
    assert 0 < exact <= sample.memory_bytes
    assert proportional_bytes(Sample((2**22 + 1,), 10, 0.0)) == 0


@pytest.fixture
def unchanged_signals() -> Iterator[None]:
    """Restore what a worker changes in its process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def served(*calls: WorkerCall) -> list[Frame]:
    """Run calls in this process and return what a worker would have sent."""
    host, worker = socket.socketpair()
    with host, worker:
        host.sendall(b"".join(frame(Kind.CALL, call.to_json()) for call in calls))
        host.shutdown(socket.SHUT_WR)
        serve(worker)
        worker.shutdown(socket.SHUT_WR)
        reader, heard = Reader(), list[Frame]()
        while data := host.recv(65536):
            heard += reader.feed(data)
        return heard


@pytest.mark.usefixtures("unchanged_signals")
def test_worker_serves_calls_in_order() -> None:
    """Calls are run one after the other; progress comes before the result that it belongs to."""
    heard = served(call_of(functions.reports, None, FREE), call_of(functions.add, {"a": 1, "b": 2}, FREE))
    assert [item.value for item in heard] == ["half", "all", ["completed", "done", None], ["completed", "3", None]]


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("add_async", {"a": 1, "b": 2}, ["completed", "3", None]),
        ("raises_async", {}, ["failed", "ValueError: async", "ValueError"]),
        ("raises", {"text": "x"}, ["failed", "ValueError: x", "ValueError"]),
    ],
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.usefixtures("unchanged_signals")
def test_worker_says_how_a_call_went(name: str, arguments: dict[str, Any], result: list[Any], backend: str) -> None:
    """Results and exceptions of functions of either kind are told in the same way."""
    call = call_of(getattr(functions, name), arguments, FREE, backend=backend)
    assert [item.value for item in served(call)] == [result]


@pytest.mark.usefixtures("unchanged_signals")
def test_worker_says_what_it_could_not_tell() -> None:
    """A result that is no JSON, and one that is too long, are failures that name the reason."""
    short = WorkerLimits(tree_memory_mb=None, file_mb=None, open_files=100_000, output_bytes=2000)
    heard = served(
        call_of(functions.returns_object, None, FREE), call_of(functions.returns_text, {"size": 3000}, short)
    )
    assert [item.value[2] for item in heard] == ["result_not_encodable", "result_too_large"]


@pytest.mark.usefixtures("unchanged_signals")
def test_worker_out_of_memory_is_not_used_again() -> None:
    """A MemoryError is the last result of a worker."""
    (item,) = served(call_of(functions.out_of_memory, None, FREE))
    assert (item.kind, item.value[0]) == (Kind.LAST_RESULT, "memory_exceeded")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", ["terminates_itself", "terminates_itself_async"])
@pytest.mark.usefixtures("unchanged_signals")
def test_v22_worker_that_is_asked_to_end_sends_no_result(name: str, backend: str) -> None:
    """SIGTERM ends a call, whatever the function makes of it, and the worker with it."""
    with pytest.raises(SystemExit):
        served(call_of(getattr(functions, name), None, FREE, backend=backend))


CONFINED = """
import resource
from engine.tools.workers.limits import WorkerLimits, confine
confine(WorkerLimits(cpu_s=2, address_space_mb=4096, file_mb=3, open_files=64))
for name in ("AS", "FSIZE", "NOFILE", "CORE"):
    print(*resource.getrlimit(getattr(resource, f"RLIMIT_{name}")))
print(resource.getrlimit(resource.RLIMIT_CPU)[0])
"""


def test_v16_kernel_is_told_the_limits() -> None:
    """A process that confines itself cannot raise its limits again; processor time is left some slack for the sum."""
    done = subprocess.run([sys.executable, "-c", CONFINED], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    *bounds, cpu_s = done.stdout.splitlines()
    space, file = 4096 * 2**20, 3 * 2**20
    assert bounds == [f"{space} {space}", f"{file} {file}", "64 64", "0 0"]
    assert 3 <= int(cpu_s) <= 10
