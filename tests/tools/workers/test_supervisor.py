"""What a supervisor does to its worker: real processes, one supervisor for all, which outlives everything done here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.tools.workers import Ending, WorkerLimits
from examples import misbehaving_tools as bad
from tests.tools.workers import functions
from tests.tools.workers.talking import PATIENCE_S, Talk, call_of, lives

SHORT_S = 0.3
"""A deadline that is meant to pass."""

TIGHT = WorkerLimits(tree_memory_mb=200, output_bytes=100_000, open_files=64, grace_s=0.1)
BURNING = WorkerLimits(cpu_s=0.5)


@pytest.fixture(scope="module")
def talk() -> Iterator[Talk]:
    talk = Talk()
    yield talk
    assert talk.close() == 0


def test_result_of_a_function_arrives(talk: Talk) -> None:
    """A function is found by its name, called with its arguments, and its result comes back as text."""
    outcome = talk.run(functions.add, a=1, b=2)
    assert (outcome.ending, outcome.content) == (Ending.COMPLETED, "3")


def test_hostile_text_passes_both_ways(talk: Talk) -> None:
    """NUL, a lone surrogate and what lies beyond the basic plane come back as they were sent."""
    text = "\x00 \ud800 \U0001f600 \u2028"
    assert talk.run(functions.echo, text=text).content == text


@pytest.mark.parametrize("function", [functions.decorated, functions.Group.inside])
def test_decorated_and_nested_names_are_found(talk: Talk, function: Callable[..., Any]) -> None:
    """A function under `@tool`, and one inside a class, are called themselves."""
    assert talk.run(function, a=7).content in ("[7]", "7")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_function_runs_on_the_hosts_kind_of_loop(talk: Talk, backend: str) -> None:
    """An async function gets the event loop that the call names."""
    talk.send(call_of(functions.loop_name, backend=backend))
    assert talk.outcome().content == backend


def test_arguments_are_validated_where_they_are_used(talk: Talk) -> None:
    """What the model wrote is bound in the worker: a text that is a number becomes one, another is a failed result."""
    assert talk.run(functions.add, a="1", b=2).content == "3"
    refused = talk.run(functions.add, a="one", b=2)
    assert (refused.ending, refused.error) == (Ending.FAILED, "ValueError")
    assert "a: Input should be a valid integer" in refused.content


def test_context_is_the_hosts(talk: Talk) -> None:
    """A parameter annotated ToolContext receives key, arguments and metadata of the call."""
    outcome = talk.run(functions.key_and_arguments, a=1)
    assert json.loads(outcome.content) == ["k1", {"a": 1}, {"origin": "test"}, "normal", 1]


def test_progress_arrives_in_order(talk: Talk) -> None:
    """What a tool reports reaches the host before its result, in order."""
    assert talk.run(functions.reports).content == "done"
    assert talk.progress == ["half", "all"]


def test_exception_is_a_failed_result_with_what_was_printed(talk: Talk) -> None:
    """An exception is a failure of the tool; what it had printed goes with it, and nowhere else."""
    outcome = talk.run(functions.raises, text="wrong")
    assert (outcome.ending, outcome.content, outcome.error) == (Ending.FAILED, "ValueError: wrong", "ValueError")
    assert outcome.printed == "about to fail\n"


def test_exception_of_an_async_function_is_no_group(talk: Talk) -> None:
    """An async function's exception comes out as itself."""
    assert talk.run(functions.raises_async).content == "ValueError: async"


def test_tool_that_exits_has_failed(talk: Talk) -> None:
    """SystemExit is one more exception of the tool, and the worker goes on."""
    before = talk.run(functions.pid).content
    assert talk.run(functions.exits).error == "SystemExit"
    assert talk.run(functions.pid).content == before


def test_f7_value_that_cannot_be_encoded_is_named_by_its_path(talk: Talk) -> None:
    """A result is encoded in the worker; where it cannot be, the failure says which part of it."""
    outcome = talk.run(functions.returns_object)
    assert (outcome.ending, outcome.error) == (Ending.FAILED, "result_not_encodable")
    assert "$.rows[0]" in outcome.content


def test_v16_result_beyond_its_limit_is_a_failure_and_the_worker_lives(talk: Talk) -> None:
    """A result that is too long is named as such, and costs no process."""
    limits = WorkerLimits(output_bytes=10_000)
    talk.send(call_of(functions.pid, None, limits))
    before = talk.outcome().content
    talk.send(call_of(functions.returns_text, {"size": 20_000}, limits))
    outcome = talk.outcome()
    assert (outcome.ending, outcome.error) == (Ending.FAILED, "result_too_large")
    talk.send(call_of(functions.pid, None, limits))
    assert talk.outcome().content == before


