"""Verification: does a history hold? Every record's hash, the chain between them, and every step taken again.

What does not hold is data, a `Finding` with its place; one bad session never keeps another from being checked. May
import core, ports and the codec. Must never change anything, and never call anything outside but the journal it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import anyio.lowlevel

from ..core.cursor import Cursor
from ..core.events import UnknownEvent
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.step import reproduce
from ..core.values import State, check_id
from ..errors import EncodingError, JournalCorrupt, JournalTooNew, ReplayError, UnknownSession
from ..journal.codec import GENESIS, Chain, decode, seal
from ..ports import Journal

_PAGE = 1024
_PROBE = "-"
"""A session that nobody has. Reading it makes a journal look at its store even where it lists no session at all."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth telling about one record: its sequence, and its place in the store where that is known."""

    seq: int
    text: str
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Verification:
    """What the check of one session found.

    Attributes:
        session: its id; in a store that could not be read at all, the store's own name.
        records: how many records hold, from the first on.
        hash: the hash of the last of them; it stands for the whole history up to there.
        state: the state that they lead to.
        unknown: records of kinds that this release does not know; they were not stepped, and are no fault.
        diverged: what does not hold, the first place only; what follows it cannot be judged.
        rewritten: records that are not what they were when they were written, and that a later record declares.
    """

    session: str
    records: int
    hash: str
    state: State
    unknown: tuple[Finding, ...] = ()
    diverged: tuple[Finding, ...] = ()
    rewritten: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the whole history holds."""
        return not self.diverged


@dataclass(slots=True)
class _Check:
    """The check of one session while its records go by."""

    cursor: Cursor
    chain: Chain
    unknown: list[Finding]
    rewritten: list[Finding]
    seq: int = 0
    digest: str = GENESIS
    state: State = State.IDLE

    @classmethod
    def of(cls, name: str, *, whole: bool = False) -> _Check:
        return cls(Cursor(Session(name)), Chain(name if whole else None), [], [])

    def result(self, *diverged: Finding) -> Verification:
        return Verification(
            self.chain.session, self.seq, self.digest, self.state, tuple(self.unknown), diverged, tuple(self.rewritten)
        )

    def finished(self) -> Verification:
        """Return the result of a check that came to the end of the history."""
        try:
            self.chain.finish()
        except JournalCorrupt as error:
            return self.result(Finding(error.offset, error.reason))
        return self.result()

    def take(self, record: TransitionRecord) -> None:
        """Step a record whose place in the chain has been checked."""
        if record.begins:
            self.rewritten.append(Finding(record.seq, "the records up to here were pruned"))
        elif record.rewritten:
            self.rewritten.append(Finding(record.seq, f"{record.trigger} was redacted"))
        elif isinstance(record.event, UnknownEvent):
            text = f"{record.trigger!r} is a kind of event that this release does not know"
            self.unknown.append(Finding(record.seq, text))
        reproduce(self.cursor, record)
        self.seq, self.digest, self.state = record.seq, record.hash, record.dest

    def failed(self, error: Exception, offset: int | None) -> Verification:
        """Return the result of a check that ended at `error`."""
        reason = error.reason if isinstance(error, JournalCorrupt) else str(error)
        return self.result(Finding(self.seq + 1, reason, offset))


def verify(records: Iterable[TransitionRecord]) -> Verification:
    """Check a history that is at hand: content against hash, hash against chain, and every step against its outcome.

    Args:
        records: the whole history of one session, from sequence 1.

    Returns:
        What was found; `ok` says whether all of it holds.

    Raises:
        ReplayError: there is no record at all.
    """
    check: _Check | None = None
    for record in records:
        check = check or _Check.of(record.session)
        try:
            check.chain.check(record)
            _check_content(record)
            check.take(record)
        except (JournalCorrupt, JournalTooNew, ReplayError) as error:
            return check.failed(error, None)
    if check is None:
        raise ReplayError("an empty history cannot be verified: give the records of one session, from sequence 1")
    return check.finished()


async def verify_journal(
    journal: Journal, sessions: Sequence[str] | None = None, progress: Callable[[int], None] | None = None
) -> tuple[Verification, ...]:
    """Check histories where they are stored. Damage in one session is reported with it and stops no other's check.

    Args:
        journal: where to read.
        sessions: ids of the sessions to check; all of them if not given.
        progress: told how many more records have been read, a page at a time.

    Returns:
        One result a session, in the order given, or sorted by id.

    Raises:
        InvalidId, UnknownSession: one of `sessions` is no session of this journal.
        JournalUnavailable, NotAJournal: the journal cannot be read.
    """
    if sessions is not None:
        return tuple([await _verify_stored(journal, check_id(name), progress) for name in sessions])
    results = [await _verify_stored(journal, info.id, progress) for info in await journal.sessions()]
    if not results:
        try:
            await journal.read(_PROBE)
        except JournalCorrupt as error:
            damage = Finding(1, error.reason, error.offset)
            results.append(Verification(error.where, 0, GENESIS, State.IDLE, (), (damage,)))
    return tuple(results)


async def _verify_stored(journal: Journal, name: str, progress: Callable[[int], None] | None) -> Verification:
    check = _Check.of(name, whole=True)
    offset: int | None = None
    try:
        # Up to an empty page: only there does a journal say that what follows is damaged.
        while page := await journal.read(name, check.seq, _PAGE):
            for line in page:
                offset = line.offset
                check.take(check.chain.decode(line.text, line.offset))
            if progress is not None:
                progress(len(page))
            # A long history must not keep the other work of this loop waiting.
            await anyio.lowlevel.checkpoint()
    except (JournalCorrupt, JournalTooNew, ReplayError) as error:
        return check.failed(error, error.offset if isinstance(error, JournalCorrupt) else offset)
    if check.seq == 0:
        raise UnknownSession(name)
    return check.finished()


def _check_content(record: TransitionRecord) -> None:
    """Make sure that a record in memory says what its hash covers.

    Raises:
        JournalCorrupt: it does not.
    """
    event = record.event
    try:
        if not isinstance(event, UnknownEvent):
            again = seal(
                session=record.session, seq=record.seq, at=record.at, mono_ns=record.mono_ns, source=record.source,
                dest=record.dest, event=event, effects=record.effects, prev=record.prev,
            )  # fmt: skip
            if again == record:
                return
        # Not what this release would write: then it must be what it reads, from an older or a newer one's text.
        stored = decode(record.line, record.session, record.seq)
    except EncodingError as error:
        raise JournalCorrupt(record.session, record.seq, str(error)) from error
    if stored != record:
        raise JournalCorrupt(record.session, record.seq, "the hash does not match the record")
