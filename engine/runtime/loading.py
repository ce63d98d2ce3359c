"""One session's driver, rebuilt from the journal. May import ports and its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import anyio

from ..ports import Writer
from .asking import Asking
from .broadcast import Broadcast
from .crew import Crew
from .driver import Driver
from .ledger import Ledger
from .opening import Who, check_siblings, opening_event


class Nursery(NamedTuple):
    """What new drivers of one engine are made from.

    The gate before the model, the tasks that run tools, the parents of the open sessions, and how to forget a session.
    """

    asking: Asking
    crew: Crew
    parents: Callable[[], Iterable[str | None]]
    forget: Callable[[str], None]


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
        await ledger.load()
        parent = who.get("parent") or ledger.session.opened.parent
        check_siblings(parent, nursery.parents(), parts)
        await ledger.commit_opening(opening_event(ledger.session, parts, who))
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
