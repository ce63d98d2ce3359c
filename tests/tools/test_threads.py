"""Synchronous tools in threads: given up at once, counted until they end, never begun after they were given up."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

from engine.testing.scheduling import counting_steps
from engine.tools.threads import run_abandonable

pytestmark = pytest.mark.anyio


async def test_value_and_end_arrive() -> None:
    """The function's value is returned, and its end reported in the event loop's thread."""
    ends: list[int] = []
    value = await run_abandonable(lambda: threading.get_ident(), lambda: ends.append(threading.get_ident()))
    assert value != threading.get_ident()
    assert ends == [threading.get_ident()]


@pytest.mark.parametrize("error", [ValueError("x"), StopIteration(1), SystemExit(3), KeyboardInterrupt()])
async def test_what_the_function_raises_is_raised_here(error: BaseException) -> None:
    """Any exception comes out as it is, and the end is reported."""
    ends: list[int] = []

    def fail() -> None:
        raise error

    # A coroutine cannot raise StopIteration: Python makes it the cause of a RuntimeError.
    with pytest.raises((type(error), RuntimeError)) as raised:
        await run_abandonable(fail, lambda: ends.append(1))
    assert error in (raised.value, raised.value.__cause__)
    assert ends == [1]


async def test_f5_abandoned_thread_reports_its_end_when_it_ends() -> None:
    """A cancelled call returns at once while its thread goes on; the end is reported when the thread ends, once."""
    entered, free = threading.Event(), threading.Event()
    ended = anyio.Event()
    ends: list[int] = []

    def linger() -> None:
        entered.set()
        free.wait(60)

    def note() -> None:
        ends.append(1)
        ended.set()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(run_abandonable, linger, note)
                await anyio.to_thread.run_sync(entered.wait)
                inner.cancel_scope.cancel()
        assert not scope.cancel_called
        assert ends == []
        free.set()
        await ended.wait()
        group.cancel_scope.cancel()
    assert ends == [1]


async def test_f5_a_call_cancelled_at_any_step_reports_exactly_one_end() -> None:
    """Cancelled before, while or after its thread starts: one end is reported; given up early, it never runs."""
    step = 0
    acted = True
    while acted:
        step += 1
        assert step < 100
        ends: list[int] = []
        ran: list[int] = []
        ended = anyio.Event()

        def note(ends: list[int] = ends, ended: anyio.Event = ended) -> None:
            ends.append(1)
            ended.set()

        with anyio.CancelScope() as scope, counting_steps(step, scope.cancel) as steps:
            await run_abandonable(lambda ran=ran: ran.append(1), note)  # type: ignore[misc]
        acted = steps.acted
        with anyio.fail_after(30):
            await ended.wait()
        assert ends == [1]
        assert len(ran) <= 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_f5_thread_that_outlives_its_loop_does_not_keep_the_process(backend: str) -> None:
    """A process whose loop has ended while a synchronous tool still ran ends when that thread does."""
    source = (
        "import anyio, time\n"
        "from engine.tools.threads import run_abandonable\n"
        "async def main():\n"
        "    with anyio.move_on_after(0.05):\n"
        "        await run_abandonable(lambda: time.sleep(0.5), lambda: None)\n"
        f"anyio.run(main, backend={backend!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", source], timeout=60, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0


def test_f5_thread_that_ends_between_stop_and_close_of_its_loop_ends() -> None:
    """A loop that has stopped but is not closed takes what is posted and never runs it; the thread ends anyway."""
    source = (
        "import asyncio, time\n"
        "from engine.tools.threads import run_abandonable\n"
        "async def main():\n"
        "    task = asyncio.ensure_future(run_abandonable(lambda: time.sleep(0.3), lambda: None))\n"
        "    await asyncio.sleep(0.05)\n"
        "loop = asyncio.new_event_loop()\n"
        "loop.run_until_complete(main())\n"
        "time.sleep(0.6)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source], timeout=60, check=False, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0
