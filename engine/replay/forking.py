"""Fork: a new session that begins with the records of another one, up to any of them.

Nothing is copied: the journal gives the parent's records to whoever reads the fork, and the fork's own first record
continues the parent's hash chain, so the whole can be verified. The new session begins shut down; whoever opens it goes
on by the rules of a restart. What people had allowed in the parent is not allowed in the fork. May import core, ports
and the codec. Must never change the parent. Of the parent's records it reads the one that is forked after.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from ..core.events import SessionForked
from ..core.record import TransitionRecord
from ..core.values import State, check_id
from ..errors import ReplayError, UnknownSession, UsageError
from ..journal.codec import decode, seal
from ..journal.forking import Forking
from ..ports import Clock, Journal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def fork(journal: Journal, session: str, seq: int, *, clock: Clock, name: str | None = None) -> str:
    """Return the id of a new session whose history is that of `session` up to record `seq`.

    Args:
        journal: where the session is; the fork is made there.
        session: the parent. It may be open, here or elsewhere.
        seq: the last record to share, from 1.
        clock: the time to record.
        name: `[A-Za-z0-9_-]{1,128}`, the new id; a unique one if not given.

    Raises:
        InvalidId: an id does not match.
        UnknownSession: the journal holds no such session.
        ReplayError: the session has no such record, or a later one says that some before it were rewritten: a history
            that ends before that cannot be told from a forgery.
        UsageError: there is a session `name` already, or this journal cannot share histories.
        JournalError: the journal cannot be used, or the record is damaged.
    """
    new = uuid4().hex if name is None else check_id(name)
    if not isinstance(journal, Forking):
        raise UsageError(
            f"{type(journal).__name__} cannot share histories (see journal.Forking): copy it into a journal that can"
        )
    before = await _record(journal, session, seq)
    at = _EPOCH + timedelta(microseconds=clock.time_ns() // 1000)
    record = seal(
        session=new,
        seq=seq + 1,
        at=at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        mono_ns=clock.monotonic_ns(),
        source=before.dest,
        dest=State.SHUTDOWN,
        event=SessionForked(session=new, parent=before.session),
        effects=(),
        prev=before.hash,
    )
    await journal.fork(record)
    return new


async def _record(journal: Journal, session: str, seq: int) -> TransitionRecord:
    """Return the record to fork after."""
    lines = await journal.read(session, seq - 1, 1) if seq >= 1 else ()
    if lines and (record := decode(lines[0].text, session, lines[0].offset)).seq == seq:
        return record
    first = await journal.read(session, 0, 1)
    if not first:
        raise UnknownSession(session)
    begin = decode(first[0].text, session, first[0].offset).seq
    raise ReplayError(
        f"session {session!r} has no record {seq} to fork after: its records count from {begin} to its end"
        + (", those before were pruned" if begin > 1 else "")
    )
