"""The real clock. The only module that asks the operating system for the time."""

from __future__ import annotations

import time
from functools import lru_cache


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
