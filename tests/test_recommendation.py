"""Which way of asking is advised, in which words."""

from dataclasses import replace

import pytest

from pipeline.backlog import Scope
from pipeline.estimate import Service, Span, Way
from pipeline.forecast import Calibrating, Forecast
from pipeline.models import Limits, Price
from pipeline.recommendation import foot, recommended
from pipeline.usage import Today

TIER = Service("online", "tier 1", Price(0.25, 1.5, 0.025), Limits(rpd=500), Today(480, 3_600.0))
TOKENS = Span(1_000, 1_000, 1_000)


def way(usd: float, seconds: float, *, rows: int = 1, service: Service = TIER, held_by: str = "") -> Way:
    """Return a way that costs and takes this."""
    return Way(rows, service, 300 // rows, TOKENS, TOKENS, Span(usd, usd, usd), seconds, held_by)


def forecast(*ways: Way) -> Forecast:
    """Return the estimate of 300 rows, to be asked in one of these ways."""
    return Forecast(
        job="labels",
        model="gemini-3.1-flash-lite",
        limited=False,
        scope=Scope(300, 0, 0, 300, 0, 300, 0, 0, 0, 0.0),
        sampled=300,
        counted=100,
        uncounted="",
        basis="as 100 answers to this job took",
        guessed=False,
        emulated=False,
        unbatched="",
        max_cost=None,
        auto="",
        ways=ways,
        calibration=Calibrating(828, Span(0.2, 0.2, 0.2)),
    )


@pytest.mark.parametrize(
    ("usd", "seconds", "said"),
    [
        (0.5, 900, "15 requests instead of 300, $0.5000 instead of $1.00, 15 min instead of 33 min;"),
        (
            1.5,
            900,
            "15 requests instead of 300, 15 min instead of 33 min, but more of this: $1.50 instead of",
        ),
        (1.5, 1_990, None),
        (0.95, 1_900, None),
    ],
)
def test_packs_are_advised_where_they_take_less(usd: float, seconds: float, said: str | None) -> None:
    """Of money or of time, and what they take more of is called more."""
    words = "\n".join(recommended(forecast(way(1.0, 2_000), way(usd, seconds, rows=20))))
    assert ("--pack 20" in words) is (said is not None)
    assert said is None or said in words


def test_seconds_are_not_worth_money() -> None:
    """A job that takes a few seconds needs no packs that cost more."""
    assert not list(recommended(forecast(way(0.09, 4), way(0.1, 1, rows=20))))


def test_all_that_cost_the_least_are_named() -> None:
    """Flex and batch cost the same; one of them is done a day earlier."""
    flex, batch = (replace(TIER, name=name) for name in ("flex", "batch"))
    found = forecast(way(1.0, 50), way(0.5, 900, service=flex), way(0.5, 86_400, service=batch))
    cheapest = "cheapest: 1 row, tier 1, flex (up to 15 min) or 1 row, tier 1, batch (up to 1 day), $0.5000"
    assert cheapest in list(recommended(found))


def test_what_was_sent_today_is_named_where_it_holds_up() -> None:
    """Whichever tier it was sent in."""
    said = "what holds it up: requests a day, 500 of them, and 480 were sent today"
    assert said in foot(forecast(way(1.0, 20_000, held_by="rpd")))
    assert "today" not in "\n".join(foot(forecast(way(1.0, 20_000, held_by="rpm"))))
