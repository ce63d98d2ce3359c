"""How much of a session a model would be shown next, and whether that is too much.

Counts on from what the model itself reported, so only what came since is estimated, and every message once. May import
core, models and its neighbours. Must never change anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..core.budgets import short_of
from ..core.cursor import Cursor
from ..core.session import Session
from ..core.tokens import Window, message_tokens
from ..core.values import Message
from ..core.view import cut_before, stays
from ..models.windows import Windowed
from .parts import Parts

_GROWTH = 16
"""After a compaction, or a vain try, nothing is tried until a sixteenth of the window has come in addition."""

_SHARE = 8
"""A summary is at most an eighth of the window, and so is what the record adds to it."""


class Gauge:
    """Watches how much the model of one session is shown.

    Args:
        parts: what the engine is made of.
    """

    def __init__(self, parts: Parts) -> None:
        self._limits, self._settings = parts.limits, parts.settings.compaction
        self._model = parts.model if isinstance(parts.model, Windowed) else None
        # Nobody knows under which name a model without a window takes a limit.
        self._plain = Window(
            self._limits.max_context_tokens, self._limits.compact_at, self._settings.keep_messages, reply_limit=""
        )
        self._since = self._upto = self._sum = 0

    @property
    def window(self) -> Window:
        """How much the model can be shown: by the limits, or by what it says where that is less."""
        own = None if self._model is None else self._model.window
        if own is None:
            return self._plain
        if own.tokens <= self._limits.max_context_tokens:
            return own
        return own._replace(tokens=self._limits.max_context_tokens, compact_at=self._limits.compact_at)

    def tokens(self, at: Session | Cursor) -> int:
        """Return about how many tokens the next request is."""
        since, reported = at.measured
        transcript = at.transcript
        length = len(transcript)
        if since != self._since or length < self._upto:
            self._since, self._upto, self._sum = since, since, 0
        if self._upto < length:
            count = self.window.tokens_of
            for place in range(self._upto, length):
                self._sum += message_tokens(transcript[place], count)
            self._upto = length
        return reported + self._sum

    def due(self, at: Session | Cursor) -> bool:
        """Whether the model would be shown too much next, and it is worth a try to show it less."""
        tokens, window = self.tokens(at), self.window
        turn = at.turn
        if tokens < window.tokens * window.compact_at or turn is None or turn.direct_calls:
            return False
        if short_of(turn, at.opened.settings) is not None:
            # The core says so when the model is asked, and a summary would use what is not there.
            return False
        transcript, shown = at.transcript, at.shown
        if shown.tried:
            new = (transcript[place] for place in range(shown.tried, len(transcript)))
            if self.count(new) < window.tokens // _GROWTH:
                return False
        through = self.cut(at, window.keep_messages)
        gone = (transcript[place] for place in range(shown.through, through))
        replaced = self.count(message for message in gone if not stays(message)) + window.tokens_of(shown.text)
        return replaced > 2 * self.reserve(self._settings.max_tokens)

    def cut(self, at: Session | Cursor, keep: int) -> int:
        """Return how many messages can be replaced, counted from the first, so that the newest stay as they are."""
        return cut_before(at.transcript, max(0, len(at.transcript) - keep))

    def count(self, messages: Iterable[Message]) -> int:
        """Return about how many tokens some messages are."""
        count = self.window.tokens_of
        return sum(message_tokens(message, count) for message in messages)

    def reserve(self, wanted: int) -> int:
        """Return how many tokens a part of what stands for a conversation may have at most."""
        return max(1, min(wanted, self.window.tokens // _SHARE))


def gauge_of(parts: Parts) -> Gauge | None:
    """Return what watches a session of an engine, if anybody wants to know."""
    return Gauge(parts) if parts.limits.auto_compact else None
