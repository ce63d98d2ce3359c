"""What one key may still send, as a pure machine: a bucket, a pause learned from refusals, a window that grows.

Three things hold a request back, and each has a source of its own:

* the *bucket* keeps to the rate that was configured: the generic cell rate algorithm (ITU-T I.371), one number;
* the *pause* follows a refusal: the server's wish is a floor and never a ceiling, and full jitter on top of it keeps
  processes that share a key from coming back together (Brooker, "Exponential Backoff And Jitter", AWS 2015);
* the *window* bounds what is in flight, so that many sessions that start at once do not all burn a request on the same
  refusal: slow start (RFC 5681, 3.1) from an initial window of 4 (RFC 3390), back to 1 after a refusal. It doubles with
  each success and not with each round trip, because an answer takes seconds here and one success says enough.

Requests that were sent before a refusal became known are one volley with it: their refusals are the same news and
count once, and their successes say nothing about what comes after. Time is a parameter, in seconds of one monotonic
clock; randomness is handed in. May import core. Must never wait, read a clock or know who asks.
"""

from __future__ import annotations

import math
from random import Random
from typing import Annotated

from pydantic import Field

from ..core.values import Value

BACKOFF_CAP_S = 60.0
"""The jitter on top of a server's wish is never drawn from more than this."""

FIRST_WINDOW = 4.0
LAST_WINDOW = 1024.0
"""A window that has grown beyond this is no bound any more."""

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class QuotaSettings(Value):
    """How much one key may send, and for how long it is sat out.

    `requests_per_minute` is the rate of the bucket, none without it; `burst` is how many may go at once when it is
    full. With a burst of 1 no minute ever sees more than the rate. The first refusal in a row is followed by up to
    `backoff_base_s` seconds of jitter, the next by up to twice that. Whoever would have to wait for longer than
    `park_after_s` seconds is told so instead.
    """

    requests_per_minute: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    burst: Annotated[int, Field(ge=1)] = 1
    backoff_base_s: _Seconds = 5.0
    park_after_s: _Seconds = 60.0


class Quota:
    """What one key may still send.

    Args:
        settings: the configured side.
        random: where jitter comes from.
    """

    def __init__(self, settings: QuotaSettings, random: Random) -> None:
        rate = settings.requests_per_minute
        self._interval_s = 60.0 / rate if rate else 0.0
        self._slack_s = (settings.burst - 1) * self._interval_s
        self._backoff_base_s = settings.backoff_base_s
        self._random = random
        self._due = -math.inf
        self._not_before = -math.inf
        self._window = FIRST_WINDOW
        self._in_a_row = 0
        self._volley = 0

    @property
    def not_before(self) -> float:
        """When the pause ends or ended; minus infinity where there was none."""
        return self._not_before

    @property
    def window(self) -> float:
        """How many requests may be in flight."""
        return self._window

    def ready_at(self, now: float, ahead: int = 0) -> float:
        """Return the earliest time, `now` or later, at which pause and bucket let a request go.

        Args:
            now: the time.
            ahead: how many requests go first.
        """
        start = max(now, self._not_before)
        return max(start, max(start, self._due) + ahead * self._interval_s - self._slack_s)

    def take(self, now: float) -> int:
        """Let a request go and return its volley, for `succeeded` and `limited`. It must be ready."""
        self._due = max(self._due, now) + self._interval_s
        return self._volley

    def succeeded(self, volley: int) -> None:
        """Learn from an answer."""
        if volley == self._volley:
            self._in_a_row = 0
            self._window = math.inf if self._window >= LAST_WINDOW else self._window * 2

    def limited(self, now: float, wish_s: float | None, volley: int) -> None:
        """Learn from a refusal.

        Args:
            now: the time.
            wish_s: how long the server wants to be left alone, where it said so.
            volley: what `take` returned.
        """
        until = now + (wish_s or 0.0)
        if volley == self._volley or now >= self._not_before:
            # 2^64 times any base is beyond every cap; without the bound a long streak would overflow.
            width_s = min(BACKOFF_CAP_S, self._backoff_base_s * 2.0 ** min(self._in_a_row, 64))
            until += self._random.uniform(0.0, width_s)
            self._in_a_row += 1
            self._volley += 1
            self._window = 1.0
        self.pause(until)

    def pause(self, until: float) -> None:
        """Send nothing before `until`; a longer pause stays as it is."""
        self._not_before = max(self._not_before, until)
