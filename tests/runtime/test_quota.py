"""The quota of one key: its bucket, its pause, its window. All in times that the test makes up."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random

import pytest
from hypothesis import example, given, settings, strategies as st
from pydantic import ValidationError

from engine.models.rate_headers import wait_s
from engine.runtime.quota import BACKOFF_CAP_S, FIRST_WINDOW, Quota, QuotaSettings

EPOCH = datetime(2026, 11, 21, 12, tzinfo=UTC)

CLOCKS = st.floats(0, 1e9).map(lambda clock_s: round(clock_s, 3))
WAITS = st.floats(0.001, 86_400).map(lambda wait: round(wait, 3))
SEEDS = st.integers(0, 2**32)


class Highest(Random):
    """Always draws the end of the range."""

    def uniform(self, a: float, b: float) -> float:
        return b


def quota(seed: int = 0, **given: float) -> Quota:
    return Quota(QuotaSettings.model_validate(given), Random(seed))  # noqa: S311 - jitter is no secret


@settings(max_examples=2_000)
@given(CLOCKS, WAITS, st.sampled_from(["seconds", "milliseconds", "date", "reset"]), SEEDS, st.integers(0, 12))
@example(0.0, 0.001, "milliseconds", 0, 0)
def test_f20_v24_no_request_before_retry_after_is_over(
    now: float, wait: float, form: str, seed: int, earlier: int
) -> None:
    """Property: whatever the header, the clock, the streak and the draw, nothing is ready in [t, t + Retry-After)."""
    headers = {
        "seconds": {"retry-after": f"{wait:.3f}"},
        "milliseconds": {"retry-after-ms": f"{wait * 1000:.0f}"},
        "date": {"retry-after": format_datetime(EPOCH + timedelta(seconds=math.ceil(wait)), usegmt=True)},
        "reset": {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": f"{wait:.3f}s"},
    }[form]
    limited = quota(seed)
    for _ in range(earlier):
        limited.limited(now, None, limited.take(limited.ready_at(now)))
    limited.limited(now, wait_s(headers, EPOCH), limited.take(limited.ready_at(now)))
    assert limited.ready_at(now) >= now + wait
    assert limited.ready_at(now + wait * 0.999) >= now + wait


@pytest.mark.parametrize("wish_s", [None, 2.0, 600.0])
def test_f20_jitter_doubles_on_top_of_the_floor_up_to_its_cap(wish_s: float | None) -> None:
    """The most that is added to the server's wish is 5 s, then 10, 20, 40, and 60 ever after."""
    added: list[float] = []
    limited = Quota(QuotaSettings(), Highest())
    now = 0.0
    for _ in range(70):
        limited.limited(now, wish_s, limited.take(now))
        added.append(limited.not_before - now - (wish_s or 0.0))
        now = limited.not_before
    assert added[:6] == pytest.approx([5, 10, 20, 40, 60, 60])
    assert max(added) == pytest.approx(BACKOFF_CAP_S)


def test_f20_jitter_is_full_and_drawn_from_the_given_source() -> None:
    """Draws lie all over the range, and the same seed gives the same pause."""

    def pauses() -> list[float]:
        source = Random(7)  # noqa: S311 - jitter is no secret
        made = [Quota(QuotaSettings(), source) for _ in range(200)]
        for one in made:
            one.limited(100.0, 2.0, one.take(100.0))
        return [one.not_before - 102.0 for one in made]

    drawn = pauses()
    assert min(drawn) < 0.5 < 4.5 < max(drawn) <= 5.0
    assert drawn == pauses()


def test_f20_the_floor_is_never_a_ceiling_and_never_shrinks() -> None:
    """A shorter wish after a longer one, or a shorter hold, leaves the longer pause standing."""
    limited = quota()
    limited.limited(0.0, 50.0, limited.take(0.0))
    until = limited.not_before
    limited.limited(0.1, 1.0, 0)
    limited.pause(3.0)
    assert limited.not_before == until >= 50.0


def test_f20_a_success_ends_the_streak() -> None:
    """After an answer the next refusal is the first of a new streak."""
    limited = Quota(QuotaSettings(), Highest())
    now = 0.0
    for _ in range(3):
        limited.limited(now, None, limited.take(now))
        now = limited.not_before
    limited.succeeded(limited.take(now))
    limited.limited(now, None, limited.take(now))
    assert limited.not_before == now + 5.0


