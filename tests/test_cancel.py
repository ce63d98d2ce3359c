"""Cancellation at every scheduling point: nothing is left half-done, no place is lost, and the session goes on.

A point is one time that the event loop lets a task run; a scene is cut at point 1, 2, 3 … until it ends uncut. How many
tools may run at once changes the schedule, so a test keeps to one number for all of its points; together the tests go
through 1, 2 and 3. With HYPOTHESIS_PROFILE=thorough each of them does.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import NamedTuple, Protocol

import anyio
import anyio.lowlevel
import psutil
import pytest
import trio

from engine import Engine, Limits, Outcome, Prompt, Session, State, ToolStatus, tool
from engine.journal import MemoryJournal
from engine.ports import Journal
from engine.testing.journals import YieldingJournal
from engine.testing.scheduling import counting_steps
from tests.runtime.scenes import (
    SCENES,
    Scene,
    Verdicts,
    World,
    call,
    calls,
    check_closed,
    check_conversation,
    history,
    model_of,
    play,
)

pytestmark = pytest.mark.anyio

MOST_STEPS = 600
"""Far more than any scene takes: a run that reaches it does not end."""


every_scene = pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name.replace(" ", "-"))


class Interrupt(Protocol):
    """Plays a scene and cuts it at one step; returns whether that was reached."""

    async def __call__(self, scene: Scene, session: Session, step: int) -> bool: ...


THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"


class Held(NamedTuple):
    """What the process holds that an engine could have left behind (I13)."""

    tasks: frozenset[int]
    threads: tuple[str, ...]
    children: tuple[int, ...]
    descriptors: int

    @classmethod
    def now(cls) -> Held:
        """Look; threads that anyio and trio keep for the next call are nobody's, and garbage is that of other tests."""
        gc.collect()
        names = sorted(thread.name for thread in threading.enumerate())
        return cls(
            frozenset(task.id for task in anyio.get_running_tasks()),
            tuple(name for name in names if not name.startswith(("AnyIO worker", "Trio thread"))),
            tuple(child.pid for child in psutil.Process().children()),
            psutil.Process().num_fds(),
        )


async def check_every_step(
    scene: Scene, interrupt: Interrupt, places: int, journals: Callable[[], Journal] = MemoryJournal
) -> None:
    """Interrupt the scene at step 1, 2, 3 … until it ends untouched, check everything after each, and that nothing is
    left in the end.
    """
    before = Held.now()
    for allowed in (1, 2, 3) if THOROUGH else (places,):
        limits = Limits(max_concurrent_tools=allowed, backoff_base_s=0)
        for step in count(1):
            assert step < MOST_STEPS
            if not await check_step(scene, partial(interrupt, scene, step=step), limits, journals()):
                break
    assert Held.now() == before


async def check_step(
    scene: Scene, interrupt: Callable[[Session], Awaitable[bool]], limits: Limits, journal: Journal
) -> bool:
    """Interrupt the scene at one step and check everything; return whether it was reached."""
    before = {task.id for task in anyio.get_running_tasks()}
    policy, tools = Verdicts(ask="ask"), World(journal).tools()
    async with Engine(model=model_of(scene), tools=tools, journal=journal, limits=limits, policy=policy) as engine:
        session = await engine.open("s")
        reached = await interrupt(session)
        await check_usable(session, journal)
    # Nothing that the engine started outlives it (I13).
    assert {task.id for task in anyio.get_running_tasks()} <= before
    return reached


def slow() -> Journal:
    """Return a journal that takes its time."""
    return YieldingJournal(MemoryJournal())


async def check_usable(session: Session, journal: Journal) -> None:
    """Assert that the history is closed and that a turn with every kind of tool still runs."""
    if session.state is State.WAITING_FOR_USER:
        # The turn had come to rest before it was cancelled; it waits, as it should.
        await session.cancel()
    assert session.state is State.IDLE
    check_closed(await history(journal))
    again = Prompt(text="again", calls=[call("look", "a0"), call("save", "a1"), call("compute", "a2")])
    with anyio.fail_after(60):
        result = await session.ask(again)
    assert result.outcome is Outcome.COMPLETED
    assert [made.status for made in result.tool_calls] == [ToolStatus.COMPLETED] * 3
    check_conversation(session.messages)
    check_closed(await history(journal))


