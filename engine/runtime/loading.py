"""One session's driver, rebuilt from the journal. May import ports and its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import anyio

from ..core.loans import Loan
from ..ports import Writer
from .asking import Asking
from .broadcast import Broadcast
from .crew import Crew
from .driver import Driver
from .ledger import Ledger
from .opening import Room, Who, check_siblings, opening_event


class Nursery(NamedTuple):
    """What new drivers of one engine are made from.

    The gate before the model, the tasks that run tools, the room for children of a session, and how to forget one.
    """

    asking: Asking
    crew: Crew
    room: Callable[[str], Room]
    forget: Callable[[str], None]


async def load_driver(nursery: Nursery, name: str, who: Who, loan: Loan | None, *, takeover: bool) -> Driver:
    """Claim a session, rebuild it, and record how it was opened.

    Raises:
        UsageError, JournalError: see `Engine.open`. The claim is given up then.
    """
    parts = nursery.asking.parts
    writer = await parts.journal.claim(name, takeover=takeover)
    try:
        broadcast = Broadcast(name, parts.watchers)
        ledger = Ledger(name, parts, writer, broadcast)
        await ledger.load()
        parent = who.get("parent") or ledger.session.opened.parent
        if parent is not None:
            check_siblings(parent, nursery.room(parent), loan)
        await ledger.commit_opening(opening_event(ledger.session, parts, who, loan))
        return Driver(nursery.asking, ledger, broadcast, nursery.crew, nursery.forget)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await writer.release()
        raise


async def reload_driver(nursery: Nursery, name: str, writer: Writer) -> Driver:
    """Rebuild a session that this engine has the right to write to, and that has had nothing open since.

    Raises:
        JournalError: its history cannot be read or does not hold.
    """
    parts = nursery.asking.parts
    broadcast = Broadcast(name, parts.watchers)
    ledger = Ledger(name, parts, writer, broadcast)
    await ledger.load()
    return Driver(nursery.asking, ledger, broadcast, nursery.crew, nursery.forget)
