"""What a journal is asked to write, and the checks that every journal makes before it writes.

May import core, errors and ports. Must never do I/O.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from ..core.events import SessionOpened
from ..core.record import TransitionRecord
from ..errors import JournalUnavailable, UsageError
from ..ports import Tail
from .codec import decode
from .forking import parent_of


class Claim(NamedTuple):
    """Give the right to append to a session."""

    session: str
    takeover: bool


class Append(NamedTuple):
    """Write records, all or none. `owner` is the stored name under which the right was given."""

    session: str
    epoch: int
    owner: str
    records: Sequence[TransitionRecord]


class Rewrite(NamedTuple):
    """Drop the records before `first` and put other lines in the place of some, all or none."""

    session: str
    epoch: int
    owner: str
    first: int
    lines: Mapping[int, str]


class Release(NamedTuple):
    """Take the right back."""

    session: str
    epoch: int
    owner: str


class Fork(NamedTuple):
    """Begin a session after a record of another one."""

    session: str
    record: TransitionRecord


Order: TypeAlias = Claim | Append | Rewrite | Release | Fork


class Granted(NamedTuple):
    """The outcome of a claim."""

    epoch: int
    owner: str
    tail: Tail


def check_run(session: str, records: Sequence[TransitionRecord]) -> None:
    """Make sure that the records belong to the session and follow one another.

    Raises:
        UsageError: they do not.
    """
    if not records:
        return
    seq, digest = records[0].seq - 1, records[0].prev
    for record in records:
        check_next(session, seq, digest, record)
        seq, digest = record.seq, record.hash


def check_next(session: str, seq: int, digest: str, record: TransitionRecord) -> None:
    """Make sure that a record belongs to the session and continues its record with this sequence and hash.

    Raises:
        UsageError: it does not.
    """
    if record.session != session:
        raise UsageError(f"a record of session {record.session!r} cannot go to {session!r}; nothing was written")
    if seq == 0 and record.begins:
        return
    if record.seq != seq + 1 or record.prev != digest:
        raise UsageError(
            f"record {record.seq} does not continue record {seq} of session {session!r}, nothing was written: "
            "claim the session again, read its tail, and seal the next record with its sequence + 1 and its hash"
        )


def check_fork(record: TransitionRecord, before: str | None, *, taken: bool) -> None:
    """Make sure that a session can begin with this record.

    Args:
        record: its own first record.
        before: the stored line of the record that it continues, if there is one.
        taken: whether the session has records already.

    Raises:
        UsageError: it cannot.
    """
    session = record.session
    if taken:
        raise UsageError(f"session {session!r} exists: fork into another id")
    if before is None or decode(before, session, record.seq - 1).hash != record.prev:
        raise UsageError(
            f"session {session!r} cannot begin after record {record.seq - 1} of {parent_of(record)!r}: there is no "
            "such record in this journal; read the record that is to be continued, and seal the fork with its hash"
        )


def check_page(after: int, limit: int) -> None:
    """Make sure that a page can be read.

    Raises:
        UsageError: `after` is negative or `limit` is not positive.
    """
    if after < 0 or limit < 1:
        raise UsageError(f"read(after={after}, limit={limit}): after counts from 0, limit from 1")


def external_id_of(record: TransitionRecord) -> str | None:
    """Return the host's own name for the session, where this record holds it."""
    return record.event.external_id if isinstance(record.event, SessionOpened) else None


def unavailable(place: str, cause: BaseException, advice: str) -> JournalUnavailable:
    """Return the error for a store that could not be used, `cause` named in its text."""
    error = JournalUnavailable(
        f"the journal {place} cannot be used ({cause}): {advice}. Everything acknowledged before is intact; "
        "then claim the session again and read its tail"
    )
    error.__cause__ = cause
    return error
