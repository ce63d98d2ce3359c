"""The port of journals in which histories can share their beginning.

A journal need not satisfy it: whoever forks asks first. May import core, errors, ports and the codec.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ..core.events import RecordsRewritten, SessionForked
from ..core.record import TransitionRecord
from ..core.values import check_id
from ..errors import HistoryShared, ReplayError
from ..ports import Journal
from .codec import decode

DECLARES = '"trigger":"records_rewritten"'
"""What the text of a record holds that declares what was rewritten. Others may hold it too, but hardly ever do."""


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
            ReplayError: it would share a rewritten record, and not the later one that declares it (`check_declared`).
            JournalUnavailable, JournalCorrupt, NotAJournal: as in `Journal.claim`.
        """
        ...

    async def forks(self, session: str) -> Mapping[str, int]:
        """Return the forks that begin with records of a session itself, each with the last record that it shares.

        Raises:
            InvalidId, JournalUnavailable, JournalCorrupt, NotAJournal: as in `Journal.claim`.
        """
        ...

    async def origin(self, session: str) -> Origin | None:
        """Return where a session was forked from, None for one that was not, or that is not there.

        Raises:
            InvalidId, JournalUnavailable, JournalCorrupt, NotAJournal: as in `Journal.claim`.
        """
        ...


def parent_of(record: TransitionRecord) -> str | None:
    """Return the session that a fork's own first record continues, None for any other record."""
    event = record.event
    return event.parent if isinstance(event, SessionForked) and event.session == record.session else None


def check_unshared(session: str, forks: Mapping[str, int], first: int, lines: Iterable[int]) -> None:
    """Make sure that no fork shares what is to be changed.

    Args:
        session: whose records are to be changed.
        forks: the last record that each of its forks shares.
        first: the records before it are to be dropped.
        lines: the records that are to hold something else.

    Raises:
        HistoryShared: one does.
    """
    # Every fork shares the first record that is there.
    lowest = 1 if first > 1 else min(lines, default=None)
    heirs = [] if lowest is None else [name for name, shared in sorted(forks.items()) if shared >= lowest]
    if heirs:
        raise HistoryShared(session, tuple(heirs))


def check_declared(record: TransitionRecord, later: Iterable[str], line_of: Callable[[int], str]) -> None:
    """Make sure that a fork shares no rewritten record without the one that declares it.

    Whether it does is asked where the fork is made, and not before: it may be rewritten in between.

    Args:
        record: the fork's own first record.
        later: the lines of its parent after those it shares that hold `DECLARES`.
        line_of: gives the line of its parent at a sequence.

    Raises:
        ReplayError: it would, so nobody could tell it from a forgery.
    """
    shared = record.seq - 1
    event = record.event
    parent = event.parent if isinstance(event, SessionForked) else record.session
    missed: tuple[int, str] | None = None
    for line in later:
        declaration = decode(line, parent)
        if isinstance(declaration.event, RecordsRewritten) and any(
            f'"rewritten":"{one.digest}"' in line_of(one.seq) for one in declaration.event.records if one.seq <= shared
        ):
            missed = declaration.seq, declaration.event.action
    if missed is not None:
        raise ReplayError(
            f"session {parent!r} cannot be forked after record {shared}: what record {missed[0]} says was {missed[1]} "
            f"is not declared up to there; fork after record {missed[0]} or a later one"
        )


async def with_parents(journal: Journal, sessions: Sequence[str]) -> Iterable[str]:
    """Return sessions with those that they share records of, each once."""
    wanted = dict.fromkeys(map(check_id, sessions))
    waiting = list(wanted) if isinstance(journal, Forking) else []
    while waiting and isinstance(journal, Forking):
        origin = await journal.origin(waiting.pop())
        if origin is not None and origin.session not in wanted:
            wanted[origin.session] = None
            waiting.append(origin.session)
    return wanted
