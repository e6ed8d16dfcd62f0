"""Quota arithmetic."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quota import WINDOW, Estimate, bucket, day_reset, pacific_day


def leaky(limit: int, seconds: float) -> Iterator[float]:
    """Yield when a client that always has work sends, by the arithmetic of a leaky bucket."""
    shape = bucket(limit)
    rate, level, now = shape.burst / shape.period, 0.0, 0.0
    while now < seconds:
        if level + 1 <= shape.burst + 1e-9:
            level += 1
            yield now
        else:
            wait = (level + 1 - shape.burst) / rate
            now, level = now + wait, level - wait * rate


@given(limit=st.integers(1, 6_000))
def test_no_window_exceeds_the_limit(limit: int) -> None:
    """Whatever the limit, no 60 seconds anywhere hold more requests than it."""
    sent = list(leaky(limit, 2.2 * WINDOW))
    late = [at for at in sent if at <= 1.1 * WINDOW]
    most = max(
        sum(start <= at < start + WINDOW - 1e-6 for at in sent) for start in late[:: max(1, limit // 50)]
    )
    assert most <= limit


@given(limit=st.integers(15, 6_000))
def test_next_to_none_of_the_limit_is_wasted(limit: int) -> None:
    """A client with enough work sends at least 93 % of the limit in its second minute."""
    sent = [at for at in leaky(limit, 2 * WINDOW) if at >= WINDOW]
    assert len(sent) >= 0.93 * limit - 1


@pytest.mark.parametrize(
    ("moment", "reset"),
    [
        ("2026-11-22T03:00", "2026-11-22T08:00"),  # winter: midnight is 08:00 UTC
        ("2026-07-01T12:00", "2026-07-02T07:00"),  # summer: 07:00 UTC
        ("2026-11-01T06:30", "2026-11-01T07:00"),  # the last minutes of the day before the clocks go back
        ("2026-11-01T07:30", "2026-11-02T08:00"),  # that day has 25 hours
        ("2027-03-14T08:30", "2027-03-15T07:00"),  # and this one 23
    ],
)
def test_the_quota_resets_at_pacific_midnight(moment: str, reset: str) -> None:
    """The reset is right on the days when the clocks change."""
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
    assert day_reset(now) == datetime.fromisoformat(reset).replace(tzinfo=UTC)


@given(now=st.floats(1_700_000_000, 2_000_000_000))
def test_the_day_ends_at_its_reset(now: float) -> None:
    """Just before the reset it is still today, and at the reset it is not."""
    reset = day_reset(now).timestamp()
    assert now < reset <= now + 25 * 3600
    assert pacific_day(reset - 1) == pacific_day(now) < pacific_day(reset)


def test_the_estimate_learns_what_a_script_costs() -> None:
    """After 100 replies the estimate of Korean text is within 5 % of what is counted."""
    estimate = Estimate("You label reviews.")
    text = "정말 좋은 영화였습니다 다시 보고 싶어요" * 3
    for _ in range(100):
        estimate.learn(text, 45)
    assert abs(estimate.tokens(text) - 45) <= 2
