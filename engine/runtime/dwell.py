"""How long sessions stay in their states: statistics of a fixed size, and a watch for those that do not get on.

Both are fed with the records of all sessions, in order, as an observer sees them. The watch keeps one timer however
many sessions work: a heap of the moments at which to look again, nothing is moved in it when a session gets on. At
rest there is at most one look left to take, and then none. May import anyio, core, ports and the log. Must never change
a session.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import anyio

from ..core.record import TransitionRecord
from ..core.values import State
from ..errors import UsageError
from ..log import logger
from ..ports import Clock
from .bell import Bell, new_bell

WORKING = frozenset({State.PROCESSING, State.GENERATING_RESPONSE, State.EXECUTING_TOOLS, State.ERROR})
"""States in which the engine itself has something to do."""

_PARTS = 16
_OCTAVES = 48


class Sketch:
    """Counts durations in buckets that grow with them, 16 an octave, so a quantile is at most 3.2 % off.

    Holds 768 counters, whatever it has seen; what lasts longer than 26 days counts as that.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total_ns = 0
        self.max_ns = 0
        self._buckets = [0] * (_PARTS * _OCTAVES)

    def add(self, duration_ns: int) -> None:
        """Count one duration."""
        self.count += 1
        if duration_ns <= 0:
            self._buckets[0] += 1
            return
        self.total_ns += duration_ns
        if duration_ns > self.max_ns:
            self.max_ns = duration_ns
        self._buckets[_bucket(duration_ns)] += 1

    def quantile_ns(self, share: float) -> int:
        """Return the duration that `share` of all do not exceed, 0 < share <= 1; 0 if nothing was counted."""
        wanted, seen = share * self.count, 0
        for index, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return min(_middle_ns(index), self.max_ns)
        return 0


def _bucket(duration_ns: int) -> int:
    """Return the bucket of a duration: below 16 ns one for each, then by octave and the four bits after the first."""
    if duration_ns < _PARTS:
        return duration_ns
    octave = duration_ns.bit_length() - 5
    return min(_PARTS * octave + (duration_ns >> octave), _PARTS * _OCTAVES - 1)


def _middle_ns(bucket: int) -> int:
    if bucket < _PARTS:
        return bucket
    octave = bucket // _PARTS - 1
    return (2 * (bucket - _PARTS * octave) + 1 << octave) // 2


class Dwell(NamedTuple):
    """How long sessions stayed in one state, in seconds. `median_s` and `p99_s` are at most 3.2 % off."""

    stays: int
    total_s: float
    max_s: float
    median_s: float
    p99_s: float


class DwellTimes:
    """Measures how long sessions stay in each state."""

    def __init__(self) -> None:
        self._sketches = {state: Sketch() for state in State}
        self._entered: dict[str, int] = {}

    def see(self, records: Sequence[TransitionRecord]) -> None:
        """Count the stays that ended with these records of one session. Its first record ends none."""
        session = records[0].session
        entered_ns = self._entered.get(session)
        for record in records:
            if entered_ns is None:
                entered_ns = record.mono_ns
            elif record.source is not record.dest:
                self._sketches[record.source].add(record.mono_ns - entered_ns)
                entered_ns = record.mono_ns
        self._entered[session] = entered_ns or 0

    def forget(self, session: str) -> None:
        """Drop a session that was closed; its stays so far keep counting."""
        self._entered.pop(session, None)

    def times(self) -> dict[State, Dwell]:
        """Return the statistics of every state that any session has left."""
        return {
            state: Dwell(
                sketch.count,
                sketch.total_ns / 1e9,
                sketch.max_ns / 1e9,
                sketch.quantile_ns(0.5) / 1e9,
                sketch.quantile_ns(0.99) / 1e9,
            )
            for state, sketch in self._sketches.items()
            if sketch.count
        }


class Stuck(NamedTuple):
    """A session has been in a working state for longer than the bound. `seq` is its newest record."""

    session: str
    state: State
    seq: int
    for_s: float


class StuckWatch:
    """Reports a session that stays in a working state for longer than a bound; once a stay.

    Args:
        bound_s: how long a session may stay, in seconds. Longer than anything that is allowed to last: a tool's
            deadline, a provider's wish to wait.
        clock: the engine's.
        on_stuck: told in the event loop, beside the log.
    """

    def __init__(self, bound_s: float, clock: Clock, on_stuck: Callable[[Stuck], object]) -> None:
        self._bound_ns = int(bound_s * 1e9)
        self._clock = clock
        self._on_stuck = on_stuck
        self._stays: dict[str, _Stay] = {}
        self._looks: list[tuple[int, str]] = []
        self._awaited: set[str] = set()
        self._bell: Bell | None = None
        self._serving = False

    def see(self, record: TransitionRecord) -> None:
        """Take note of where a session stands."""
        session, state = record.session, record.dest
        stay = self._stays.get(session)
        if state not in WORKING:
            self._stays.pop(session, None)
        elif stay is None or stay.state is not state:
            # The time of the record: it was taken a moment ago, by the same clock.
            self._stays[session] = _Stay(state, record.seq, record.mono_ns)
            if session not in self._awaited:
                self._look_at(session, record.mono_ns + self._bound_ns)
        else:
            self._stays[session] = stay._replace(seq=record.seq)

    def forget(self, session: str) -> None:
        """Drop a session that was closed."""
        self._stays.pop(session, None)

    async def serve(self) -> None:
        """Watch until cancelled.

        Raises:
            UsageError: it is being served already.
        """
        if self._serving:
            raise UsageError("this watch is being served already; one task serves all sessions of an engine")
        self._serving = True
        self._bell = new_bell()
        try:
            while True:
                await self._bell.wait(self._next_look())
                self._report()
        finally:
            self._serving = False

    def _look_at(self, session: str, at_ns: int) -> None:
        self._awaited.add(session)
        heappush(self._looks, (at_ns, session))
        if self._bell is not None and len(self._looks) == 1:
            self._bell.ring()

    def _next_look(self) -> float:
        """Return when the next look is due, in the event loop's time; infinity where there is none."""
        if not self._looks:
            return math.inf
        return anyio.current_time() + max(0, self._looks[0][0] - self._clock.monotonic_ns()) / 1e9

    def _report(self) -> None:
        """Take the looks that are due. A session that has got on since is looked at again when its new stay is."""
        now_ns = self._clock.monotonic_ns()
        while self._looks and self._looks[0][0] <= now_ns:
            _, session = heappop(self._looks)
            self._awaited.discard(session)
            stay = self._stays.get(session)
            if stay is not None and stay.since_ns + self._bound_ns > now_ns:
                self._look_at(session, stay.since_ns + self._bound_ns)
            elif stay is not None:
                self._tell(Stuck(session, stay.state, stay.seq, (now_ns - stay.since_ns) / 1e9))
        if not self._stays:
            self._looks.clear()
            self._awaited.clear()

    def _tell(self, stuck: Stuck) -> None:
        logger.warning(
            "session does not get on", session=stuck.session, state=stuck.state, seq=stuck.seq, for_s=stuck.for_s
        )
        self._on_stuck(stuck)


class _Stay(NamedTuple):
    """Where a session stands, and since when."""

    state: State
    seq: int
    since_ns: int
