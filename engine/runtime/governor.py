"""The gate in front of the models: one a quota key, shared by all sessions of an engine.

Each gate joins a `Quota` and a `Breaker` and lets requests through in the order they came. Where it is open, passing it
is one synchronous look. Where it is closed, whoever comes joins the queue; the first in it sleeps until the computed
time, the others until they are first or the time moves, and nobody looks twice for nothing. A waiter holds nothing:
it takes its place in the quota itself when its time has come, so one that is cancelled only leaves the queue.

Whoever would have to wait beyond its own deadline, or for longer than `park_after_s`, is not let sleep: it is told at
once until when the gate is closed, and what to do about that is the caller's business. May import anyio, core and its
neighbours. Must never retry, and never sleep where nobody can wake it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from random import Random
from types import TracebackType
from typing import Literal, NamedTuple, TypeAlias

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from .bell import Bell, new_bell
from .breaker import Breaker, BreakerState
from .quota import Quota, QuotaSettings


class Closed(NamedTuple):
    """The answer to whoever would have to wait too long: the gate is closed until then, in anyio's time, in seconds.

    `for_all` says that nobody gets through earlier; otherwise only the caller's place in the queue is that far back.
    """

    until: float
    for_all: bool


class GateSnapshot(NamedTuple):
    """How one gate stands. `window` bounds what is in flight, None where nothing does; `opens_in_s` is 0 for an open
    gate and None while only a probe's end can tell. `limited` counts refusals for too many requests.
    """

    breaker: BreakerState
    opens_in_s: float | None
    window: int | None
    in_flight: int
    waiting: int
    admitted: int
    limited: int


class Governor:
    """Decides when a model may be asked.

    Args:
        settings: what holds for every key.
        random: where jitter comes from; seeded, it makes every pause reproducible.
    """

    def __init__(self, settings: QuotaSettings, random: Random) -> None:
        self._settings = settings
        self._random = random
        self._gates: dict[str, _Gate] = {}

    async def admit(self, key: str) -> Pass | Closed:
        """Return a pass when it is the caller's turn; it does not even yield where the gate is open.

        Use the pass with `with`, and report to it what came of the request.
        """
        gate = self._gate(key)
        return gate.pass_at_once() or await gate.wait(await self._patience())

    async def opened(self, key: str | None, earliest: float) -> Closed | None:
        """Wait until the gate is open and `earliest` is there; take nothing from the quota.

        Args:
            key: the gate; None for a model without one, which waits for `earliest` alone.
            earliest: in anyio's time, in seconds.
        """
        patience = await self._patience()
        if key is not None:
            return await self._gate(key).opened(earliest, patience)
        if earliest > patience:
            return Closed(earliest, for_all=False)
        await anyio.sleep_until(earliest)
        return None

    def not_before(self, key: str) -> float:
        """Return when the learned pause of a key ends or ended, in anyio's time; minus infinity without one."""
        return self._gate(key).quota.not_before

    def hold(self, key: str, until: float) -> None:
        """Send nothing on a key before `until`, in anyio's time; a longer pause stays as it is."""
        self._gate(key).hold(until)

    def snapshot(self) -> Mapping[str, GateSnapshot]:
        """Return how every gate stands that was used, by key."""
        now = anyio.current_time()
        return {key: gate.snapshot(now) for key, gate in self._gates.items()}

    def _gate(self, key: str) -> _Gate:
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = _Gate(Quota(self._settings, self._random))
        return gate

    async def _patience(self) -> float:
        """Return until when the caller may sleep. One that is cancelled already has no deadline to be told of."""
        await checkpoint_if_cancelled()
        return min(anyio.current_effective_deadline(), anyio.current_time() + self._settings.park_after_s)


_Outcome: TypeAlias = Literal["succeeded", "limited", "refused", "failed", "abandoned"]


class Pass:
    """The right to send one request. The first report counts; leaving `with` without one says that nothing is known."""

    __slots__ = ("_gate", "_probe", "_used", "_volley")

    def __init__(self, gate: _Gate, volley: int, probe: bool) -> None:
        self._gate = gate
        self._volley = volley
        self._probe = probe
        self._used = False

    def __enter__(self) -> Pass:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._report("abandoned")

    def succeeded(self) -> None:
        """Report an answer."""
        self._report("succeeded")

    def limited(self, wish_s: float | None) -> None:
        """Report a refusal for too many requests, with the server's wish in seconds where it said one."""
        self._report("limited", wish_s)

    def refused(self) -> None:
        """Report a refusal that trying again does not mend: the provider works, the request is wrong."""
        self._report("refused")

    def failed(self) -> None:
        """Report a failure that may pass."""
        self._report("failed")

    def _report(self, outcome: _Outcome, wish_s: float | None = None) -> None:
        if not self._used:
            self._used = True
            self._gate.leave(outcome, (self._volley, self._probe), wish_s)


