"""The pool on both event loops: bounds, cancellation, closing, siblings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import psutil
import pytest

from engine import ToolContext, ToolStatus
from engine.core.notices import Notice, ToolProgress
from engine.errors import EngineClosed, UsageError
from engine.testing.scheduling import virtual_time
from engine.tools.workers import Ending, ProcessCallee, WorkerLimits, WorkerOutcome, WorkerPool
from examples import misbehaving_tools as bad
from tests.tools.workers import functions
from tests.tools.workers.talking import CONTEXT, MEASURED, call_of, lives


def small(size: int = 1, idle: int = 0) -> WorkerPool:
    return WorkerPool(size=size, idle=idle, environment=MEASURED)


@pytest.mark.anyio
async def test_one_worker_serves_call_after_call() -> None:
    """A pool of one runs calls one after the other in one process, also where they are asked for at once."""
    pids: list[str] = []

    async def ask(pool: WorkerPool) -> None:
        pids.append((await pool.run(call_of(functions.pid))).content)

    async with small() as pool, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(ask, pool)
        await ask(pool)
    assert len(pids) == 4
    assert len(set(pids)) == 1


@pytest.mark.anyio
async def test_spare_workers_are_started_ahead() -> None:
    """With the first call as many workers as agreed are started beside its own, and the pool leaves none behind."""
    before = len(psutil.Process().children())
    async with small(size=3, idle=1) as pool:
        await pool.run(call_of(functions.pid))
        assert len(psutil.Process().children()) == before + 2
        await pool.run(call_of(functions.pid))
        assert len(psutil.Process().children()) == before + 2
    assert len(psutil.Process().children()) == before


@pytest.mark.anyio
async def test_nothing_is_started_before_the_first_call() -> None:
    """A pool that nobody uses has no process."""
    before = len(psutil.Process().children())
    async with small(size=2, idle=2):
        assert len(psutil.Process().children()) == before


@pytest.mark.anyio
async def test_v16_siblings_of_a_killed_worker_finish() -> None:
    """One tool that eats memory is killed; the one that runs beside it returns its result."""
    outcomes: dict[str, WorkerOutcome] = {}

    async def ask(pool: WorkerPool, name: str, call: Callable[[], Awaitable[WorkerOutcome]]) -> None:
        outcomes[name] = await call()

    async with small(size=2) as pool, anyio.create_task_group() as group:
        limits = WorkerLimits(tree_memory_mb=200)
        group.start_soon(ask, pool, "eats", lambda: pool.run(call_of(bad.eats_memory, None, limits)))
        group.start_soon(ask, pool, "adds", lambda: pool.run(call_of(functions.add_async, {"a": 1, "b": 2})))
    assert outcomes["eats"].ending is Ending.MEMORY_EXCEEDED
    assert (outcomes["adds"].ending, outcomes["adds"].content) == (Ending.COMPLETED, "3")


@pytest.mark.parametrize("function", [bad.ignores_sigterm, functions.detaches_and_waits], ids=lambda f: f.__name__)
@pytest.mark.anyio
async def test_f3_cancelled_call_kills_what_it_has_started(function: Callable[..., object]) -> None:
    """When a cancellation comes out of `run`, nothing of the call is there any more, and the worker takes another."""
    started: list[int] = []
    waited_for = 3 if function is functions.detaches_and_waits else 1
    limits = WorkerLimits(grace_s=0.05)
    async with small() as pool:
        with anyio.CancelScope() as scope:

            def note(text: str) -> None:
                started.append(int(text))
                if len(started) == waited_for:
                    scope.cancel()

            await pool.run(call_of(function, None, limits), note)
        assert scope.cancelled_caught
        assert [pid for pid in started if lives(pid)] == []
        assert (await pool.run(call_of(functions.add, {"a": 1, "b": 1}, limits))).content == "2"


@pytest.mark.anyio
async def test_f3_closed_pool_ends_running_calls() -> None:
    """Closing a pool kills what runs there; the calls end as died, and later ones are refused."""
    reported = anyio.Event()
    started: list[int] = []
    outcomes: list[WorkerOutcome] = []

    def note(text: str) -> None:
        started.append(int(text))
        reported.set()

    async def hang(pool: WorkerPool) -> None:
        outcomes.append(await pool.run(call_of(bad.ignores_sigterm), note))

    async with anyio.create_task_group() as group:
        pool = small(size=2, idle=1)
        group.start_soon(hang, pool)
        await reported.wait()
        await pool.aclose()
        assert [pid for pid in started if lives(pid)] == []
    assert outcomes[0].ending is Ending.DIED
    with pytest.raises(EngineClosed):
        await pool.run(call_of(functions.pid))
    await pool.aclose()


@pytest.mark.anyio
async def test_call_whose_supervisor_is_killed_ends_as_died_and_the_next_one_runs() -> None:
    """Whoever kills a supervisor kills its worker with it; the pool starts another."""
    async with small() as pool:
        outcome = await pool.run(call_of(functions.kills_its_supervisor))
        assert (outcome.ending, outcome.error) == (Ending.DIED, "died")
        assert (await pool.run(call_of(functions.add, {"a": 1, "b": 1}))).content == "2"


def test_f3_supervisor_that_does_not_answer_is_killed_when_the_time_of_its_call_is_over() -> None:
    """Where a supervisor itself hangs, the host's own deadline ends the call, and everything below with it."""

    async def ask() -> None:
        before = len(psutil.Process().children())
        async with small() as pool:
            outcome = await pool.run(call_of(functions.pid))
            assert (outcome.ending, outcome.error) == (Ending.TIMED_OUT, "timed_out")
            assert "its supervisor did not answer" in outcome.content
            assert outcome.output("write").status is ToolStatus.UNKNOWN
            assert outcome.output("read").resources is None
            assert len(psutil.Process().children()) == before

    # In virtual time every supervisor is too slow: it has not even begun when the deadline is there.
    backend, options = virtual_time("asyncio")
    anyio.run(ask, backend=backend, backend_options=options)


