"""One session's driver, rebuilt from the journal. May import its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import anyio

from .asking import Asking
from .broadcast import Broadcast
from .checkpointing import start_of
from .crew import Crew
from .driver import Driver
from .ledger import Ledger
from .opening import Who, check_siblings, opening_event


class Nursery(NamedTuple):
    """What new drivers of one engine are made from: the gate, the tasks that run tools, the drivers there are."""

    asking: Asking
    crew: Crew
    drivers: Mapping[str, Driver]


async def load_driver(nursery: Nursery, name: str, who: Who, *, takeover: bool) -> Driver:
    """Claim a session, rebuild it, and record how it was opened.

    Raises:
        UsageError, JournalError: see `Engine.open`. The claim is given up then.
    """
    parts = nursery.asking.parts
    writer = await parts.journal.claim(name, takeover=takeover)
    try:
        broadcast = Broadcast(name, parts.watchers)
        ledger = Ledger(name, parts, writer, broadcast)
        if (start := await start_of(parts.journal, name, writer.tail, parts.limits)) is not None:
            ledger.begin_at(start)
        await ledger.load()
        parent = who.get("parent") or ledger.session.opened.parent
        check_siblings(parent, (driver.session for driver in nursery.drivers.values()), parts)
        await ledger.commit_opening(opening_event(ledger.session, parts, who))
        return Driver(nursery.asking, ledger, broadcast, nursery.crew)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await writer.release()
        raise
