"""What an engine's configuration decides, for histories that are judged by it: see `replay.diverging.Rules`.

The decisions are the live ones, asked with the time of the record. May import core, tools and its neighbours. Must
never perform anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from ..core.session import Session
from ..core.values import ModelReply, PlannedCall, ToolCall
from ..replay.around import MemoryBound
from ..replay.diverging import Declared
from ..tools.function import FunctionTool
from ..tools.isolation import memory_bounds
from .answering import with_due_times
from .parts import Parts
from .spending import admit, cost_of, declared_tokens
from .surroundings import surroundings

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RecordedClock:
    """A clock that stands where a record was written."""

    def __init__(self) -> None:
        self._now_ns = 0

    def set(self, at: str) -> None:
        """Stand at this time of day, ISO 8601 with a zone."""
        self._now_ns = (datetime.fromisoformat(at) - _EPOCH) // timedelta(microseconds=1) * 1000

    def time_ns(self) -> int:
        """Return the time of day: nanoseconds since 1970-01-01, UTC."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """Return the same: it does not run."""
        return self._now_ns


class EngineRules:
    """The rules of one engine."""

    def __init__(self, parts: Parts) -> None:
        self._clock = RecordedClock()
        self._parts = parts._replace(clock=self._clock)

    @property
    def declared(self) -> Declared:
        """What is declared once for all sessions."""
        parts = self._parts
        settings = parts.limits.settings(parts.settings.on_unknown, declared_tokens(parts.parameters))
        return Declared(settings, parts.settings.system, surroundings(parts))

    def memory_bound(self, tool: str) -> MemoryBound | None:
        """Return what bounds the memory of a tool's calls; None where that is not known."""
        found = self._parts.toolbox.get(tool)
        if not isinstance(found, FunctionTool):
            return None
        return MemoryBound(*memory_bounds(cast("FunctionTool[..., object]", found)))

    def plans(self, session: Session, calls: Sequence[ToolCall], at: str) -> tuple[PlannedCall, ...]:
        """Return the decision about each call, as of the time `at`."""
        self._clock.set(at)
        _, plans = admit(self._parts, session, calls)
        return with_due_times(self._parts, plans)

    def cost_pico(self, session: Session, reply: ModelReply) -> int | None:
        """Return what a reply cost, in 10^-12 of the unit of the prices; None where nothing is priced.

        Raises:
            ModelError: a limit cannot be held, because the reply does not say what it used, or has no price.
        """
        return cost_of(self._parts, reply, session.opened.loan)
