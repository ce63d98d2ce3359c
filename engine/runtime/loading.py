"""One session's driver, rebuilt from the journal. May import ports and its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import anyio

from ..core.loans import Loan
from ..ports import Writer
from .asking import Asking
from .broadcast import Broadcast
from .checkpointing import start_of
from .crew import Crew
from .driver import Driver
from .ledger import Ledger
from .opening import Room, Who, check_siblings, opening_event
from .parts import Parts

if TYPE_CHECKING:
    from .warmer import Warmer


class Nursery(NamedTuple):
    """What new drivers of one engine are made from.

    The gate before the model, the tasks that run tools, the room for children of a session, how to forget one, and who
    prepares ahead.
    """

    asking: Asking
    crew: Crew
    room: Callable[[str], Room]
    forget: Callable[[str], None]
    warmer: Warmer | None


def warmer_of(parts: Parts, crew: Crew, drivers: Mapping[str, Driver]) -> Warmer | None:
    """Return who prepares ahead in an engine; what that needs is loaded where somebody predicts and it is wanted."""
    if parts.learner is None or parts.settings.warming.mode == "off":
        return None
    from .warmer import Warmer

    return Warmer(parts, parts.learner, crew, drivers)


async def load_driver(nursery: Nursery, name: str, who: Who, loan: Loan | None, *, takeover: bool) -> Driver:
    """Claim a session, rebuild it, and record how it was opened.

    Raises:
        UsageError, JournalError: see `Engine.open`. The claim is given up then.
    """
    parts = nursery.asking.parts
    writer = await parts.journal.claim(name, takeover=takeover)
    try:
        broadcast, ledger = await _loaded(nursery, name, writer)
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
    broadcast, ledger = await _loaded(nursery, name, writer)
    return Driver(nursery.asking, ledger, broadcast, nursery.crew, nursery.forget)


async def _loaded(nursery: Nursery, name: str, writer: Writer) -> tuple[Broadcast, Ledger]:
    parts = nursery.asking.parts
    warmers = () if nursery.warmer is None else (nursery.warmer,)
    broadcast = Broadcast(name, (*parts.watchers, *warmers))
    ledger = Ledger(name, parts, writer, broadcast)
    if (start := await start_of(parts.journal, name, writer.tail, parts.limits)) is not None:
        ledger.begin_at(start)
    await ledger.load()
    return broadcast, ledger
