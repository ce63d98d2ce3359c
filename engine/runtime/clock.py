"""The real clock, and times of day as text. The only module that asks the operating system for the time."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from ..ports import Clock

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SystemClock:
    """Time of day and monotonic time of this machine."""

    def time_ns(self) -> int:
        """Return the time of day: nanoseconds since 1970-01-01, UTC."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """Return nanoseconds since some fixed moment of this process."""
        return time.monotonic_ns()


def timestamp(time_ns: int) -> str:
    """Return a time of day as records write it: ISO 8601, UTC, microseconds, Z."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{_to_the_second(seconds)}.{rest_ns // 1000:06d}Z"


@lru_cache(maxsize=8)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def time_in(clock: Clock, wait_s: float) -> str:
    """Return the time of day after a wait, rounded up to the microseconds of its text."""
    return timestamp(clock.time_ns() + math.ceil(wait_s * 1e6) * 1000 + 999)


def seconds_until(clock: Clock, moment: str) -> float:
    """Return how long it is until a time of day, in seconds, 0 where it is past.

    Raises:
        ValueError: it is no time of day in ISO 8601 with a zone.
    """
    found = datetime.fromisoformat(moment)
    if found.tzinfo is None:
        raise ValueError(f"{moment!r} has no zone; write times of day like 2027-01-15T08:00:00Z")
    microseconds = (found - _EPOCH) // timedelta(microseconds=1)
    return max(0.0, (microseconds * 1000 - clock.time_ns()) / 1e9)
