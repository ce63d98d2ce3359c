"""Synchronous functions in worker threads that nobody can kill.

A thread that outlives its call's deadline goes on. Whoever counts running tools must count it until it really ends, so
the end is reported from the thread itself and not from the await that gave up on it. May import anyio.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar

T = TypeVar("T")

# anyio gives an abandoned thread's token back at once, so a limiter cannot count threads; the engine's slots do.
_unlimited: RunVar[anyio.CapacityLimiter] = RunVar("engine_tool_threads")


async def run_abandonable(function: Callable[[], T], on_end: Callable[[], None]) -> T:
    """Run `function` in a thread; on cancellation stop waiting for it, at once.

    Args:
        function: what to run. Whatever it raises is raised here.
        on_end: called in the event loop when the thread has really ended, also long after a cancellation; or when the
            call was cancelled before the function began, which it then never does. Not when the loop is gone by then.
    """
    # Whoever takes it first decides: the thread runs the function, or the caller gave up before it began.
    first = threading.Lock()

    post = poster()

    def call() -> tuple[T | None, BaseException | None]:
        if not first.acquire(blocking=False):
            return None, None
        # The outcome is handed over as data: a StopIteration or SystemExit must not meet the machinery in between.
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = (function(), None)
        except BaseException as error:
            outcome = (None, error)
        try:
            post(on_end)
        except RuntimeError:
            # The event loop has ended before this thread did: nobody counts any more.
            return outcome
        return outcome

    try:
        value, error = await to_thread.run_sync(call, abandon_on_cancel=True, limiter=_limiter())
    except BaseException:
        if first.acquire(blocking=False):
            on_end()
        raise
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def poster() -> Callable[[Callable[[], object]], object]:
    """Return what runs a function in this event loop soon, from any thread, without waiting for it.

    A thread that waited for a loop which has stopped and is not closed would wait for ever, and the process with it.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
    return loop.call_soon_threadsafe


def _limiter() -> anyio.CapacityLimiter:
    limiter = _unlimited.get(None)
    if limiter is None:
        limiter = anyio.CapacityLimiter(math.inf)
        _unlimited.set(limiter)
    return limiter
