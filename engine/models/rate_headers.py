"""How long a server's headers ask to be left alone: the one place that reads Retry-After and its relatives.

Pure and total: whatever the headers hold, the answer is a sensible number of seconds or None, and None means that the
server said nothing that can be used, so the caller backs off by its own rule. A wish of nought is no wish: taken
literally it would be an invitation to try again at once. May import the standard library only. Must never do I/O or
read a clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_WAIT_S = 366 * 86_400.0
"""A longer wish is a mistake, such as a time of day in seconds where a number of seconds is meant."""

_MAX_TEXT = 64
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)
_PART = r"(?:(\d+(?:\.\d+)?){})?"
_DURATION = re.compile("".join(_PART.format(unit) for unit in ("d", "h", "m", "s", "ms")), re.ASCII)
_UNITS_S = (86_400.0, 3_600.0, 60.0, 1.0, 0.001)

_REMAINING = re.compile(r"x-ratelimit-remaining-(?P<a>.+)|anthropic-ratelimit-(?P<b>.+)-remaining")


def wait_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return how long a server that refused wants to be left alone, in seconds above 0; None where it does not say.

    Its explicit word counts first: `retry-after-ms`, then `retry-after` as whole or broken seconds or as an HTTP date
    (RFC 9110, 10.2.3). Without one it is the time until what is used up is filled again: the pairs
    `x-ratelimit-remaining-…` and `x-ratelimit-reset-…` (durations such as `6m0s`, `20ms`, or seconds) and
    `anthropic-ratelimit-…-remaining` and `-reset` (RFC 3339). An allowance that is not used up is no reason to wait,
    whenever it is filled again; of several that are, the slowest counts.

    Args:
        headers: names in any case.
        now: the time here, with a zone. A date is compared with the server's own `date`, where it sent one: the two
            clocks need not agree.
    """
    given = {name.lower(): value.strip() for name, value in headers.items()}
    milliseconds = _number(given.get("retry-after-ms", ""))
    wish = None if milliseconds is None else _sensible(milliseconds / 1000)
    if wish is None:
        text = given.get("retry-after", "")
        seconds = _number(text)
        wish = _sensible(seconds) if seconds is not None else _until(_http_date(text), given, now)
    return _exhausted(given, now) if wish is None else wish


def _exhausted(headers: Mapping[str, str], now: datetime) -> float | None:
    waits: list[float] = []
    for name, value in headers.items():
        found = _REMAINING.fullmatch(name)
        if found is None or _number(value) != 0:
            continue
        of = found["a"]
        reset = headers.get(f"x-ratelimit-reset-{of}" if of else f"anthropic-ratelimit-{found['b']}-reset", "")
        wait = _duration(reset) or _until(_timestamp(reset), headers, now)
        if wait is not None:
            waits.append(wait)
    return max(waits, default=None)


def _sensible(seconds: float) -> float | None:
    return seconds if 0 < seconds <= MAX_WAIT_S else None


def _number(text: str) -> float | None:
    return float(text) if len(text) <= _MAX_TEXT and _NUMBER.fullmatch(text) else None


def _duration(text: str) -> float | None:
    number = _number(text)
    if number is not None:
        return _sensible(number)
    found = _DURATION.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if found is None:
        return None
    return _sensible(sum(float(part) * unit for part, unit in zip(found.groups("0"), _UNITS_S, strict=True)))


def _until(moment: datetime | None, headers: Mapping[str, str], now: datetime) -> float | None:
    if moment is None:
        return None
    return _sensible((moment - (_http_date(headers.get("date", "")) or now)).total_seconds())


def _http_date(text: str) -> datetime | None:
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return _zoned(found)


def _timestamp(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return _zoned(found)


def _zoned(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
