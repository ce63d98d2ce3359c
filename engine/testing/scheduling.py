"""The scheduler as a test instrument: count the steps of an event loop, act at a chosen one, let time pass at once.

A step is one time that the loop lets something run. Cancelling at step 1, 2, 3 … until a run ends untouched covers
every point where a program can be cancelled. Works on asyncio and on trio; trio is imported only when it is used. Must
never be imported by the engine.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, Literal


class Steps:
    """Counts the steps of the running event loop.

    Attributes:
        count: how many there were so far.
    """

    def __init__(self, act_at: int = 0, act: Callable[[], object] | None = None) -> None:
        self.count = 0
        self._act_at = act_at
        self._act = act

    @property
    def acted(self) -> bool:
        """Whether the chosen step was reached."""
        return 0 < self._act_at <= self.count

    def step(self) -> None:
        """Count one more step, and act if it is the chosen one."""
        self.count += 1
        if self.count == self._act_at and self._act is not None:
            self._act()


@contextmanager
def counting_steps(act_at: int = 0, act: Callable[[], object] | None = None) -> Generator[Steps, None, None]:
    """Count the steps of the running event loop inside the block.

    Args:
        act_at: number of the step, from 1, right before which `act` is called; 0 for never.
        act: what to do then, such as `scope.cancel`. Called in the loop's thread.
    """
    steps = Steps(act_at, act)
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        with _counting_on_trio(steps):
            yield steps
        return
    call_soon = loop.call_soon

    def counted(callback: Callable[..., object], args: tuple[object, ...]) -> None:
        if counting:
            steps.step()
        callback(*args)

    def count_soon(callback: Callable[..., object], *args: object, context: Context | None = None) -> asyncio.Handle:
        return call_soon(counted, callback, args, context=context)

    counting = True
    loop.call_soon = count_soon  # type: ignore[method-assign]
    try:
        yield steps
    finally:
        counting = False
        loop.call_soon = call_soon  # type: ignore[method-assign]


@contextmanager
def _counting_on_trio(steps: Steps) -> Generator[None, None, None]:
    import trio

    class Instrument(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            steps.step()

    instrument = Instrument()
    trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(instrument)


class _JumpingSelector(selectors.SelectSelector):
    """Waits for no timer: the time it should have waited is added to the loop's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        ready = super().select(0)
        if not ready and timeout > 0:
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop whose clock jumps to the next timer when nothing else is to be done. Not for work in threads."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the virtual time in seconds, from 0."""
        return self._jumping.now_s


def virtual_time(backend: Literal["asyncio", "trio"]) -> tuple[str, dict[str, Any]]:
    """Return a backend and its options, as `anyio.run` and the anyio plugin take them, in which no timer takes time.

    Args:
        backend: which event loop.
    """
    if backend == "asyncio":
        return backend, {"loop_factory": VirtualLoop}
    import trio.testing

    return backend, {"clock": trio.testing.MockClock(autojump_threshold=0)}


__all__ = ["Steps", "VirtualLoop", "counting_steps", "virtual_time"]
