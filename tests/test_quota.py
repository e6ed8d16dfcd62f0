"""Quota arithmetic."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.flow import Failure, FailureKind
from pipeline.models import MARGIN, Limits
from pipeline.quota import (
    EASE,
    MINUTE,
    Allowance,
    allowances,
    day_began,
    day_reset,
    learned,
    pace,
    pacific_day,
)

RPM = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
TPM = "GenerateContentPaidTierInputTokensPerModelPerMinute-PaidTier2"
RPD = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"


def limited(quota_id: str | None, value: int | None) -> Failure:
    """Return a 429."""
    return Failure(FailureKind.RATE_LIMITED, "", quota_id=quota_id, quota_value=value)


@given(limit=st.integers(1, 100_000))
def test_the_pace_is_the_limit(limit: int) -> None:
    """The bucket lets hardly less than the limit through in a minute, and little of it at once."""
    shape = pace(Allowance("requests", limit, MINUTE))
    assert shape.burst * MINUTE / shape.period == pytest.approx(limit * EASE)
    assert shape.burst <= max(1, limit / 60)


@given(limit=st.integers(1, 10_000), others=st.floats(0, 20_000), runs=st.integers(1, 9))
def test_runs_that_share_a_limit_use_all_of_it(limit: int, others: float, runs: int) -> None:
    """A run takes what others leave, and never less than its even share."""
    shape = pace(Allowance("tokens", limit, MINUTE), others, runs)
    rate = shape.burst * MINUTE / shape.period
    assert rate == pytest.approx(max(limit / runs, limit - others) * EASE)


def test_all_limits_of_a_window_are_held() -> None:
    """Requests, tokens and money, each over its span and the margin."""
    found = list(allowances(Limits(rpm=15, tpm=250_000, rpd=500, spend_10min_usd=10.0), MARGIN))
    assert [(one.dimension, one.limit, round(one.span, 2)) for one in found] == [
        ("requests", 15, 60.24),
        ("tokens", 250_000, 60.24),
        ("nano_usd", 10_000_000_000, 602.4),
    ]


@pytest.mark.parametrize(
    ("quota_id", "value", "rpm", "tpm"),
    [
        (RPM, 10, 10, 1_000),
        (TPM, 500, 15, 500),
        (RPM, 4_000, 15, 1_000),  # higher than what the user wants
        (RPD, 10, 15, 1_000),
        (RPM, None, 15, 1_000),
        (None, 10, 15, 1_000),
    ],
)
def test_a_429_teaches_the_lower_limit(quota_id: str | None, value: int | None, rpm: int, tpm: int) -> None:
    """The limit of a minute that a 429 names is kept to, in the dimension that it names."""
    found = learned(Limits(rpm=15, tpm=1_000), limited(quota_id, value))
    assert (found.rpm, found.tpm) == (rpm, tpm)


def test_a_429_teaches_where_nothing_was_known() -> None:
    """A limit that nobody told is taken from the API."""
    assert learned(Limits(), limited(RPM, 10)).rpm == 10


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


@given(now=st.floats(1_700_000_000, 2_000_000_000))
def test_the_day_began_at_midnight(now: float) -> None:
    """So many seconds ago it was midnight in California."""
    ago = day_began(now)
    assert 0 <= ago < 25 * 3600
    assert pacific_day(now - ago + 0.01) == pacific_day(now) != pacific_day(now - ago - 1)
