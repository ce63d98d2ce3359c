"""The port of journals in which histories can share their beginning.

A journal need not satisfy it: whoever forks asks first. May import core and errors.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from ..core.record import TransitionRecord


class Origin(NamedTuple):
    """Where a fork began: after record `seq` of `session`, which is the session that holds that record itself."""

    session: str
    seq: int


@runtime_checkable
class Forking(Protocol):
    """A journal in which a session can begin with another's records without a copy of them."""

    async def fork(self, record: TransitionRecord) -> None:
        """Create a session durably. Reading it gives the records up to the one that `record` continues, then `record`.

        Args:
            record: a `session_forked`; its event names the session that holds the record before it.

        Raises:
            UsageError: there is no such record before it, or the session has records already.
            JournalUnavailable, JournalCorrupt, NotAJournal: as in `Journal.claim`.
        """
        ...

    async def origin(self, session: str) -> Origin | None:
        """Return where a session was forked from, None for one that was not, or that is not there.

        Raises:
            InvalidId, JournalUnavailable, JournalCorrupt, NotAJournal: as in `Journal.claim`.
        """
        ...
