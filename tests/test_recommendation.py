"""Which way of asking is advised, in which words."""

from dataclasses import replace

import pytest

from pipeline.backlog import Scope
from pipeline.estimate import Service, Span, Way
from pipeline.forecast import Calibrating, Forecast
from pipeline.models import Limits, Price
from pipeline.recommendation import cells, foot, recommended
from pipeline.reuse import Saving
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
            "15 requests instead of 300, 15 min instead of 33 min, but dearer: $1.50 instead of",
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


def test_packs_that_cost_more_are_not_recommended() -> None:
    """Neither those that the job has, which stand first, nor others that save time."""
    (said,) = recommended(forecast(way(1.2, 20, rows=20), way(1.1, 30)))
    assert said == (
        "packs cost more here: `--pack 1` would take $1.10 instead of $1.20, but more: 300 requests instead "
        "of 15 and slower: 30 s instead of 20 s"
    )
    assert not list(recommended(forecast(way(1.1, 20, rows=20), way(1.1, 30))))
    flex = way(0.5, 900, service=replace(TIER, name="flex"))
    told = list(recommended(forecast(way(1.0, 2_000), way(1.5, 900, rows=20), flex)))
    assert [one.split(":")[0] for one in told] == ["cheapest", "faster"]
    assert "calibrate" not in "".join(told)


def test_a_calibration_that_takes_more_than_the_job_has_a_way_out() -> None:
    """A smaller sample, as long as one can tell anything."""
    found = forecast(way(0.1, 2_000), way(0.05, 900, rows=20))
    for least, said in ((73, "more than this job takes; `--sample 73` takes less"), (0, "this job takes")):
        took = replace(found.calibration, least=least)
        assert said in (words := "\n".join(recommended(replace(found, calibration=took))))
        assert ("--sample" in words) is (least > 0)


def test_what_packs_take_longer_is_called_slower() -> None:
    """Money that is saved and time that is lost each have their own word."""
    words = "\n".join(recommended(forecast(way(1.0, 1_990), way(0.5, 3_000, rows=20))))
    assert "$0.5000 instead of $1.00, but slower: 50 min instead of 33 min;" in words


def test_a_note_on_the_cache_names_the_ends_of_the_table() -> None:
    """Whatever tokens may be off by is in both."""
    wide, caching = Span(1.0, 0.6, 1.5), Saving(expected=0.2, most=0.3, least=0.1)
    own = replace(way(1.0, 50), usd=wide, saving=caching)
    said = "\n".join(foot(forecast(own)))
    assert cells(own)[4] == "$0.60 to $1.50"
    assert "all do at the lower end of the cost, $0.60, the fewest at the upper one, $1.50" in said
    assert "flex may answer late" not in said


def test_flex_that_may_cost_more_than_online_is_explained() -> None:
    """Its requests may all have left before there is a cache."""
    online = replace(way(1.0, 50), usd=Span(1.0, 0.6, 1.5))
    flex = replace(
        online, service=replace(TIER, name="flex"), usd=Span(1.2, 0.3, 2.0), saving=Saving(most=0.9)
    )
    assert "flex may answer late" in "\n".join(foot(forecast(online, flex)))
    cheap = replace(flex, usd=Span(0.5, 0.3, 0.8))
    assert "flex may answer late" not in "\n".join(foot(forecast(online, cheap)))


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
