"""What is done while no session of an engine runs a turn: forgetting, dropping, getting ready for the next prompt.

It is done once when the engine comes to rest, in steps with a checkpoint between them, and stops as soon as a prompt
arrives; nothing wakes up for it. May import anyio, core and its neighbours. Must never run beside a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import anyio
import anyio.lowlevel

from ..log import logger

Step = Callable[[], int]
"""A piece of work that takes some milliseconds at most; returns how much it has freed."""


class IdleReport(NamedTuple):
    """What idle time was used for: how often, how often a prompt ended it early, how much each kind of work has freed
    (contexts of predictors, bytes of caches, preparations that are over), and the seconds all of it took.
    """

    times: int
    interrupted: int
    freed: Mapping[str, int]
    seconds: float


class Busy(Protocol):
    """A session's driver, as far as idle time is concerned."""

    @property
    def driving(self) -> object | None:
        """Something while a turn runs."""
        ...


class IdleTime:
    """Does the idle work of one engine.

    Args:
        steps: what is done, by name, in this order.
        drivers: the engine's, by session.
        now_s: tells the time.
    """

    def __init__(self, steps: Mapping[str, Step], drivers: Mapping[str, Busy], now_s: Callable[[], float]) -> None:
        self._steps = steps
        self._drivers = drivers
        self._now_s = now_s
        self._scope: anyio.CancelScope | None = None
        self._freed = dict.fromkeys(steps, 0)
        self._times = self._interrupted = 0
        self._seconds = 0.0

    def report(self) -> IdleReport:
        """Return what it was used for so far."""
        return IdleReport(self._times, self._interrupted, dict(self._freed), self._seconds)

    def stop(self) -> None:
        """Stop: there is input. Waits for nothing."""
        if self._scope is not None:
            self._scope.cancel()

    async def use(self, then: Callable[[], None]) -> None:
        """Do everything that is to be done, if no turn runs and nobody does it already; in the end call `then`."""
        # Whoever came to rest just now has to leave its turn first.
        await anyio.lowlevel.checkpoint()
        if self._scope is not None or any(driver.driving is not None for driver in self._drivers.values()):
            return
        began_s = self._now_s()
        self._times += 1
        try:
            with anyio.CancelScope() as self._scope:
                for name, step in self._steps.items():
                    self._freed[name] += step()
                    await anyio.lowlevel.checkpoint()
                then()
            self._interrupted += self._scope.cancelled_caught
        except Exception:
            # Nobody waits here, and a session must not end for it.
            logger.exception("idle work failed")
        finally:
            self._scope = None
            self._seconds += self._now_s() - began_s
