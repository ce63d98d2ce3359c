"""What goes wrong when a mechanism is missing: a null part takes its place, and the assertion of its own test fails.

The parts go in through what the engine takes anyway: a middleware, a model, a tool, a journal. Each test here runs the
very check that proves the mechanism, and requires that it fails where it looks at the mechanism, not somewhere else.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from engine import Engine, Limits, ModelReply, ModelRequest, ToolContext, ToolStatus
from engine.errors import JournalUnavailable
from engine.journal import MemoryJournal
from engine.ports import Journal, ToolOutput
from engine.testing.journals import FailingJournal
from engine.testing.scheduling import counting_steps, virtual_time
from engine.tools.function import FunctionTool
from engine.tools.workers import Ending, WorkerCall, WorkerOutcome, WorkerPool
from examples import misbehaving_tools as bad
from tests.runtime.scenes import SCENES, Scene, World, check_closed, check_sound, history, model_of, play
from tests.runtime.test_asking import check_fifty_sessions
from tests.runtime.test_isolation import check_gone
from tests.test_headline_limits import check_live_threads
from tests.tools.workers.living import SHORT_S, TIGHT

ROOT = Path(__file__).resolve().parents[1]


def failed(caught: pytest.ExceptionInfo[AssertionError]) -> str:
    """Return the statement that failed."""
    return str(caught.traceback[-1].statement).strip()


# --- the cap ----------------------------------------------------------------------------------------------------------


class Uncounted:
    """A middleware under which a thread does not hold its place: it counts until its call ends, not until it does."""

    async def around_model(
        self, request: ModelRequest, call: Callable[[ModelRequest], Awaitable[ModelReply]]
    ) -> ModelReply:
        return await call(request)

    async def around_tool(
        self, context: ToolContext, call: Callable[[ToolContext], Awaitable[ToolOutput]]
    ) -> ToolOutput:
        return await call(context._replace(occupy=lambda: lambda: None))


@pytest.mark.anyio
async def test_v16_f5_without_the_count_of_threads_more_live_than_the_cap() -> None:
    """Threads that are not counted to their end exceed the cap."""
    with pytest.raises(AssertionError) as caught:
        await check_live_threads(2, Uncounted())
    assert failed(caught) == "assert threads.most == cap"


# --- the gate ---------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", [virtual_time("asyncio"), virtual_time("trio")], ids=["asyncio", "trio"])
async def test_f20_v24_d8_without_the_gate_every_session_meets_the_refusal(anyio_backend: tuple[str, Any]) -> None:
    """A provider whose model names no quota has no gate before it: requests are wasted on one refusal."""
    with pytest.raises(AssertionError) as caught:
        await check_fifty_sessions(None)
    assert failed(caught) == "assert len(model.sent) <= 55"


# --- the kill ---------------------------------------------------------------------------------------------------------


class PoolWithoutKill(WorkerPool):
    """Runs a call in a process, and gives it up at its deadline: what a bare `subprocess` does."""

    def __init__(self) -> None:
        super().__init__(size=1)
        self._left: list[subprocess.Popen[str]] = []

    async def run(self, call: WorkerCall, on_progress: Callable[[str], object] = print) -> WorkerOutcome:
        process = self._process()
        assert process.stdout is not None
        on_progress((await anyio.to_thread.run_sync(process.stdout.readline)).strip())
        process.terminate()
        await anyio.sleep(call.timeout_s)
        return WorkerOutcome(Ending.TIMED_OUT, "timed out", Ending.TIMED_OUT.value)

    def _process(self) -> subprocess.Popen[str]:
        source = (
            "from types import SimpleNamespace; from examples import misbehaving_tools as bad; "
            "bad.ignores_sigterm(SimpleNamespace(progress=lambda pid: print(pid, flush=True)))"
        )
        process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._left.append(process)
        return process

    def clean_up(self) -> None:
        """Kill what was left."""
        for process in self._left:
            process.kill()
            process.communicate()


class Unkilled(FunctionTool[..., object]):
    """A tool whose calls go to a pool of its own."""

    def __init__(self, pool: WorkerPool) -> None:
        options = {"effect": "read", "timeout_s": SHORT_S, "isolation": "process", "limits": TIGHT}
        super().__init__(bad.ignores_sigterm, options)  # type: ignore[arg-type]
        self._null = pool

    def served_by(self, pool: Callable[[], WorkerPool]) -> FunctionTool[..., object]:
        return super().served_by(lambda: self._null)


@pytest.mark.anyio
async def test_f3_v22_without_the_kill_a_tool_outlives_its_record() -> None:
    """A process that is asked to end and then given up lives when the end of its call is on record."""
    pool = PoolWithoutKill()
    try:
        with pytest.raises(AssertionError) as caught:
            await check_gone(Unkilled(pool), 1, ToolStatus.TIMED_OUT)
    finally:
        pool.clean_up()
    assert failed(caught) == "assert watching.alive_at_end == []"


# --- the pairing ------------------------------------------------------------------------------------------------------


class Cut:
    """Which appends fail: all of them, once the host was cancelled. So nothing that a shield lets through arrives."""

    def __init__(self) -> None:
        self.made = False

    def __contains__(self, number: object) -> bool:
        return self.made


async def broken_pairings(scene: Scene, *, shielded: bool) -> tuple[int, int]:
    """Cancel a scene at every step; return at how many steps a call was left without its end, and how many there are.

    Args:
        scene: the turn.
        shielded: whether what is appended after the cancellation arrives.
    """
    broken = 0
    for step in count(1):
        cut = Cut()
        journal: Journal = MemoryJournal() if shielded else FailingJournal(MemoryJournal(), cut)
        tools = World(journal).tools()
        with suppress(JournalUnavailable):
            async with Engine(model=model_of(scene), tools=tools, journal=journal, limits=Limits()) as engine:
                session = await engine.open("s")
                with anyio.CancelScope() as scope:

                    def strike(cut: Cut = cut, scope: anyio.CancelScope = scope) -> None:
                        cut.made = True
                        scope.cancel()

                    with counting_steps(step, strike) as steps:
                        await play(scene, session)
        records = await history(journal)
        turn = check_sound(records).turn
        if turn is not None and turn.batch is not None:
            broken += 1
            with pytest.raises(AssertionError):
                check_closed(records)
        elif shielded:
            check_closed(records)
        if not steps.acted:
            return broken, step - 1
    raise AssertionError("unreachable")


@pytest.mark.anyio
@pytest.mark.parametrize("scene", [SCENES[1], SCENES[2], SCENES[4]], ids=lambda scene: scene.name.replace(" ", "-"))
async def test_f1_m11_without_the_shield_calls_are_left_without_an_end(scene: Scene) -> None:
    """Where the ends of a cancelled turn do not reach the journal, calls stay open; where they do, none does."""
    broken, steps = await broken_pairings(scene, shielded=False)
    assert 0 < broken < steps
    assert (await broken_pairings(scene, shielded=True))[0] == 0