async def by_scope(scene: Scene, session: Session, step: int) -> bool:
    """Cancel the anyio scope around the host."""
    with anyio.CancelScope() as scope, counting_steps(step, scope.cancel) as steps:
        await play(scene, session)
    return steps.acted


async def by_session(scene: Scene, session: Session, step: int) -> bool:
    """Call `session.cancel` from another task."""
    async with anyio.create_task_group() as group:
        with counting_steps(step, lambda: group.start_soon(session.cancel)) as steps:
            await play(scene, session)
    return steps.acted


async def by_task(scene: Scene, session: Session, step: int) -> bool:
    """Cancel the host's task the way asyncio itself does."""
    task = asyncio.create_task(play(scene, session))
    with counting_steps(step, task.cancel) as steps:
        await asyncio.wait([task])
    assert task.cancelled() or task.exception() is None
    return steps.acted


async def by_trio(scene: Scene, session: Session, step: int) -> bool:
    """Cancel a scope of trio's own."""
    with trio.CancelScope() as scope, counting_steps(step, scope.cancel) as steps:
        await play(scene, session)
    return steps.acted


@every_scene
async def test_f1_m11_cancelled_scope_leaves_terminal_records(scene: Scene) -> None:
    """Wherever the scope around a turn is cancelled, every started call ends on record and the session is usable."""
    await check_every_step(scene, by_scope, 2)


@every_scene
async def test_f1_m11_cancellation_around_an_append_loses_nothing(scene: Scene) -> None:
    """A journal that takes its time can be cancelled right before and right after each append: the same holds."""
    await check_every_step(scene, by_scope, 1, slow)


@every_scene
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_f1_m11_native_cancellation_around_an_append_loses_nothing(scene: Scene) -> None:
    """The same with asyncio's own cancellation, which no shield of anyio holds off."""
    await check_every_step(scene, by_task, 3, slow)


@every_scene
async def test_f1_m11_session_cancel_leaves_terminal_records(scene: Scene) -> None:
    """Wherever `session.cancel` strikes, every started call ends on record and the session is usable."""
    await check_every_step(scene, by_session, 3)


@every_scene
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_f1_m11_native_task_cancel_leaves_terminal_records(scene: Scene) -> None:
    """What asyncio's own `task.cancel` hits is closed as well; no scope of anyio is involved."""
    await check_every_step(scene, by_task, 1)


@every_scene
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_f1_m11_native_trio_scope_leaves_terminal_records(scene: Scene) -> None:
    """A scope of trio's own cancels a turn as well as one of anyio's."""
    await check_every_step(scene, by_trio, 1)


@tool
async def hang() -> str:
    """Never end."""
    await anyio.sleep_forever()
    return ""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_m11_asyncio_timeout_ends_the_turn_as_cancelled() -> None:
    """`asyncio.timeout` raises TimeoutError for its caller and leaves a cancelled turn with a terminal call."""
    journal = MemoryJournal()
    async with Engine(model=model_of(Scene("", (calls("hang"),))), tools=[hang], journal=journal) as engine:
        session = await engine.open("s")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.ask("go"), 0.01)
        assert session.turns[-1].outcome is Outcome.CANCELLED
        assert [made.status for made in session.turns[-1].tool_calls] == [ToolStatus.CANCELLED]
    check_closed(await history(journal))


async def test_m11_nothing_runs_after_the_engine_has_ended() -> None:
    """Leaving the engine inside a turn leaves no task behind."""
    before = {task.id for task in anyio.get_running_tasks()}
    model = model_of(Scene("", (calls("hang", "hang"),)))
    async with anyio.create_task_group() as group, Engine(model=model, tools=[hang]) as engine:
        session = await engine.open("s")
        group.start_soon(session.ask, "go")
        await anyio.wait_all_tasks_blocked()
        assert session.state is State.EXECUTING_TOOLS
        await engine.shutdown()
    assert {task.id for task in anyio.get_running_tasks()} == before
