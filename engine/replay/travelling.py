"""Going back and forth in one history: the session at any of its records, one step away from the one before.

A step forward is a step of the core. A step back begins at the nearest of the snapshots that were left on the way, so
it costs a bounded number of steps however long the history is. May import core and the codec. Must never perform
anything.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from ..core.cursor import Cursor
from ..core.record import TransitionRecord
from ..core.session import Session
from ..core.step import reproduce
from ..errors import JournalCorrupt, ReplayError
from ..journal.codec import Chain

STRIDE = 64
"""Records between two snapshots: what a step back costs at most, in steps."""


class Timeline:
    """A place in a history, first before its first record.

    Args:
        records: the history of one session, from its first record. Each record is checked when it is first passed.

    Attributes:
        session: the session after record `session.seq`; at 0, one that has no record yet.

    Raises:
        ReplayError: there is no record at all.
    """

    def __init__(self, records: Sequence[TransitionRecord]) -> None:
        if not records:
            raise ReplayError("an empty history has no timeline: give the records of one session, from sequence 1")
        self.session = Session(records[0].session)
        self._records = records
        # A pruned history begins later than at 1.
        self._before = records[0].seq - 1
        self._chain = Chain(None)
        # By their sequence, STRIDE apart; there are as many as were needed so far.
        self._snapshots = [self.session]

    def __len__(self) -> int:
        return len(self._records)

    @property
    def record(self) -> TransitionRecord | None:
        """The record that led here, None before the first."""
        return self._records[self.session.seq - self._before - 1] if self.session.seq else None

    def forward(self, steps: int = 1) -> Session:
        """Go on by so many records. Raises as `go`."""
        return self.go(self.session.seq + steps)

    def back(self, steps: int = 1) -> Session:
        """Go back by so many records. Raises as `go`."""
        return self.go(self.session.seq - steps)

    def go(self, seq: int) -> Session:
        """Go to right after record `seq`; 0 is before the first.

        Returns:
            The session there.

        Raises:
            ReplayError: the history has no such record, or does not hold up to it; the place stays what it was.
        """
        first, last = self._before + 1, self._before + len(self._records)
        if seq != 0 and not first <= seq <= last:
            raise ReplayError(f"there is no record {seq} in this history: its records count from {first} to {last}")
        known = self._snapshots[bisect_right(self._snapshots, seq, key=lambda snapshot: snapshot.seq) - 1]
        start = self.session if known.seq < self.session.seq <= seq else known
        self.session = self._folded(start, seq)
        return self.session

    def _folded(self, session: Session, seq: int) -> Session:
        cursor = Cursor(session)
        for record in self._records[max(0, session.seq - self._before) : max(0, seq - self._before)]:
            try:
                if record.seq > self._chain.seq:
                    self._chain.check(record)
            except JournalCorrupt as error:
                raise ReplayError(f"{cursor.id}:{record.seq}: {error.reason}") from error
            reproduce(cursor, record)
            if cursor.seq >= self._snapshots[-1].seq + STRIDE:
                self._snapshots.append(cursor.frozen())
        return cursor.frozen()
