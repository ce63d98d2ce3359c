"""What a server's headers ask for: every spelling, the past, nought, and garbage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import example, given, settings, strategies as st

from engine.models.rate_headers import MAX_WAIT_S, wait_s

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def http_date(seconds: float) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        ("7", 7.0), (" 1.5 ", 1.5), (".5", 0.5), ("2.", 2.0), ("86400", 86_400.0),
        ("0", None), ("0.0", None), ("-3", None), ("", None), ("soon", None), ("nan", None), ("inf", None),
        ("1e3", None), ("1_0", None), ("٣", None), ("9" * 400, None), ("1763726400", None),
        (http_date(20), 20.0), (http_date(0), None), (http_date(-20), None), ("Sat Nov 21 12:00:09 2026", 9.0),
        ("Sat, 99 Nov 2026 99:99:99 GMT", None), ("Mon, 01 Jan 9999 00:00:00 GMT", None),
    ],
)  # fmt: skip
def test_f20_v24_every_form_of_retry_after(value: str, wait: float | None) -> None:
    """Seconds and dates are understood; nought, the past, what is absurdly far away, and garbage are no wish."""
    assert wait_s({"Retry-After": value}, NOW) == wait


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "0", "retry-after": "2"}, 2.0),
        ({"retry-after-ms": "-1"}, None),
        ({"retry-after": "1", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "50s"}, 1.0),
        ({"retry-after": "0", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "50s"}, 50.0),
        ({}, None),
    ],
)
def test_f20_the_most_explicit_usable_word_counts(headers: dict[str, str], wait: float | None) -> None:
    """Milliseconds before seconds before the reset of what is used up; a word that is no wish gives way."""
    assert wait_s(headers, NOW) == wait


def test_f20_f11_a_date_is_judged_by_the_server_s_own_clock() -> None:
    """The distance of a date to the Date of the same answer counts, however wrong both are."""
    year = -400 * 86_400
    assert wait_s({"date": http_date(year), "retry-after": http_date(year + 30)}, NOW) == 30.0


@pytest.mark.parametrize(
    ("reset", "wait"),
    [
        ("1s", 1.0), ("6m0s", 360.0), ("20ms", 0.02), ("2m59.56s", 179.56), ("1h2m3s", 3_723.0), ("1d", 86_400.0),
        ("12", 12.0), ("2026-11-21T12:00:05Z", 5.0), ("2026-11-21T12:00:05", 5.0), ("2026-11-21T13:00:05+01:00", 5.0),
        ("", None), ("0s", None), ("s", None), ("1s1m", None), ("2026-11-21T11:59:59Z", None), ("9" * 65 + "s", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("remaining_name", "reset_name"),
    [
        ("X-RateLimit-Remaining-Requests", "X-RateLimit-Reset-Requests"),
        ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    ],
)
def test_f20_every_form_of_a_reset(remaining_name: str, reset_name: str, reset: str, wait: float | None) -> None:
    """Durations, seconds and timestamps under both families of names; the rest says nothing."""
    assert wait_s({remaining_name: "0", reset_name: reset}, NOW) == pytest.approx(wait)


def test_f20_what_is_not_used_up_is_no_reason_to_wait() -> None:
    """Only the resets of exhausted allowances count, and of these the slowest."""
    headers = {
        "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "3s",
        "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "8s",
        "x-ratelimit-remaining-images": "1", "x-ratelimit-reset-images": "50s",
    }  # fmt: skip
    assert wait_s(headers, NOW) == 8.0
    assert wait_s({**headers, "x-ratelimit-remaining-tokens": "?", "x-ratelimit-remaining-requests": "5"}, NOW) is None


NAMES = (
    "retry-after", "Retry-After-Ms", "date", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset", "x-ratelimit-remaining-",
)  # fmt: skip
TEXTS = (
    st.text(max_size=80)
    | st.sampled_from(["0", "0.0", "00", "1s", "6m0s", "-0", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
    | st.floats().map(str)
    | st.integers().map(str)
    | st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-11))])).map(datetime.isoformat)
    | st.datetimes(timezones=st.just(UTC)).map(lambda moment: format_datetime(moment, usegmt=True))
    | st.from_regex(r"(\d{1,3}[dhms]){1,3}(\d{1,3}ms)?", fullmatch=True)
)


@settings(max_examples=800)
@given(st.lists(st.none() | TEXTS, min_size=len(NAMES), max_size=len(NAMES)))
@example(["Mon, 01 Jan 0001 00:00:00 +2359", None, "Fri, 31 Dec 9999 23:59:59 -2359", *[None] * 5])
def test_f20_garbage_is_never_more_than_no_wish(texts: list[str | None]) -> None:
    """Property: any headers give None or a number of seconds above 0 and within a year; nothing is raised.

    Each list of texts is read eight times, with another text under each name: 6,400 sets of headers.
    """
    for shift in range(len(NAMES)):
        turned = texts[shift:] + texts[:shift]
        headers = {name: text for name, text in zip(NAMES, turned, strict=True) if text is not None}
        wait = wait_s(headers, NOW)
        assert wait is None or 0 < wait <= MAX_WAIT_S
