"""Quota arithmetic."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quota import MINUTE, SLACK, Estimate, Window, day_reset, pace, pacific_day


def sent(limit: int, amounts: Sequence[int], errors: Sequence[float]) -> list[tuple[float, int]]:
    """Return when each request leaves a window, and what it counts; estimates are off by `errors`."""
    window, now, left = Window(limit), 0.0, []
    for amount, error in zip(amounts, errors, strict=True):
        estimate = max(1, round(amount * error))
        while (wait := window.wait(estimate, now)) > 0:
            now += wait
        entry = window.take(estimate, now)
        window.settle(entry, amount, now + 0.1)
        left.append((now, amount))
        now += 0.01
    return left


@given(
    limit=st.integers(1, 500),
    requests=st.lists(st.tuples(st.integers(1, 500), st.floats(1.0, 3.0)), max_size=80),
)
def test_no_window_exceeds_the_limit(limit: int, requests: list[tuple[int, float]]) -> None:
    """Whatever the sizes, no 60 seconds anywhere hold more than the limit, but for a request above it."""
    amounts = [min(amount, limit) for amount, _ in requests]
    left = sent(limit, amounts, [error for _, error in requests])
    for start, _ in left:
        assert sum(amount for at, amount in left if start <= at < start + MINUTE) <= limit


@given(limit=st.integers(1, 300), count=st.integers(1, 900))
def test_next_to_none_of_the_limit_is_wasted(limit: int, count: int) -> None:
    """With enough work the window lets `limit` requests through every 60.3 seconds."""
    left = sent(limit, [1] * count, [1.0] * count)
    assert left[-1][0] <= (count - 1) // limit * (MINUTE + SLACK) + 0.01 * count


def test_a_request_above_the_limit_waits_for_an_empty_window_only() -> None:
    """Nothing waits for ever."""
    window = Window(100)
    window.take(100, 0.0)
    assert window.wait(1_000, 1.0) == pytest.approx(MINUTE + SLACK - 1.0)
    assert window.wait(1_000, 61.0) == 0.0


def test_what_was_overestimated_is_free_again() -> None:
    """Settling works in both directions, and no longer once the minute is over."""
    window = Window(100)
    entry = window.take(90, 0.0)
    assert window.wait(50, 1.0) > 0
    window.settle(entry, 30, 1.0)
    assert window.wait(50, 1.0) == 0.0
    window.settle(entry, 1_000, 100.0)
    assert window.wait(100, 100.0) == 0.0


@given(limit=st.integers(1, 100_000))
def test_the_pace_is_the_limit(limit: int) -> None:
    """The bucket lets exactly the limit through in a minute, and little of it at once."""
    shape = pace(limit)
    assert shape.burst * MINUTE / shape.period == pytest.approx(limit)
    assert shape.burst <= max(1, limit / 60)


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


def test_the_estimate_of_a_long_text_learned_from_short_ones() -> None:
    """What short prompts count does not make a long one look short or too long."""
    estimate = Estimate("")
    for n in range(1, 50):
        estimate.learn("word " * (n % 7 + 1), 300 + (n % 7 + 1))  # 300 tokens are sent with each request
    assert 4_500 <= estimate.tokens("word " * 5_000) <= 7_000
