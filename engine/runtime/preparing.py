"""Carries out what was chosen to be prepared: in tasks of its own, within bounds, and so that nothing can go wrong.

A preparation that raises or runs too long is recorded and comes to nothing; after three in a row its hook is retired.
May import anyio, predict and its neighbours. Must never let an exception out: it would end the engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import anyio

from ..core.notices import WarmUp
from ..log import logger
from ..tools.encode import describe
from ..tools.function import really_cancelled
from .crew import Crew
from .stock import Key, Preparation, Stock
from .wares import MODEL, Offer

FAILURES = 3
"""Failures in a row after which something is not prepared any more."""

Tell = Callable[[str, WarmUp], None]
"""Hands a notice about a session outward."""


class _Task(NamedTuple):
    session: str
    idle: bool
    scope: anyio.CancelScope


class Preparer:
    """Runs preparations.

    Args:
        crew: gives the tasks.
        stock: what is really prepared.
        now_s: tells the time.
        timeout_s: when a preparation is given up.
        tell: takes the notices.
    """

    def __init__(self, crew: Crew, stock: Stock, now_s: Callable[[], float], timeout_s: float, tell: Tell) -> None:
        self._crew = crew
        self._stock = stock
        self._now_s = now_s
        self._timeout_s = timeout_s
        self._tell = tell
        self._tasks: dict[Key, _Task] = {}
        self._failures: Counter[object] = Counter()

    @property
    def running(self) -> int:
        """How many run."""
        return len(self._tasks)

    def runs(self, key: Key) -> bool:
        """Return whether this is being prepared now."""
        return key in self._tasks

    def retired(self, ware: object) -> bool:
        """Return whether this has failed too often to be tried again."""
        return self._failures[ware] >= FAILURES

    def begin(self, offer: Offer, made: Preparation, *, idle: bool) -> None:
        """Begin a preparation that is in the stock; one that idle time begins gives way to the next prompt."""
        scope = anyio.CancelScope()
        self._tasks[offer.key] = _Task(made.session, idle, scope)
        self._tell(made.session, WarmUp(offer.tool, "begun"))
        self._crew.start(partial(self._run, offer, made, scope))

    def stop(self, session: str) -> None:
        """Stop what runs for a session. Waits for nothing."""
        for task in self._tasks.values():
            if task.session == session:
                task.scope.cancel()

    def stop_idle(self) -> None:
        """Stop what idle time began: there is input."""
        for task in self._tasks.values():
            if task.idle:
                task.scope.cancel()

    async def _run(self, offer: Offer, made: Preparation, scope: anyio.CancelScope) -> None:
        began_s = self._now_s()
        error: BaseException | None = None
        stopped = True
        try:
            with scope:
                with anyio.move_on_after(self._timeout_s) as limit:
                    await offer.run()
                stopped = False
                if limit.cancelled_caught:
                    error = TimeoutError(f"it took longer than {self._timeout_s:g} s")
        except GeneratorExit:
            raise
        except BaseException as raised:
            if isinstance(raised, anyio.get_cancelled_exc_class()) and really_cancelled():
                raise
            stopped, error = False, raised
        finally:
            del self._tasks[offer.key]
            self._settle(offer, made, self._now_s() - began_s, done=not stopped and error is None)
        if error is not None:
            self._note_failure(offer, error)
        elif not stopped:
            self._failures.pop(offer.key.ware, None)

    def _settle(self, offer: Offer, made: Preparation, spent_s: float, *, done: bool) -> None:
        if not done:
            self._stock.lose(offer.key, made, spent_s)
        else:
            made.spent_s = spent_s
            if offer.tool == MODEL:
                # Getting ready takes what it saves.
                made.saves_s = spent_s
                made.books.benefit.started(MODEL, spent_s)
        self._tell(made.session, WarmUp(offer.tool, "ready" if done else "failed", spent_s))

    def _note_failure(self, offer: Offer, error: BaseException) -> None:
        self._failures[offer.key.ware] += 1
        last = "; it is not tried again" if self.retired(offer.key.ware) else ""
        logger.warning(f"a warm-up failed{last}", tool=offer.tool, error=describe(error))
