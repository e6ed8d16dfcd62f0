"""The server's view of quotas, with clocks that are numbers."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.emulator.quota import WINDOW, Ledger, next_pacific_midnight

PACIFIC = ZoneInfo("America/Los_Angeles")
NOON = datetime(2026, 11, 22, 12, tzinfo=PACIFIC).timestamp()
PAUSES = st.integers(0, 640).map(lambda sixteenths: sixteenths / 16)  # sums of them are exact
STEPS = st.lists(st.tuples(PAUSES, st.integers(0, 60)), max_size=80)


@given(steps=STEPS, rpm=st.integers(1, 6), tpm=st.integers(1, 120))
def test_no_minute_ever_holds_more_than_the_limits(
    steps: list[tuple[float, int]], rpm: int, tpm: int
) -> None:
    """Whatever comes when, every window of 60 seconds keeps both limits."""
    ledger, now = Ledger(rpm, tpm, None), 0.0
    admitted: list[tuple[float, int]] = []
    for pause, tokens in steps:
        now += pause
        if not ledger.admit(now, NOON, tokens):
            admitted.append((now, tokens))
    for start, _ in admitted:
        window = [tokens for at, tokens in admitted if start <= at and start + WINDOW > at]
        assert len(window) <= rpm
        assert sum(window) <= tpm


@given(steps=STEPS, rpm=st.integers(1, 6), tpm=st.integers(60, 120))
def test_a_refusal_names_the_wait_after_which_the_request_fits(
    steps: list[tuple[float, int]], rpm: int, tpm: int
) -> None:
    """Who waits as long as the longest violation says is admitted; a moment less is not enough."""
    ledger, now = Ledger(rpm, tpm, None), 0.0
    for pause, tokens in steps:
        now += pause
        broken = ledger.admit(now, NOON, tokens)
        if broken:
            wait = max(violation.wait for violation in broken)
            assert 0 < wait <= WINDOW
            assert ledger.admit(now + wait - 1 / 32, NOON, tokens)
            now += wait
            assert not ledger.admit(now, NOON, tokens)


@pytest.mark.parametrize("limits", [(1, None, None), (None, 10, None), (None, None, 2), (1, 10, 2)])
def test_a_refused_request_uses_up_nothing(limits: tuple[int | None, int | None, int | None]) -> None:
    """However often one is refused, the next that fits is admitted when it would have been without it."""
    rpm, tpm, rpd = limits
    ledger = Ledger(rpm, tpm, rpd)
    assert not ledger.admit(0.0, NOON, 10)
    if rpd == 2:
        assert not ledger.admit(60.0, NOON, 10)
    assert all(ledger.admit(60 + second / 16, NOON, 10) for second in range(1, 100) if rpd == 2)
    assert all(ledger.admit(second / 16, NOON, 10) for second in range(1, 960) if rpd is None)
    assert not ledger.admit(120.0, next_pacific_midnight(NOON), 10)


def test_a_limit_can_change_while_the_window_stays() -> None:
    """A lower limit counts what was admitted under the higher one, and under none."""
    ledger = Ledger(None, None, None)
    for second in range(6):
        assert not ledger.admit(float(second), NOON, 10)
    ledger.limit(4, 45, None)
    requests, tokens = ledger.admit(6.0, NOON, 5)
    assert (requests.limit, requests.wait) == (4, 56.0)  # when the third of six leaves, three are left
    assert (tokens.limit, tokens.wait) == (45, 55.0)
    assert not ledger.admit(62.0, NOON, 5)
    ledger.limit(None, None, 7)
    (day,) = ledger.admit(63.0, NOON, 5)
    assert day.dimension == "day"


def test_more_than_the_whole_bucket_never_fits() -> None:
    """A request above the token limit is refused on an empty ledger, with a wait like any other."""
    (violation,) = Ledger(None, 100, None).admit(0.0, NOON, 101)
    assert (violation.dimension, violation.limit) == ("tokens", 100)
    assert violation.wait <= WINDOW


def test_all_violations_are_listed() -> None:
    """A request can break every quota at once."""
    ledger = Ledger(1, 10, 1)
    assert not ledger.admit(0.0, NOON, 10)
    assert [v.dimension for v in ledger.admit(1.0, NOON, 1)] == ["requests", "tokens", "day"]


def test_the_day_ends_at_pacific_midnight() -> None:
    """The count of the day starts again with the Pacific day and at no other time."""
    ledger, midnight = Ledger(None, None, 1), next_pacific_midnight(NOON)
    assert not ledger.admit(0.0, NOON, 1)
    (violation,) = ledger.admit(1.0, midnight - 1, 1)
    assert violation.dimension == "day"
    assert violation.wait <= WINDOW
    assert not ledger.admit(2.0, midnight, 1)


@pytest.mark.parametrize(("month", "day", "hours"), [(3, 8, 23), (11, 1, 25), (11, 22, 24)])
def test_days_of_other_lengths_are_known(month: int, day: int, hours: int) -> None:
    """Summer time makes days of 23 and 25 hours."""
    start = datetime(2026, month, day, tzinfo=PACIFIC).timestamp()
    assert next_pacific_midnight(start) - start == hours * 3600
