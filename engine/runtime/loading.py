"""One session's driver, rebuilt from the journal. May import its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import anyio

from .asking import Asking
from .broadcast import Broadcast
from .crew import Crew
from .driver import Driver
from .ledger import Ledger
from .opening import Who, check_siblings, opening_event
from .parts import Parts

if TYPE_CHECKING:
    from .warmer import Warmer


class Nursery(NamedTuple):
    """What new drivers of one engine are made from: the gate, the tasks that run tools, the drivers there are, and who
    prepares ahead for them.
    """

    asking: Asking
    crew: Crew
    drivers: Mapping[str, Driver]
    warmer: Warmer | None


def warmer_of(parts: Parts, crew: Crew, drivers: Mapping[str, Driver]) -> Warmer | None:
    """Return who prepares ahead in an engine; what that needs is loaded where somebody predicts and it is wanted."""
    if parts.learner is None or parts.settings.warming.mode == "off":
        return None
    from .warmer import Warmer

    return Warmer(parts, parts.learner, crew, drivers)


async def load_driver(nursery: Nursery, name: str, who: Who, *, takeover: bool) -> Driver:
    """Claim a session, rebuild it, and record how it was opened.

    Raises:
        UsageError, JournalError: see `Engine.open`. The claim is given up then.
    """
    parts = nursery.asking.parts
    writer = await parts.journal.claim(name, takeover=takeover)
    try:
        warmers = () if nursery.warmer is None else (nursery.warmer,)
        broadcast = Broadcast(name, (*parts.watchers, *warmers))
        ledger = Ledger(name, parts, writer, broadcast)
        await ledger.load()
        parent = who.get("parent") or ledger.session.opened.parent
        check_siblings(parent, (driver.session for driver in nursery.drivers.values()), parts)
        await ledger.commit_opening(opening_event(ledger.session, parts, who))
        return Driver(nursery.asking, ledger, broadcast, nursery.crew)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await writer.release()
        raise