def test_result_larger_than_any_socket_buffer_arrives(talk: Talk) -> None:
    """Three megabytes go in, and come back, whole."""
    text = "0123456789" * 300_000
    assert talk.run(functions.echo, text=text).content == text


@pytest.mark.parametrize(
    ("function", "limits", "timeout_s", "ending"),
    [
        (bad.hangs, TIGHT, SHORT_S, Ending.TIMED_OUT),
        (bad.ignores_sigterm, TIGHT, SHORT_S, Ending.TIMED_OUT),
        (bad.swallows_cancellation, TIGHT, SHORT_S, Ending.TIMED_OUT),
        (bad.eats_memory, TIGHT, 60.0, Ending.MEMORY_EXCEEDED),
        (bad.eats_memory_in_children, TIGHT, 60.0, Ending.MEMORY_EXCEEDED),
        (bad.floods_output, TIGHT, 60.0, Ending.OUTPUT_EXCEEDED),
        (bad.burns_cpu, BURNING, 60.0, Ending.CPU_EXCEEDED),
        (bad.dies, TIGHT, 60.0, Ending.DIED),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_f3_v16_v22_misbehaving_tool_is_gone_when_its_call_ends(
    talk: Talk, function: Callable[..., Any], limits: WorkerLimits, timeout_s: float, ending: Ending
) -> None:
    """Each way to misbehave has its ending, and when the host hears of it none of the processes is there any more."""
    if timeout_s == SHORT_S:
        # So that the time of the call is not spent on importing its module.
        talk.run_limited(functions.pid, limits, PATIENCE_S)
    outcome = talk.run_limited(function, limits, timeout_s)
    assert outcome.ending is ending
    assert talk.progress
    assert [pid for pid in talk.progress if lives(int(pid))] == []


@pytest.mark.parametrize("function", [bad.leaves_its_session, bad.forks_twice], ids=lambda value: value.__name__)
def test_f3_process_that_left_the_tree_is_gone_when_its_call_ends(talk: Talk, function: Callable[..., Any]) -> None:
    """A call that ends well leaves nothing behind: neither a process in another session nor an orphan of a fork."""
    outcome = talk.run(function)
    assert (outcome.ending, outcome.content) == (Ending.COMPLETED, "started")
    assert len(talk.progress) == 1
    assert not lives(int(talk.progress[0]))


def test_v16_memory_is_summed_over_the_tree(talk: Talk) -> None:
    """Processes that each keep to the limit exceed it together; the record says how much was seen."""
    outcome = talk.run_limited(bad.eats_memory_in_children, TIGHT, 60.0)
    assert outcome.ending is Ending.MEMORY_EXCEEDED
    assert outcome.usage.peak_memory_bytes > 200 * 2**20


def test_v16_address_space_is_bounded_by_the_kernel(talk: Talk) -> None:
    """One allocation beyond the address space fails at once, and the ending says which limit it was."""
    limits = WorkerLimits(address_space_mb=400, tree_memory_mb=None)
    talk.send(call_of(functions.allocates, {"megabytes": 500}, limits))
    outcome = talk.outcome()
    assert (outcome.ending, outcome.error) == (Ending.MEMORY_EXCEEDED, "memory_exceeded")
    assert "address_space_mb=400" in outcome.content


def test_limits_of_one_call_do_not_bind_the_next(talk: Talk) -> None:
    """A call with other limits gets another process: what the kernel was told cannot be taken back."""
    narrow = WorkerLimits(address_space_mb=400)
    talk.send(call_of(functions.catches_memory_error, {"megabytes": 500}, narrow))
    assert talk.outcome().content == "caught"
    assert talk.run(functions.catches_memory_error, megabytes=500).content == "not limited"


def test_v16_processor_time_is_summed_over_the_tree(talk: Talk) -> None:
    """What a child of the tool burns counts as the tool's."""
    outcome = talk.run_limited(functions.burns_in_child, WorkerLimits(cpu_s=0.3), 60.0)
    assert outcome.ending is Ending.CPU_EXCEEDED
    assert outcome.usage.cpu_s > 0.3


def test_v16_descriptors_are_bounded(talk: Talk) -> None:
    """A tool that opens files without end fails with the system's own error."""
    outcome = talk.run_limited(bad.opens_files, TIGHT, 60.0)
    assert (outcome.ending, outcome.error) == (Ending.FAILED, "OSError")
    assert "Too many open files" in outcome.content


def test_v16_written_file_is_bounded(talk: Talk, tmp_path: Path) -> None:
    """A file cannot grow beyond its limit."""
    talk.send(call_of(functions.writes, {"path": str(tmp_path / "f"), "megabytes": 3}, WorkerLimits(file_mb=2)))
    outcome = talk.outcome()
    assert (outcome.ending, outcome.error) == (Ending.FAILED, "OSError")
    assert "File too large" in outcome.content


def test_v16_progress_counts_as_output(talk: Talk) -> None:
    """A tool that reports without end is ended like one that prints."""
    assert talk.run_limited(functions.reports_much, TIGHT, 60.0).ending is Ending.OUTPUT_EXCEEDED


@pytest.mark.parametrize("function", [functions.cleans_up, functions.cleans_up_async], ids=lambda value: value.__name__)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_v22_tool_that_is_stopped_may_clean_up(
    talk: Talk, tmp_path: Path, function: Callable[..., Any], backend: str
) -> None:
    """Asked to end, a tool runs its `finally` blocks within the grace period."""
    trace = tmp_path / "trace"
    talk.send(call_of(function, {"path": str(trace)}, WorkerLimits(grace_s=30.0), backend=backend))
    assert talk.outcome(at_progress=talk.stop).ending is Ending.STOPPED
    assert trace.read_text("ascii") == "cleaned"


def test_stop_that_comes_with_its_call_stops_it(talk: Talk) -> None:
    """A call that is cancelled before it has begun does not begin."""
    talk.send(call_of(bad.hangs))
    talk.stop()
    assert talk.outcome().ending is Ending.STOPPED


def test_stop_that_comes_late_does_not_stop_the_next_call(talk: Talk) -> None:
    """A request to stop is about the call that was told before it."""
    assert talk.run(functions.add, a=1, b=1).content == "2"
    talk.stop()
    assert talk.run(functions.add, a=2, b=2).content == "4"


def test_death_is_told_with_status_and_last_words(talk: Talk) -> None:
    """A worker that ends by itself: its exit status, and what it had printed."""
    outcome = talk.run(functions.exits_at_once)
    assert (outcome.ending, outcome.exit_code, outcome.signal) == (Ending.DIED, 3, None)
    assert outcome.printed == "last words\n"


def test_worker_without_its_socket_is_dead(talk: Talk) -> None:
    """A tool that closes every descriptor cannot report its result, and says why in what it prints."""
    outcome = talk.run(functions.closes_its_socket)
    assert outcome.ending is Ending.DIED
    assert "OSError" in outcome.printed


def test_f5_thread_that_goes_on_costs_its_process(talk: Talk) -> None:
    """A tool that leaves a thread behind is not followed by another call in the same process."""
    left = talk.run(functions.leaves_a_thread).content
    assert talk.run(functions.pid).content != left


def test_worker_is_used_again() -> None:
    """The next call of the same limits finds the same process, with its modules, up to the agreed number of calls."""
    talk = Talk(recycle_after=3)
    pids = [talk.run(functions.pid).content for _ in range(4)]
    assert pids[0] == pids[1] == pids[2] != pids[3]
    assert talk.close() == 0


def test_environment_is_cleared(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker sees none of the host's variables but the few that programs need."""
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    fresh = Talk()
    names = {name for name in json.loads(fresh.run(functions.environment).content) if not name.startswith("COVERAGE")}
    assert fresh.close() == 0
    assert names - {"PATH", "HOME", "LANG", "TZ", "PYTHONPATH"} == {name for name in names if name.startswith("LC_")}


def test_worker_stands_alone(talk: Talk) -> None:
    """A worker leads a session of its own, has an empty input, and no descriptor but input, outputs and its socket."""
    found = json.loads(talk.run(functions.surroundings).content)
    assert found == {"leads_session": True, "descriptors": 4, "input": ""}


def test_f3_host_that_hangs_up_ends_everything() -> None:
    """A closed socket is the end of the call that runs, of its processes, and of the supervisor."""
    talk = Talk()
    talk.send(call_of(bad.ignores_sigterm))
    closing: list[str] = []

    class Enough(Exception):
        pass

    def hang_up() -> None:
        closing.append(talk.progress[0])
        raise Enough

    with pytest.raises(Enough):
        talk.outcome(at_progress=hang_up)
    assert talk.close() == 0
    assert not lives(int(closing[0]))