def test_d8_a_volley_s_refusals_are_one_refusal() -> None:
    """Requests that were in flight together and are all refused lengthen the back-off once; the longest wish counts."""
    limited = Quota(QuotaSettings(), Highest())
    volleys = [limited.take(0.0) for _ in range(4)]
    for volley, wish_s in zip(volleys, (None, 1.0, None, 30.0), strict=True):
        limited.limited(1.0, wish_s, volley)
    assert limited.not_before == 31.0
    limited.limited(31.0, None, limited.take(31.0))
    assert limited.not_before == 41.0


def test_d8_a_late_refusal_after_the_pause_is_news() -> None:
    """A refusal of an old volley that comes when the pause is already over pauses again."""
    limited = Quota(QuotaSettings(), Highest())
    first, second = limited.take(0.0), limited.take(0.0)
    limited.limited(0.0, None, first)
    limited.limited(20.0, None, second)
    assert limited.not_before == 30.0


def test_d8_an_old_volley_s_success_opens_no_window() -> None:
    """An answer to what was sent before a refusal says nothing about the time after it."""
    limited = quota()
    first, second = limited.take(0.0), limited.take(0.0)
    limited.limited(0.0, None, first)
    limited.succeeded(second)
    assert limited.window == 1


def test_d8_the_window_doubles_from_four_until_it_is_no_bound() -> None:
    """Slow start: 4 at first, twice as many with each answer, in the end without a bound; 1 after a refusal."""
    growing = quota()
    seen = [growing.window]
    while growing.window < math.inf:
        growing.succeeded(growing.take(0.0))
        seen.append(growing.window)
    assert seen == [FIRST_WINDOW, 8, 16, 32, 64, 128, 256, 512, 1024, math.inf]
    growing.limited(0.0, None, growing.take(0.0))
    assert growing.window == 1


@settings(max_examples=1_000)
@given(
    st.floats(1, 6_000), st.integers(1, 20), st.lists(st.floats(0, 5), min_size=1, max_size=60), st.floats(0.01, 120)
)
def test_f20_the_bucket_keeps_to_its_rate(rate: float, burst: int, gaps: list[float], span_s: float) -> None:
    """Property: no stretch of time sees more than the burst and what the rate gives in it."""
    paced = quota(requests_per_minute=rate, burst=burst)
    now, sent = 0.0, []
    for gap in gaps:
        now = paced.ready_at(now + gap)
        paced.take(now)
        sent.append(now)
    for start in sent:
        within = sum(start <= moment < start + span_s for moment in sent)
        assert within <= burst + math.ceil(span_s * rate / 60 - 1e-6)


def test_f20_a_burst_of_one_spaces_requests_evenly() -> None:
    """At 30 requests a minute they go every 2 seconds, however long nothing was sent before."""
    paced = quota(requests_per_minute=30)
    sent = [1_000.0]
    paced.take(1_000.0)
    for _ in range(3):
        sent.append(paced.ready_at(sent[-1]))
        paced.take(sent[-1])
    assert sent == [1_000.0, 1_002.0, 1_004.0, 1_006.0]


@given(st.integers(1, 5), st.integers(0, 30), st.none() | st.floats(1, 50))
def test_f20_a_place_in_the_queue_has_its_time(burst: int, ahead: int, pause_s: float | None) -> None:
    """Property: what is foretold for a place in the queue is when it is really ready."""
    paced = quota(requests_per_minute=60, burst=burst)
    if pause_s is not None:
        paced.pause(pause_s)
    foretold = paced.ready_at(0.0, ahead)
    now = 0.0
    for _ in range(ahead):
        now = paced.ready_at(now)
        paced.take(now)
    assert paced.ready_at(now) == pytest.approx(foretold)


@pytest.mark.parametrize(
    "given_", [{"requests_per_minute": 0}, {"burst": 0}, {"backoff_base_s": -1}, {"park_after_s": math.inf}]
)
def test_settings_refuse_what_cannot_be_kept(given_: dict[str, float]) -> None:
    """A rate of nothing, an empty bucket, a negative back-off or an endless patience are refused where they are set."""
    with pytest.raises(ValidationError):
        QuotaSettings.model_validate(given_)
