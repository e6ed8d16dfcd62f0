"""The yardstick of the quota benchmark, on traffic whose figures are known."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.traffic import Arrival, Traffic, read, steps

EVEN = [Arrival(100.0 + second, 200, 10) for second in range(180)]  # one a second


def burst(count: int, at: float, status: int = 200) -> list[Arrival]:
    """Return requests that come at once."""
    return [Arrival(at, status, 10)] * count


def test_an_even_run_uses_all_of_its_limit() -> None:
    """No minute holds more than the limit, and the rate is there with the first request."""
    traffic = Traffic(EVEN, 60)
    assert (traffic.most(), traffic.reached(), traffic.refused()) == (60, 0.0, (0, 0.0))
    assert traffic.used(10) == traffic.used(0) == pytest.approx(1)
    assert Traffic(EVEN, 600, by_tokens=True).used(60) == pytest.approx(1)
    assert traffic.used(179) is None


def test_a_minute_has_no_more_than_one_of_its_ends() -> None:
    """Two bursts exactly 60 seconds apart are in no window together; a moment less, and they are."""
    assert Traffic([*burst(5, 0), *burst(5, 60)], 5).most() == 5
    assert Traffic([*burst(5, 0), *burst(5, 59.999)], 5).most() == 10


def test_refused_requests_use_nothing_up_and_failed_ones_do() -> None:
    """A 503 went to the model, a 429 did not."""
    traffic = Traffic([*burst(3, 0), *burst(2, 1, 503), *burst(5, 2, 429), *burst(1, 70, 429)], 60)
    assert (traffic.admitted, traffic.most()) == (5, 5)
    assert traffic.refused(end=60) == (5, 0.5)
    assert traffic.refused(begin=60) == (1, 1.0)


def test_a_gap_lowers_the_share_and_the_way_back_is_timed() -> None:
    """Nothing for 20 of 180 seconds; the rate is back when it is back."""
    gap = [a for a in EVEN if not 150 <= a.seconds < 170]
    traffic = Traffic(gap, 60)
    assert traffic.used(0) == pytest.approx(159 / 179)
    assert traffic.reached(since=150.0) == 20.0
    assert traffic.rate(150, 170) == 0
    assert traffic.reached(since=275.0) is None


@given(
    times=st.lists(st.integers(0, 2_000).map(lambda n: n / 8), min_size=1, max_size=60).map(sorted),
    sizes=st.lists(st.integers(1, 9), min_size=60, max_size=60),
)
def test_the_most_in_a_minute_is_that_of_the_fullest_window(times: list[float], sizes: list[int]) -> None:
    """It is what counting each window by hand gives."""
    arrivals = [Arrival(time, 200, size) for time, size in zip(times, sizes, strict=False)]
    windows = [sum(a.tokens for a in arrivals if t <= a.seconds < t + 60) for t in times]
    assert Traffic(arrivals, 60, by_tokens=True).most() == max(windows)


def test_a_log_is_read_and_counted_in_steps(tmp_path: Path) -> None:
    """Refused requests are counted by themselves."""
    log = tmp_path / "log.csv"
    log.write_text("seconds,status,tokens\n5.000000,200,7\n15.500000,429,8\n24.999999,200,9\n")
    arrivals = read(log)
    assert arrivals[1] == Arrival(15.5, 429, 8)
    assert (steps(arrivals, 10), steps(arrivals, 10, refused=True)) == ([1, 1], [0, 1])
