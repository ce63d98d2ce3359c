"""The real clock. The only module that asks the operating system for the time."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class SystemClock:
    """Time of day and monotonic time of this machine."""

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        return datetime.now(UTC)

    def monotonic_ns(self) -> int:
        """Return nanoseconds since some fixed moment of this process."""
        return time.monotonic_ns()


def timestamp(moment: datetime) -> str:
    """Return a UTC time as records write it: ISO 8601, microseconds, Z."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
