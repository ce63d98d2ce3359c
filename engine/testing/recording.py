"""A session stepped and sealed without an engine: the quickest way to a history that holds.

May import core and the codec. Must never read a clock: the same events give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from ..core.effects import KnownEffect
from ..core.events import KnownEvent
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.step import advance, step
from ..journal.codec import GENESIS, Chain, seal

_START = datetime(2026, 1, 1, tzinfo=UTC)


class Recording:
    """A session and everything that happened to it.

    Args:
        session: id of the session.

    Attributes:
        session: the snapshot after the last event.
        records: every record, in order.
    """

    def __init__(self, session: str = "s") -> None:
        self.session = Session(session)
        self.records: list[TransitionRecord] = []

    @property
    def lines(self) -> list[str]:
        """The canonical lines, as a journal keeps them."""
        return [record.line for record in self.records]

    def add(self, event: KnownEvent) -> tuple[KnownEffect, ...]:
        """Step the session and seal the record; return the effects that the step asks for.

        Raises:
            IllegalTransition, InvalidEvent: the event is refused; nothing is recorded.
        """
        before = self.session
        after, effects = step(before, event)
        self.records.append(
            seal(
                session=after.id,
                seq=after.seq,
                at=(_START + timedelta(milliseconds=after.seq)).isoformat(timespec="microseconds"),
                mono_ns=after.seq * 1_000_000,
                source=before.state,
                dest=after.state,
                event=event,
                effects=effects,
                prev=self.records[-1].hash if self.records else GENESIS,
            )
        )
        self.session = after
        return effects

    def play(self, events: Iterable[KnownEvent]) -> Recording:
        """Add events one after another; return this recording."""
        for event in events:
            self.add(event)
        return self


def replayed(session: str, lines: Iterable[str]) -> Session:
    """Return the session that a history leads to, every hash, link and transition checked.

    Args:
        session: id of the session.
        lines: its canonical lines from the first on.

    Raises:
        JournalCorrupt: a line is damaged or does not follow from the one before.
        ReplayError: a record does not reproduce.
    """
    links = Chain(session)
    folded = Session(session)
    for line in lines:
        folded = advance(folded, links.decode(line))
    return folded


__all__ = ["Recording", "replayed"]
