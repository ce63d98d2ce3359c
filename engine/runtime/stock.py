"""What is prepared, how long that is of use, and which preparations still wait for the call they were made for.

An engine has two: what was really prepared, and what only would have been. Time is a parameter. May import the standard
library and predict. Must never run anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ..predict import Books, Tally


class Key(NamedTuple):
    """What is prepared: the warm-up, by its identity, and whose it is (empty: everybody's)."""

    ware: object
    session: str = ""


@dataclass(slots=True, eq=False)
class Preparation:
    """A preparation that no call has used yet.

    Attributes:
        tool: whose call it was made for.
        session: where that was expected.
        books: who pays for it.
        begun_s: when it began.
        spent_s: the seconds it took, or is declared to take while it runs.
        calls_left: calls of the session after which it was in vain.
        saves_s: what it saves at most.
    """

    tool: str
    session: str
    books: Books
    begun_s: float
    spent_s: float
    saves_s: float
    calls_left: int


class Used(NamedTuple):
    """A preparation that a call has used, and the seconds that it saved."""

    made: Preparation
    saved_s: float


class Stock:
    """What is prepared, really or in the shadow.

    Args:
        real: which of the two it is.

    Attributes:
        tally: what became of all preparations, whoever paid for them.
    """

    def __init__(self, *, real: bool) -> None:
        self.real = real
        self.tally = Tally()
        self._until: dict[Key, float] = {}
        self._open: dict[Key, Preparation] = {}

    def holds(self, key: Key, now_s: float) -> bool:
        """Return whether something is prepared, or being prepared."""
        return self._until.get(key, now_s) > now_s

    def put(self, key: Key, preparation: Preparation, until_s: float, probability: float) -> None:
        """Take note of a preparation that begins."""
        self.waste(key)
        self._until[key] = until_s
        self._open[key] = preparation
        for tally in (self.tally, preparation.books.tally(self.real)):
            tally.prepared += 1
            tally.expected += probability

    def keep(self, key: Key, until_s: float) -> None:
        """Take note that something is warm because a call has used it."""
        self._until[key] = until_s

    def drop(self, key: Key) -> None:
        """Take note that something is not warm any more: its use has used it up."""
        self._until.pop(key, None)

    def use(self, key: Key, now_s: float) -> Used | None:
        """Settle the preparation that a call has used; return it, with the seconds that it saved: what it had saved by
        then, and never more than it took to start.
        """
        made = self._open.pop(key, None)
        if made is None:
            return None
        saved_s = min(made.saves_s, max(0.0, now_s - made.begun_s))
        made.books.settle(saved_s, wasted=False)
        for tally in (self.tally, made.books.tally(self.real)):
            tally.used += 1
            tally.saved_s += saved_s
        return Used(made, saved_s)

    def lose(self, key: Key, made: Preparation, spent_s: float) -> None:
        """Drop a preparation that came to nothing after so many seconds. The guess may have been right, so the price
        of waste stays.
        """
        self._until.pop(key, None)
        if self._open.get(key) is made:
            del self._open[key]
            made.books.recent_s -= spent_s
            for tally in (self.tally, made.books.tally(self.real)):
                tally.failed += 1
                tally.wasted_s += spent_s

    def waste(self, key: Key) -> Preparation | None:
        """Settle a preparation, if there is one, as made in vain; return it."""
        made = self._open.pop(key, None)
        if made is not None:
            made.books.settle(-made.spent_s, wasted=True)
            for tally in (self.tally, made.books.tally(self.real)):
                tally.wasted += 1
                tally.wasted_s += made.spent_s
        return made

    def called(self, session: str) -> list[Preparation]:
        """Count a call of a session; return the preparations that have waited for too many, settled."""
        late: list[Key] = []
        for key, made in self._open.items():
            if made.session == session:
                made.calls_left -= 1
                if made.calls_left <= 0:
                    late.append(key)
        return self._wasted(late)

    def expire(self, now_s: float) -> list[Preparation]:
        """Drop what is of no more use; return the preparations that nobody used, settled."""
        over = [key for key, until_s in self._until.items() if until_s <= now_s]
        for key in over:
            del self._until[key]
        return self._wasted(over)

    def leave(self, session: str) -> list[Preparation]:
        """Drop what belongs to a session that is closed; return the preparations that nobody used, settled."""
        keys = [key for key, made in self._open.items() if session in (made.session, key.session)]
        wasted = self._wasted(keys)
        for key in [key for key in self._until if key.session == session]:
            del self._until[key]
        return wasted

    def _wasted(self, keys: Iterable[Key]) -> list[Preparation]:
        return [made for made in map(self.waste, keys) if made is not None]
