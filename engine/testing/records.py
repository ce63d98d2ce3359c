"""Records to test with: short histories that chain, without an engine around them.

May import core, the codec and ports. Must never read a clock: the same arguments give the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from ..core.effects import CancelWork, KnownEffect, PrepareContext
from ..core.events import KnownEvent, PromptReceived, SessionOpened, TurnCancelled
from ..core.record import TransitionRecord
from ..core.values import Message, State
from ..journal.codec import GENESIS, Chain, seal
from ..ports import Journal, Tail

_START = datetime(2026, 1, 1, tzinfo=UTC)


def chain(
    session: str, count: int, *, after: Tail | None = None, text: str = "hello", external_id: str | None = None
) -> list[TransitionRecord]:
    """Return `count` records that follow one another: the session opened, then turns that are begun and cancelled.

    Args:
        session: whose records they are.
        count: how many, from 0.
        after: the stored tail to continue; None begins the history.
        text: what every prompt says.
        external_id: the host's own name for the session, in its first record.
    """
    seq, digest = (after.seq, after.hash) if after else (0, GENESIS)
    records: list[TransitionRecord] = []
    for number in range(seq + 1, seq + count + 1):
        source, dest, event, effects = _transition(number, text, external_id)
        at = (_START + timedelta(milliseconds=number)).isoformat(timespec="microseconds")
        record = seal(
            session=session, seq=number, at=at, mono_ns=number * 1_000_000, source=source, dest=dest, event=event,
            effects=effects, prev=digest,
        )  # fmt: skip
        digest = record.hash
        records.append(record)
    return records


def _transition(
    number: int, text: str, external_id: str | None
) -> tuple[State, State, KnownEvent, tuple[KnownEffect, ...]]:
    if number == 1:
        return State.IDLE, State.IDLE, SessionOpened(external_id=external_id), ()
    if number % 2 == 0:
        prompt = PromptReceived(messages=(Message(role="user", text=text),))
        return State.IDLE, State.PROCESSING, prompt, (PrepareContext(),)
    return State.PROCESSING, State.IDLE, TurnCancelled(reason=text), (CancelWork(),)


async def read_all(journal: Journal, session: str, page: int = 512) -> Sequence[TransitionRecord]:
    """Return the whole history of a session, every hash and every link of its chain checked.

    Args:
        journal: where it is kept.
        session: its id.
        page: how many records are read at a time.

    Raises:
        JournalError: as the journal and the codec report.
    """
    links = Chain(session)
    records: list[TransitionRecord] = []
    while lines := await journal.read(session, len(records), page):
        records += [links.decode(line.text, line.offset) for line in lines]
    links.finish()
    return records


def tail_of(records: Sequence[TransitionRecord]) -> Tail:
    """Return the tail that a journal has after these records."""
    return Tail(records[-1].seq, records[-1].hash) if records else Tail(0, GENESIS)
