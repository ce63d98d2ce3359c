"""Keeps calls from a model that only fails, as a pure machine: closed, open, half-open.

Closed, everything passes; after `THRESHOLD` retryable failures in a row it opens, and nothing passes until a cooldown
is over; then it is half-open, and a single probe passes. The probe's success closes it, its failure opens it again for
twice as long (Nygard, "Release It!", circuit breaker). Only the probe's own outcome counts while it is out: what was
sent earlier and ends late is old news.

A status that says that the request is wrong, or a rate limit, is an answer: the provider works. Time is a parameter, in
seconds of one monotonic clock. Imports the standard library only. Must never wait or read a clock.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

THRESHOLD = 3
COOLDOWN_S = 30.0
MAX_COOLDOWN_S = 480.0

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]


class Breaker:
    """Decides whether a model's failures keep further calls from it."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = -math.inf
        self._cooldown_s = COOLDOWN_S
        self._probing = False

    def state(self, now: float) -> BreakerState:
        """Return which of its three states it is in."""
        if self._until == -math.inf:
            return "closed"
        return "half_open" if now >= self._until else "open"

    def ready_at(self) -> float:
        """Return when a call may pass: minus infinity when closed, infinity while only a probe's end can tell."""
        return math.inf if self._probing else self._until

    def enter(self) -> bool:
        """Let a call pass and return whether it is the probe. It must be ready."""
        self._probing = self._until > -math.inf
        return self._probing

    def answered(self, probe: bool) -> None:
        """Learn that the provider answered a call, be it with a refusal."""
        if probe:
            self._until, self._cooldown_s, self._probing = -math.inf, COOLDOWN_S, False
        if self._until == -math.inf:
            self._failures = 0

    def failed(self, now: float, probe: bool) -> None:
        """Learn that a call failed in a way that may pass."""
        if probe:
            self._probing = False
            self._cooldown_s = min(MAX_COOLDOWN_S, 2 * self._cooldown_s)
            self._until = now + self._cooldown_s
        elif self._until == -math.inf:
            self._failures += 1
            if self._failures >= THRESHOLD:
                self._until = now + self._cooldown_s

    def abandoned(self, probe: bool) -> None:
        """Learn that a call ended and told nothing about the provider; after a probe the next call is one."""
        if probe:
            self._probing = False
