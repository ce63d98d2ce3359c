"""A history folded into what it says: the session at its end or at any record, and the prompts that led there.

May import core and the codec. Must never perform anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from ..core.cursor import Cursor
from ..core.events import ContextPrepared, PromptReceived
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.step import reproduce
from ..core.values import Message, Prompt
from ..errors import JournalCorrupt, ReplayError
from ..journal.codec import Chain


def fold(records: Iterable[TransitionRecord]) -> Session:
    """Return the session that a history leads to.

    Args:
        records: the whole history of one session, from sequence 1.

    Raises:
        ReplayError: the history is empty, or a record does not follow from those before it.
    """
    last = deque(_cursors(records), maxlen=1)
    if not last:
        raise ReplayError("an empty history cannot be folded: give the records of one session, from sequence 1")
    return last[0].frozen()


def state_at(records: Iterable[TransitionRecord], seq: int) -> Session:
    """Return the session as it was right after record `seq`.

    Args:
        records: the history of one session, from sequence 1; what follows `seq` is not looked at.
        seq: a sequence number of the history, from 1.

    Raises:
        ReplayError: the history has no such record, or does not hold up to it.
    """
    last = 0
    if seq >= 1:
        for cursor in _cursors(records):
            if cursor.seq == seq:
                return cursor.frozen()
            last = cursor.seq
    raise ReplayError(f"no record {seq} in this history: " + (f"it ends at {last}" if last else "records count from 1"))


def states(records: Iterable[TransitionRecord]) -> Iterator[Session]:
    """Iterate over the sessions of a history: as it was right after each record.

    Args:
        records: the history of one session, from sequence 1.

    Raises:
        ReplayError: a record does not follow from those before it; the sessions up to there were given.
    """
    for cursor in _cursors(records):
        yield cursor.frozen()


def prompts(records: Iterable[TransitionRecord]) -> list[Prompt]:
    """Return what to ask, in order, to run a history again: one prompt a turn.

    A prompt holds the messages that opened its turn, system messages included, and those that context providers added
    to it, so a re-run needs neither a system text of its own nor the providers.

    Args:
        records: the history of one session; it is not verified.
    """
    asked: list[Prompt] = []
    for record in records:
        event = record.event
        if isinstance(event, PromptReceived):
            asked.append(_prompt(event))
        elif isinstance(event, ContextPrepared) and event.messages and asked:
            added: tuple[Message, ...] = (*asked[-1].messages, *event.messages)
            asked[-1] = asked[-1].model_copy(update={"messages": added})
    return asked


def _prompt(event: PromptReceived) -> Prompt:
    return Prompt(messages=event.messages, calls=event.direct_calls, priority=event.priority, metadata=event.metadata)


def _cursors(records: Iterable[TransitionRecord]) -> Iterator[Cursor]:
    """Step through a history with one cursor; it stands after one record more each time."""
    cursor: Cursor | None = None
    chain: Chain | None = None
    for record in records:
        if cursor is None or chain is None:
            cursor, chain = Cursor(Session(record.session)), Chain(None)
        try:
            chain.check(record)
        except JournalCorrupt as error:
            raise ReplayError(f"{cursor.id}:{record.seq}: {error.reason}") from error
        reproduce(cursor, record)
        yield cursor
    if chain is not None:
        try:
            chain.finish()
        except JournalCorrupt as error:
            raise ReplayError(f"{chain.session}:{error.offset}: {error.reason}") from error
