"""Finds the arguments that are worth being a context: the few values that recur, such as an enumeration's.

May import this package's words, contexts and counts. Must never hold a value, only salted digests of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from .contexts import Session
from .counts import keep_strongest
from .words import Symbol, Words, constant_word

MAX_NAMES = 32
"""Arguments of one call that are looked at."""

OFTEN = 3
"""How often a value has to have been seen."""

REPEATED = constant_word("the same call as before")


class Favourites:
    """Finds the arguments that recur: enumerations and favourites, not ids. Only ever sees digests of the values.

    Args:
        words: makes the digests.
        bound: how many distinct values are counted.
    """

    def __init__(self, words: Words, bound: int) -> None:
        self._words = words
        self._bound = bound
        self.counts: dict[int, int] = {}

    def word(self, session: Session, tool: Symbol, args: Mapping[str, object], learn: bool) -> int:
        """Return one word for what is worth knowing about a call's arguments: the two values seen most often with this
        tool (three times at least), whether the session made the same call before, and which arguments were given.
        """
        call = names = 0
        frequent: list[tuple[int, int]] = []
        for name in sorted(args)[:MAX_NAMES]:
            symbol = self._words.symbol(name)
            mark = tool.words[0] ^ symbol.words[1] ^ self._words.value(args[name])
            seen = self.counts.get(mark, 0)
            if learn:
                self.counts[mark] = seen + 1
            if seen >= OFTEN:
                frequent.append((seen, mark))
            call ^= mark
            names ^= symbol.words[2]
        found = names if len(args) < 6 else 0
        for _, mark in sorted(frequent, reverse=True)[:2]:
            found ^= mark
        if session.is_repetition(call ^ tool.words[3]):
            found ^= REPEATED
        self.keep_within_bound()
        return found or 1

    def keep_within_bound(self) -> None:
        """Make room when there are too many values."""
        if keep_strongest(self.counts, self._bound, int):
            # A mapping keeps the room of what was deleted, and takes more of it with each round.
            self.counts = dict(list(self.counts.items()))
