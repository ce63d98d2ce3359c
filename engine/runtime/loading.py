"""One session's driver, rebuilt from the journal. May import its neighbours."""

from __future__ import annotations

import anyio

from .broadcast import Broadcast
from .crew import Crew
from .driver import Driver
from .ledger import Ledger
from .opening import Who, opening_event
from .parts import Parts


async def load_driver(parts: Parts, name: str, crew: Crew, who: Who, *, takeover: bool) -> Driver:
    """Claim a session, rebuild it, and record how it was opened.

    Raises:
        UsageError, JournalError: see `Engine.open`. The claim is given up then.
    """
    writer = await parts.journal.claim(name, takeover=takeover)
    try:
        broadcast = Broadcast(name, parts.observers)
        ledger = Ledger(name, parts, writer, broadcast)
        await ledger.load()
        driver = Driver(parts, ledger, broadcast, crew)
        await ledger.commit_opening(opening_event(ledger.session, parts, who))
        return driver
    except BaseException:
        with anyio.CancelScope(shield=True):
            await writer.release()
        raise