@pytest.mark.anyio
async def test_large_arguments_and_results_pass() -> None:
    """What is larger than a socket takes at once goes in and comes back."""
    text = "x" * 3_000_000
    async with small() as pool:
        assert (await pool.run(call_of(functions.echo, {"text": text}))).content == text


@pytest.mark.parametrize(("size", "idle", "recycle_after"), [(0, 0, 1), (1, 2, 1), (1, -1, 1), (1, 1, 0)])
@pytest.mark.anyio
async def test_pool_that_cannot_be_is_refused(size: int, idle: int, recycle_after: int) -> None:
    """Numbers out of their range are refused when the pool is made."""
    with pytest.raises(UsageError, match="at least one worker"):
        WorkerPool(size, idle, recycle_after)


@pytest.mark.anyio
async def test_callee_runs_a_tool_with_its_context(anyio_backend_name: str) -> None:
    """A function runs as a tool does: arguments of the call, context, progress, the host's kind of loop."""
    seen: list[Notice] = []
    context: ToolContext = CONTEXT._replace(arguments={"a": "1", "b": 2}, emit=seen.append)
    async with small() as pool:
        limits = WorkerLimits()
        added = await ProcessCallee(functions.add_async, "read", limits).run(pool, context)
        told = await ProcessCallee(functions.reports, "read", limits).run(pool, context._replace(arguments={}))
        loop = await ProcessCallee(functions.loop_name, "read", limits).run(pool, context._replace(arguments={}))
    assert (added.content, added.status) == ("3", ToolStatus.COMPLETED)
    assert told.content == "done"
    assert seen == [ToolProgress("c1", "half"), ToolProgress("c1", "all")]
    assert loop.content == anyio_backend_name


@pytest.mark.parametrize(("effect", "status"), [("write", ToolStatus.UNKNOWN), ("read", ToolStatus.TIMED_OUT)])
@pytest.mark.anyio
async def test_v22_write_that_was_killed_is_unknown(effect: str, status: ToolStatus) -> None:
    """After a kill nobody knows what a write has done; a read has timed out and that is all."""
    context: ToolContext = CONTEXT._replace(timeout_s=0.2)
    async with small() as pool:
        callee = ProcessCallee(bad.ignores_sigterm, effect, WorkerLimits(grace_s=0.05))  # type: ignore[arg-type]
        output = await callee.run(pool, context._replace(emit=lambda notice: None))
    assert (output.status, output.error) == (status, "timed_out")
