"""A compaction that the host asks for, while its session is idle. May import core, the driver and its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.events import ContextCompacted, KnownEvent
from ..core.table import legal
from ..core.values import State
from ..errors import IllegalTransition, UsageError
from .compacting import compact
from .driver import Driver
from .opening import Entry


class CompactionEntry(Entry):
    """A compaction on its way in.

    Attributes:
        event: what became of it; None where there was nothing to leave out.
    """

    def __init__(self, driver: Driver) -> None:
        super().__init__(tuple)
        self.event: ContextCompacted | None = None
        self._driver = driver

    async def events(self) -> Sequence[KnownEvent]:
        """Return what the host asked for.

        Raises:
            IllegalTransition: the session is not idle.
            UsageError: it lives on a loan.
        """
        driver = self._driver
        session = driver.session
        if session.state is not State.IDLE:
            raise IllegalTransition("context_compacted", session.state, legal(session.state))
        if session.opened.loan is not None:
            raise UsageError(
                f"session {session.id!r} lives on what its parent lends to its turns, and this is no turn: "
                "let auto_compact do it, within one"
            )
        event = await compact(driver.asking, driver.ledger, driver.broadcast.notice, "host")
        if not event.keeps:
            return ()
        self.event = event
        return (event,)


async def compacted(driver: Driver) -> bool:
    """Show the model less of a conversation; return whether it is. Raises as `CompactionEntry.events`."""
    entry = CompactionEntry(driver)
    await driver.enter(entry)
    return entry.event is not None and bool(entry.event.text)


__all__ = ["CompactionEntry", "compacted"]
