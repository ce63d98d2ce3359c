"""The end of an engine: drain its sessions to a safe point, then let go of everything it holds.

Both are asked for as often as anybody likes and happen once; whoever asks again with less patience shortens the wait.
Cancelling whoever waits shortens it too, and nothing that is held is left behind. May import anyio and the driver.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import anyio

from ..core.events import ShutdownRequested
from .driver import Driver
from .parts import Parts


class DrainReport(NamedTuple):
    """Which sessions had come to rest at a safe point, or were at rest, and which the deadline interrupted."""

    drained: tuple[str, ...] = ()
    interrupted: tuple[str, ...] = ()


class Closing:
    """How one engine ends.

    Args:
        parts: what it is made of.
        drivers: those of its open sessions, by their ids.
        opening: held while a session is being opened.
        forget: called with the id of each session that is let go of.

    Attributes:
        begun: whether the engine opens no session any more.
    """

    def __init__(
        self, parts: Parts, drivers: Mapping[str, Driver], opening: anyio.Lock, forget: Callable[[str], None]
    ) -> None:
        self.begun = False
        self._parts = parts
        self._drivers = drivers
        self._opening = opening
        self._forget = forget
        self._report: DrainReport | None = None
        self._done = False
        self._busy: anyio.Event | None = None
        self._patience: anyio.CancelScope | None = None

    async def drain(self, deadline_s: float) -> DrainReport:
        """Let every turn reach a safe point, and interrupt those that have not after `deadline_s` seconds."""
        drivers = await self._refuse(deadline_s)
        if self._report is None:
            await self._alone(deadline_s, partial(_to_safe_points, drivers), partial(self._interrupt, drivers))
        return self._report or DrainReport()

    async def shutdown(self, grace_s: float) -> None:
        """Let every turn end for up to `grace_s` seconds, then let go of the sessions, the journal and the model.

        Raises:
            Exception: something could not be released; everything else was.
        """
        drivers = await self._refuse(grace_s)
        if not self._done:
            await self._alone(grace_s, partial(_to_rest, drivers), partial(self._release, drivers))

    async def _refuse(self, patience_s: float) -> list[Driver]:
        """Let nothing enter any more, and return what is open when nobody else ends this engine."""
        self.begun = True
        # Shielded: a cancelled engine, too, has to know what it must let go of.
        with anyio.CancelScope(shield=True):
            await self._opening.acquire()
        drivers = list(self._drivers.values())
        self._opening.release()
        for driver in drivers:
            driver.refuse_prompts()
        # From here on nothing may be awaited before this one begins.
        while self._busy is not None:
            if self._patience is not None:
                self._patience.deadline = min(self._patience.deadline, anyio.current_time() + patience_s)
            await self._busy.wait()
        return drivers

    async def _alone(
        self, patience_s: float, wait: Callable[[], Awaitable[None]], finish: Callable[[], Awaitable[None]]
    ) -> None:
        busy = self._busy = anyio.Event()
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + patience_s) as self._patience:
                await wait()
        finally:
            try:
                with anyio.CancelScope(shield=True):
                    await finish()
            finally:
                self._busy = None
                busy.set()

    async def _interrupt(self, drivers: Sequence[Driver]) -> None:
        late = [driver for driver in drivers if driver.driving is not None]
        for driver in late:
            # All at once: a tool that does not end is waited for, and the graces must not add up.
            driver.interrupt(ShutdownRequested(reason="the time to drain was over"))
        for driver in late:
            await driver.stop(ShutdownRequested(reason="the time to drain was over"))
        for driver in drivers:
            # Whoever goes on with a session may be another process, and this one need not end in order.
            await driver.ledger.keep()
        interrupted = tuple(sorted(driver.session.id for driver in late))
        drained = tuple(sorted(driver.session.id for driver in drivers if driver not in late))
        self._report = DrainReport(drained, interrupted)

    async def _release(self, drivers: Sequence[Driver]) -> None:
        for driver in drivers:
            driver.interrupt(ShutdownRequested(reason="closed"))
        release: list[Callable[[], Awaitable[None]]] = [partial(let_go, driver, self._forget) for driver in drivers]
        release += self._parts.closing()
        failures: list[Exception] = []
        for close in release:
            try:
                await close()
            except Exception as error:
                # One that cannot be released must not keep the others from it.
                failures.append(error)
        if failures:
            raise failures[0]
        self._done = True


async def let_go(driver: Driver, forget: Callable[[str], None]) -> None:
    """Interrupt the open turn of a session in order, and give the session up."""
    # First of all: a prompt that waits must not begin its turn between the end of this one and the release.
    driver.refuse_prompts()
    try:
        await driver.stop(ShutdownRequested(reason="closed"))
    finally:
        forget(driver.session.id)
        await driver.close()


async def _to_safe_points(drivers: Sequence[Driver]) -> None:
    async with anyio.create_task_group() as group:
        for driver in drivers:
            group.start_soon(driver.drain, ShutdownRequested(reason="drained"))


async def _to_rest(drivers: Sequence[Driver]) -> None:
    for driver in drivers:
        await driver.rest()
