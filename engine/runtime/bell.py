"""The cheapest way for one task to sleep until another one wakes it, or a time has come.

An `anyio.Event` is made for many waiters, is used once, and looks its backend up each time it is made: three times the
price of what a turn needs nine times. A cancel scope around it, for the time, would end the sleep by an exception on
asyncio; a timer that rings the bell does not. May import anyio and, to sleep on, the backends themselves.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol


class Bell(Protocol):
    """Wakes the one task that waits. Ringing while nobody waits does nothing: whoever waits looks first."""

    def ring(self) -> None:
        """Wake who waits, in its own time."""
        ...

    async def wait(self, until: float = math.inf) -> None:
        """Sleep until the bell rings, at the latest until a time of the event loop, in seconds."""
        ...


def loop_clock() -> Callable[[], float]:
    """Return what `anyio.current_time` looks up each time: the clock of the event loop that runs, in seconds."""
    try:
        return asyncio.get_running_loop().time
    except RuntimeError:
        import trio

        return trio.current_time


def new_bell() -> Bell:
    """Return a bell for the event loop that runs."""
    try:
        return _AsyncioBell(asyncio.get_running_loop())
    except RuntimeError:
        return _TrioBell()


class _AsyncioBell:
    __slots__ = ("_loop", "_sleeper")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sleeper: asyncio.Future[None] | None = None

    def ring(self) -> None:
        if self._sleeper is not None and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def wait(self, until: float = math.inf) -> None:
        self._sleeper = self._loop.create_future()
        timer = None if until == math.inf else self._loop.call_at(until, self.ring)
        try:
            await self._sleeper
        finally:
            self._sleeper = None
            if timer is not None:
                timer.cancel()


class _TrioBell:
    __slots__ = ("_sleeper",)

    def __init__(self) -> None:
        import trio

        self._sleeper: trio.Event | None = None

    def ring(self) -> None:
        if self._sleeper is not None:
            self._sleeper.set()

    async def wait(self, until: float = math.inf) -> None:
        import trio

        self._sleeper = trio.Event()
        try:
            with trio.CancelScope(deadline=until):
                await self._sleeper.wait()
        finally:
            self._sleeper = None
