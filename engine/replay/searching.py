"""Search: which records of a journal are about something, read as a stream.

One page of one session is in memory at a time, however large the journal is. May import core, journal and ports. Must
never change anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from pydantic import BaseModel

from ..core.events import EVENT_TYPES, ModelReplied, PromptReceived
from ..core.record import TransitionRecord
from ..core.values import State
from ..errors import UsageError
from ..ports import Journal
from .reading import read_history

_AROUND = 32
"""How many characters an excerpt shows on each side."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for: records that are like this in every respect that is given.

    Attributes:
        text: stands in some text of the event, upper or lower case.
        triggers: one of these kinds of event.
        tools: about a call of one of these tools: asked for, started, tried again or finished.
        states: led to one of these states.
        since: not recorded before; without a zone it is UTC.
        until: recorded before; without a zone it is UTC.
    """

    text: str = ""
    triggers: frozenset[str] = frozenset()
    tools: frozenset[str] = frozenset()
    states: frozenset[State] = frozenset()
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        unknown = sorted(self.triggers - set(EVENT_TYPES))
        if unknown:
            raise UsageError(f"no event is called {unknown[0]!r}; there are: {', '.join(sorted(EVENT_TYPES))}")


@dataclass(frozen=True, slots=True)
class Match:
    """A record that was found. `excerpt` is the text around what was looked for, empty where no text was."""

    record: TransitionRecord
    excerpt: str = ""


async def search(journal: Journal, query: Query, sessions: Sequence[str] | None = None) -> AsyncIterator[Match]:
    """Iterate over the records that a query finds, session by session, in order.

    Args:
        journal: where to look.
        query: what to look for.
        sessions: ids of the sessions to look through; all of them, sorted, if not given.

    Raises:
        UnknownSession, JournalError: a history cannot be read, or is damaged; what precedes the damage was found.
    """
    names = [info.id for info in await journal.sessions()] if sessions is None else sessions
    for name in names:
        finder = Finder(query)
        async for record in read_history(journal, name):
            found = finder.look(record)
            if found is not None:
                yield found


class Finder:
    """Looks for a query in one session, record by record: it knows which calls the newest reply asked for.

    Args:
        query: what to look for. Every record of the session must go by, in order.
    """

    def __init__(self, query: Query) -> None:
        self._query = query
        self._since, self._until = _utc(query.since), _utc(query.until)
        self._wanted = query.text.casefold()
        self._names: dict[str, str] = {}

    def look(self, record: TransitionRecord) -> Match | None:
        """Return the record if it is one that is looked for, None if not."""
        query, tools = self._query, self._tools(record)
        if query.triggers and record.trigger not in query.triggers:
            return None
        if query.states and record.dest not in query.states:
            return None
        if query.tools and query.tools.isdisjoint(tools):
            return None
        if not self._in_time(record):
            return None
        if not self._wanted:
            return Match(record)
        excerpt = next(filter(None, map(self._excerpt, _texts(record.event))), None)
        return None if excerpt is None else Match(record, excerpt)

    def _tools(self, record: TransitionRecord) -> set[str]:
        event = record.event
        if isinstance(event, ModelReplied | PromptReceived):
            calls = event.reply.tool_calls if isinstance(event, ModelReplied) else event.direct_calls
            # Only the calls of one batch are open at a time, so this is all that later records can mean.
            self._names = {call.id: call.name for call in calls}
            return set(self._names.values())
        name = self._names.get(getattr(event, "call_id", ""))
        return set() if name is None else {name}

    def _in_time(self, record: TransitionRecord) -> bool:
        if self._since is None and self._until is None:
            return True
        at = datetime.fromisoformat(record.at)
        return (self._since is None or at >= self._since) and (self._until is None or at < self._until)

    def _excerpt(self, text: str) -> str | None:
        at = text.casefold().find(self._wanted)
        if at < 0:
            return None
        # Folding may change lengths: an excerpt is for the eye, and never wider than it says.
        start, end = max(0, at - _AROUND), at + len(self._wanted) + _AROUND
        return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def _utc(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _texts(value: object) -> Iterator[str]:
    """Iterate over every text in a value, at every depth; names of fields are not among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, BaseModel):
        for name, member in vars(value).items():
            if name != "kind":
                yield from _texts(member)
    elif isinstance(value, Mapping):
        for member in cast(Mapping[object, object], value).values():
            yield from _texts(member)
    elif isinstance(value, Sequence):
        for member in cast(Sequence[object], value):
            yield from _texts(member)
