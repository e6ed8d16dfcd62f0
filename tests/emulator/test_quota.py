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


def test_a_refused_request_uses_up_nothing() -> None:
    """Refusals do not lengthen the wait."""
    ledger = Ledger(1, None, None)
    assert not ledger.admit(0.0, NOON, 1)
    assert all(ledger.admit(float(second), NOON, 1) for second in range(1, 60))
    assert not ledger.admit(60.0, NOON, 1)


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
