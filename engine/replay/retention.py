"""What is kept of a history, and what not: redaction and pruning, both on record, both verifiable afterwards.

A record that is rewritten keeps its sequence and its hash, so the chain stays whole, and carries a digest of what it
holds now. Before anything is changed, a record is appended that names each of them by sequence, hash and digest: its
place in the chain commits to the new content as every hash does to the old. Whoever finds a rewritten record that no
later one declares has found a forgery. If the process ends between the two, the history is whole and says what was
meant to be done; doing it again finishes it.

May import core, journal and ports. Must never change what it has not declared first.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import anyio
from pydantic import ValidationError

from ..core.cursor import Cursor
from ..core.effects import KnownEffect
from ..core.events import HISTORY_PRUNED, KnownEvent, RecordsRewritten, RewrittenRecord, UnknownEvent
from ..core.record import TransitionRecord
from ..core.redaction import Redactor
from ..core.session import NO_MESSAGES, Session
from ..core.step import reproduce, take
from ..core.values import State, check_id
from ..core.view import ALL, NOT_MEASURED
from ..errors import (
    HistoryShared,
    IllegalTransition,
    InvalidEvent,
    JournalCorrupt,
    ReplayError,
    UnknownSession,
    UsageError,
)
from ..journal.blobs import blobs_beside
from ..journal.canonical import canonical
from ..journal.codec import GENESIS, Chain, rewrite, seal
from ..journal.forking import Forking, check_unshared
from ..journal.keeping import Rewriting
from ..journal.snapshots import message_lines, session_text
from ..ports import Clock, Journal, Writer
from .kept_results import clean_copies, with_copies

_PAGE = 512
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAME = "value"
"""What stands in the place of a value that was taken out: `[redacted:value]`."""


@dataclass(frozen=True, slots=True)
class Account:
    """What is recorded about a change: when by this clock, why, and by whom in the host's words. It stays readable."""

    clock: Clock
    reason: str = ""
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What was done to one session.

    Attributes:
        session: its id.
        rewritten: sequences of the records that hold something else now.
        dropped: how many records are gone.
        declared: sequence of the record that says so; None where nothing was to be done.
        left: sequences of records in which the value still stands, as an id or in one that is otherwise needed.
    """

    session: str
    rewritten: tuple[int, ...] = ()
    dropped: int = 0
    declared: int | None = None
    left: tuple[int, ...] = ()


async def redact(journal: Journal, session: str, value: str, account: Account) -> Rewritten:
    """Take a value out of every record of a session, however it is escaped there, and say so on record.

    Results that were too long for the model are kept beside the journal; the value is taken out of those of this
    session, too. Ids of calls and requests stay; `left` tells where one holds the value. The hash of a record that was
    redacted is still that of what it was: who knows all the rest of it can try out values that are easy to guess.

    Where a fork shares a record that holds the value, neither of the two is changed: prune the fork up to a point of
    its own, where it stands by itself.

    Args:
        journal: where the session is kept; nobody may have it open.
        session: its id.
        value: at least six characters.
        account: what to record.

    Raises:
        HistoryShared: a fork and its parent share a record that would change. Nothing was changed.
        SecretRefused: the value is too short to be told from other text.
        UsageError: the journal cannot rewrite, or without the value the history would not be the same one. Nothing was
            changed.
        UnknownSession, SessionBusy, JournalError, ReplayError: as `Engine.open`.
    """
    redactor = Redactor({_NAME: value}, field_names=())
    async with _held(journal, session) as (writer, records):
        blobs = blobs_beside(journal)
        copies = await clean_copies(blobs, session, redactor)
        cursor = Cursor(Session(session))
        changed: dict[int, TransitionRecord] = {}
        for record in records:
            event, effects = _taken(cursor, record, with_copies(redactor.clean(record.event), copies))
            if event != record.event or effects != record.effects:
                if record.session != session:
                    raise HistoryShared(record.session, (session,))
                text = canonical(event.data if isinstance(event, UnknownEvent) else event)
                changed[record.seq] = _without(record, text, canonical(effects))
        await _check_unshared(journal, session, 1, changed)
        now = [changed.get(record.seq, record) for record in records]
        left = tuple(record.seq for record in now if redactor.text(record.line) != record.line)
        declared = await _declare(writer, _Change("redacted", cursor, records[-1].hash, account), changed)
        await _rewriter(writer, journal).rewrite(1, {seq: record.line for seq, record in changed.items()})
        for name in copies:
            await blobs.remove(name)
    return Rewritten(session, tuple(changed), 0, declared, left)


async def prune(journal: Journal, session: str, through: int, account: Account, *, forget: bool = False) -> Rewritten:
    """Drop the oldest records of a session, up to the last point before or at a sequence where no turn was open.

    The record at that point is replaced by the session that the dropped ones led to, with its whole conversation. A
    fork is pruned at points of its own only; from then on it stands by itself and shares nothing with its parent.

    Args:
        journal: where the session is kept; nobody may have it open.
        session: its id.
        through: the last record that may go.
        account: what to record.
        forget: keep nothing of the conversation up to there: the model goes on without it.

    Raises:
        HistoryShared: forks share records that would go. Nothing was changed.
        UsageError: the journal cannot rewrite, or the rest would not be the same history. Nothing was changed.
        UnknownSession, SessionBusy, JournalError, ReplayError: as `Engine.open`.
    """
    async with _held(journal, session) as (writer, records):
        cursor = Cursor(Session(session))
        found: tuple[TransitionRecord, Session] | None = None
        for record in records:
            reproduce(cursor, record)
            at_rest = cursor.turn is None and cursor.state is State.IDLE and record.session == session
            if cursor.seq <= through and at_rest and not record.begins:
                found = record, cursor.frozen()
        if found is None:
            return Rewritten(session)
        beginning = _beginning(*found, forget=forget)
        rest = [record for record in records if record.seq > beginning.seq]
        _check_rest(session, beginning, rest)
        changed = {beginning.seq: beginning}
        await _check_unshared(journal, session, beginning.seq, changed)
        declared = await _declare(writer, _Change("pruned", cursor, records[-1].hash, account), changed)
        await _rewriter(writer, journal).rewrite(beginning.seq, {beginning.seq: beginning.line})
    return Rewritten(session, (beginning.seq,), len(records) - len(rest) - 1, declared)


async def last_before(journal: Journal, session: str, moment: datetime) -> int:
    """Return the sequence of the last record before a time of day with a zone, 0 if there is none: for `prune`."""
    last = 0
    while page := await journal.read(check_id(session), last, _PAGE):
        for line in page:
            record = Chain.at(line.text, session, line.offset).decode(line.text, line.offset)
            if datetime.fromisoformat(record.at) >= moment:
                return last
            last = record.seq
    return last


@asynccontextmanager
async def _held(journal: Journal, session: str) -> AsyncGenerator[tuple[Writer, Sequence[TransitionRecord]]]:
    """Hold the right to write a session, and its whole history, every hash and link of it checked."""
    if not await journal.read(check_id(session), 0, 1):
        raise UnknownSession(session)
    writer = await journal.claim(session)
    try:
        _rewriter(writer, journal)
        chain = Chain(session)
        records: list[TransitionRecord] = []
        while page := await journal.read(session, chain.seq, _PAGE):
            records += [chain.decode(line.text, line.offset) for line in page]
        chain.finish()
        yield writer, records
    finally:
        with anyio.CancelScope(shield=True):
            await writer.release()


def _rewriter(writer: Writer, journal: Journal) -> Rewriting:
    if not isinstance(writer, Rewriting):
        raise UsageError(f"{type(journal).__name__} cannot rewrite records; copy its histories into one that can")
    return writer


async def _check_unshared(journal: Journal, session: str, first: int, changed: Iterable[int]) -> None:
    """Make sure that no fork shares what is about to be declared; the journal looks again when it is carried out."""
    if isinstance(journal, Forking):
        check_unshared(session, await journal.forks(session), first, changed)


def _without(record: TransitionRecord, event: str, effects: str) -> TransitionRecord:
    try:
        return rewrite(record, event, record.trigger, effects)
    except JournalCorrupt as error:
        raise _needed(record) from error


def _needed(record: TransitionRecord) -> UsageError:
    return UsageError(
        f"record {record.seq}, a {record.trigger}, needs the value and would be none without it; nothing was changed"
    )


def _taken(
    cursor: Cursor, record: TransitionRecord, event: KnownEvent | UnknownEvent
) -> tuple[KnownEvent | UnknownEvent, tuple[KnownEffect, ...]]:
    """Advance over a record whose event is without the value; return that and the effects without it."""
    if isinstance(event, UnknownEvent):
        if event != record.event and not record.begins:
            raise UsageError(
                f"record {record.seq} holds the value in a kind of event that this release does not know: redact it "
                "with the release that wrote it; nothing was changed"
            )
        reproduce(cursor, record._replace(event=event))
        return event, record.effects
    try:
        effects = take(cursor, event)
    except (IllegalTransition, InvalidEvent, ValidationError) as error:
        raise _needed(record) from error
    if cursor.state is not record.dest or [one.kind for one in effects] != [one.kind for one in record.effects]:
        raise UsageError(
            f"without the value record {record.seq} would lead to {cursor.state}, not to {record.dest}: it decided "
            "something, and cannot be taken out; nothing was changed"
        )
    return event, effects


def _beginning(record: TransitionRecord, session: Session, *, forget: bool) -> TransitionRecord:
    """Return what a history begins with that is pruned up to this record."""
    if forget:
        session = session._replace(transcript=NO_MESSAGES, last_turn=None, shown=ALL, measured=NOT_MEASURED)
    data = {
        "kind": HISTORY_PRUNED,
        "messages": [json.loads(line) for line in message_lines(session)],
        "session": json.loads(session_text(session)),
    }
    return rewrite(record._replace(source=record.dest), canonical(data), HISTORY_PRUNED, "[]")


def _check_rest(session: str, beginning: TransitionRecord, rest: Sequence[TransitionRecord]) -> None:
    """Make sure that what stays follows from what it will begin with."""
    cursor = Cursor(Session(session))
    try:
        for record in (beginning, *rest):
            reproduce(cursor, record)
    except ReplayError as error:
        raise UsageError(f"the rest of the history needs what would go ({error}); nothing was changed") from error


@dataclass(frozen=True, slots=True)
class _Change:
    """A change that is about to be made: which, where the session stands, the hash of its last record."""

    action: Literal["redacted", "pruned"]
    cursor: Cursor
    last_hash: str
    account: Account


async def _declare(writer: Writer, change: _Change, changed: Mapping[int, TransitionRecord]) -> int | None:
    """Append the record that says what is about to be changed; return its sequence."""
    if not changed:
        return None
    event = RecordsRewritten(
        action=change.action,
        records=tuple(
            RewrittenRecord(seq=record.seq, hash=record.hash, digest=record.rewritten) for record in changed.values()
        ),
        reason=change.account.reason,
        by=change.account.by,
    )
    cursor, clock = change.cursor, change.account.clock
    effects = take(cursor, event)
    at = (_EPOCH + timedelta(microseconds=clock.time_ns() // 1000)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    record = seal(
        session=cursor.id, seq=cursor.seq, at=at, mono_ns=clock.monotonic_ns(), source=cursor.source,
        dest=cursor.state, event=event, effects=effects, prev=change.last_hash or GENESIS,
    )  # fmt: skip
    await writer.append([record])
    return record.seq