class _Gate:
    """Quota, breaker and queue of one key."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self._breaker = Breaker()
        self._queue: deque[Bell] = deque()
        self._watching: set[Bell] = set()
        self._in_flight = 0
        self._admitted = 0
        self._limited = 0

    def pass_at_once(self) -> Pass | None:
        """Return a pass if nobody waits and nothing holds a request back."""
        if self._queue or self._in_flight >= self.quota.window:
            return None
        now = anyio.current_time()
        return self._enter(now) if self._opens_at(now) <= now else None

    async def wait(self, patience: float) -> Pass | Closed:
        """Queue, then pass; or say that it would take longer than until `patience`."""
        place = new_bell()
        self._queue.append(place)
        try:
            while True:
                now = anyio.current_time()
                ahead = self._queue.index(place)
                until = self._opens_at(now, ahead)
                if patience < until < math.inf:
                    return Closed(until, until == self._shut_until())
                is_next = ahead == 0 and self._in_flight < self.quota.window
                if is_next and until <= now:
                    return self._enter(now)
                await place.wait(until if is_next else math.inf)
        finally:
            self._queue.remove(place)
            self._ring_first()

    async def opened(self, earliest: float, patience: float) -> Closed | None:
        """Wait until neither the pause nor the breaker holds a request back, and `earliest` is there."""
        place = new_bell()
        self._watching.add(place)
        try:
            while (until := max(earliest, self._shut_until())) > anyio.current_time():
                if patience < until < math.inf:
                    return Closed(until, until == self._shut_until())
                await place.wait(until)
            return None
        finally:
            self._watching.remove(place)

    def hold(self, until: float) -> None:
        """Send nothing before `until`."""
        before = self._shut_until()
        self.quota.pause(until)
        self._tell(before)

    def leave(self, outcome: _Outcome, taken: tuple[int, bool], wish_s: float | None) -> None:
        """Give a place in flight back, learn from how the request ended, and wake whom that concerns.

        Args:
            outcome: how it ended.
            taken: the volley of the quota it belongs to, and whether it was the probe of the breaker.
            wish_s: how long the server wants to be left alone, in seconds, where it said so.
        """
        volley, probe = taken
        before = self._shut_until()
        self._in_flight -= 1
        if outcome == "failed":
            self._breaker.failed(anyio.current_time(), probe)
        elif outcome == "abandoned":
            self._breaker.abandoned(probe)
        else:
            self._breaker.answered(probe)
        if outcome == "succeeded":
            self.quota.succeeded(volley)
        elif outcome == "limited":
            self._limited += 1
            self.quota.limited(anyio.current_time(), wish_s, volley)
        self._tell(before)

    def snapshot(self, now: float) -> GateSnapshot:
        """Return how the gate stands."""
        opens_at = self._opens_at(now)
        return GateSnapshot(
            breaker=self._breaker.state(now),
            opens_in_s=None if opens_at == math.inf else opens_at - now,
            window=None if self.quota.window == math.inf else int(self.quota.window),
            in_flight=self._in_flight,
            waiting=len(self._queue),
            admitted=self._admitted,
            limited=self._limited,
        )

    def _opens_at(self, now: float, ahead: int = 0) -> float:
        """Return the earliest time at which a request may pass that `ahead` others precede."""
        return max(self.quota.ready_at(now, ahead), self._breaker.ready_at())

    def _shut_until(self) -> float:
        return max(self.quota.not_before, self._breaker.ready_at())

    def _enter(self, now: float) -> Pass:
        self._in_flight += 1
        self._admitted += 1
        return Pass(self, self.quota.take(now), self._breaker.enter())

    def _tell(self, before: float) -> None:
        """Wake the first in the queue; where the gate's time has moved, everybody who counts on it."""
        if self._shut_until() == before:
            self._ring_first()
            return
        for place in (*self._watching, *self._queue):
            place.ring()

    def _ring_first(self) -> None:
        if self._queue:
            self._queue[0].ring()
