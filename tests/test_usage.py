"""Costs are exact to the picodollar, and the counters of a run add up."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.flow import Failure, FailureKind, Outcome, Spent, Unsent, Usage
from pipeline.models import Limits, Price
from pipeline.rates import cost_usd
from pipeline.usage import Tally, Today

LITE = Price(0.25, 1.5, 0.025)
NO_LIMITS = Limits()
FRESH = Today(sent=0, resets_in=3_600.0)
NOTHING = Usage()
BUSY = Failure(FailureKind.OVERLOADED, "busy")


class Answer(BaseModel):
    """An answer of no interest."""


def outcome(usage: Usage = NOTHING, *, kind: FailureKind | None = None, attempts: int = 1) -> Outcome:
    """Return a finished row that used these tokens, failed if a kind is given."""
    spent = Spent(usage=usage, cost_usd=cost_usd(usage, LITE), attempts=attempts)
    return Outcome(b"k", b"d", Failure(kind, "no answer") if kind else Answer(), spent)


def usages() -> st.SearchStrategy[Usage]:
    """Draw the tokens of one reply."""
    count = st.integers(0, 2_000_000)
    return st.tuples(count, count, count, count).map(
        lambda drawn: Usage(
            max(drawn[:2]), min(drawn[:2]), drawn[2], drawn[3], max(drawn[:2]) + sum(drawn[2:])
        )
    )


def test_cost_counts_each_kind_of_token_at_its_price() -> None:
    """A million of each: uncached input, cached input, thoughts and output."""
    usage = Usage(prompt=2_000_000, cached=1_000_000, thoughts=1_000_000, output=1_000_000)
    assert cost_usd(usage, LITE) == 0.25 + 0.025 + 1.5 + 1.5


def test_audio_costs_what_audio_does() -> None:
    """A million of each kind of input: text, cached text, audio and cached audio."""
    price = Price(0.25, 1.5, 0.025, audio=0.5, cached_audio=0.05)
    usage = Usage(prompt=4_000_000, cached=2_000_000, audio=2_000_000, cached_audio=1_000_000)
    assert cost_usd(usage, price) == 0.825
    assert cost_usd(usage, LITE) == 0.55


def test_storage_of_a_cache_is_part_of_the_cost() -> None:
    """What a reply has to bear comes on top."""
    usage = Usage(prompt=4)
    assert cost_usd(usage, LITE, stored=7) == (4 * 250_000 + 7) / 10**12


@given(st.builds(Usage, *[st.integers(0, 50)] * 7))
def test_the_kinds_of_a_prompt_are_the_prompt(usage: Usage) -> None:
    """Whatever the API counts, no kind is negative and together they are all there is."""
    text, cached, audio, cached_audio = usage.kinds
    assert min(usage.kinds) >= 0
    assert text + cached + audio + cached_audio == usage.prompt
    assert cached + cached_audio == min(usage.cached, usage.prompt)
    assert audio + cached_audio == min(usage.audio, usage.prompt)


def test_more_cached_than_sent_is_never_negative() -> None:
    """A reply whose cached count exceeds its prompt is not paid back."""
    assert cost_usd(Usage(prompt=10, cached=1_000_000), LITE) == 10 * 0.025 / 10**6


@given(usages())
def test_cost_is_the_nearest_number_to_the_exact_one(usage: Usage) -> None:
    """No rounding but that of the final number."""
    exact = (
        (usage.prompt - usage.cached) * Fraction("0.25")
        + usage.cached * Fraction("0.025")
        + (usage.output + usage.thoughts) * Fraction("1.5")
    ) / 10**6
    assert cost_usd(usage, LITE) == float(exact)


@given(st.lists(usages(), max_size=60))
def test_costs_of_rows_add_up_to_the_cost_of_the_run(rows: list[Usage]) -> None:
    """The sum over rows is the price of all their tokens, to the last digit."""
    tally = Tally(total=len(rows), started=0.0)
    for usage in rows:
        tally.replied(usage, cost_usd(usage, LITE))
    assert tally.usage == sum(rows, NOTHING)
    assert tally.cost_usd == cost_usd(tally.usage, LITE)


@given(st.lists(st.sampled_from([None, *FailureKind]), max_size=40), st.integers(0, 10))
def test_every_row_is_counted_once(kinds: list[FailureKind | None], earlier: int) -> None:
    """Done, failed, earlier and left rows are all rows, and failures are counted by kind."""
    tally = Tally(total=100, started=0.0, earlier=earlier)
    for kind in kinds:
        tally.add(outcome(kind=kind))
    assert tally.done + tally.failed + tally.earlier + tally.left == 100
    assert tally.failures.total() == tally.failed
    assert tally.done == kinds.count(None)


def test_requests_are_counted_apart_from_rows() -> None:
    """A request on its way counts before its row has ended."""
    tally = Tally(total=1, started=0.0)
    tally.sent()
    tally.sent()
    assert (tally.requests, tally.finished) == (2, 0)


def test_a_request_that_never_left_is_none() -> None:
    """It is counted apart, unlike one that met a busy service."""
    tally = Tally(total=1, started=0.0)
    for failure in (BUSY, Failure(FailureKind.CONNECTION, "refused", unsent=Unsent.REFUSED)):
        tally.sent()
        tally.refused(failure)
    assert (tally.requests, tally.unsent, tally.departed) == (2, 1, 1)


def test_a_request_without_an_answer_may_be_billed() -> None:
    """One that the API has refused is not, nor is one that never left."""
    tally = Tally(total=1, started=0.0)
    for kind, why in [
        (FailureKind.TIMEOUT, None),
        (FailureKind.CONNECTION, None),
        (FailureKind.CONNECTION, Unsent.REFUSED),
        (FailureKind.SERVER, None),
    ]:
        tally.refused(Failure(kind, "", unsent=why))
    assert tally.unheard == 2


def test_rates_are_of_this_run_since_its_start() -> None:
    """Rows of earlier runs do not make this one look fast."""
    tally = Tally(total=100, started=1_000.0, earlier=50)
    for _ in range(10):
        tally.sent()
        tally.replied(Usage(prompt=30), 0.0)
        tally.add(outcome())
    assert tally.rows_per_minute(1_020.0) == 30
    assert tally.requests_in_minute(1_020.0) == 10  # what the last minute holds, not more than there was
    assert tally.tokens_in_minute(1_020.0) == 300


def test_rows_from_the_journal_do_not_make_a_run_look_fast() -> None:
    """Neither the rate nor the time left counts rows that took no request."""
    tally = Tally(total=1_000, started=0.0)
    for _ in range(500):
        tally.add(replace(outcome(), asked=False))
    for _ in range(20):
        tally.replied(NOTHING, 0.0)
        tally.add(outcome())
    assert tally.rows_per_minute(20.0) == 60
    assert tally.seconds_left(20.0, Limits(), Today(0, 0.0)) == 480  # at that rate


def test_rates_follow_the_last_minute() -> None:
    """A slow start or a pause is forgotten after a minute."""
    tally = Tally(total=1_000, started=0.0)
    for second in range(301):
        tally.mark(float(second))
        if second >= 200:
            tally.add(outcome())
    assert tally.rows_per_minute(300.0) == pytest.approx(60, rel=0.05)


@pytest.mark.parametrize(("now", "rate"), [(5.0, None), (14.9, None), (15.0, 6.0)])
def test_a_few_seconds_make_no_rate(now: float, rate: float | None) -> None:
    """What has ended in them says little; no time at all divides nothing by zero."""
    tally = Tally(total=1, started=5.0)
    tally.sent()
    tally.add(outcome())
    assert (tally.rows_per_minute(now), tally.requests_in_minute(now)) == (rate, 1.0)


def test_a_rate_and_the_time_left_agree_in_the_first_minute() -> None:
    """Both go from when the first row ended: waiting for the first reply is no part of them."""
    tally = Tally(total=1_000, started=0.0)
    for second in range(41):
        tally.mark(float(second))
        if second >= 20:
            tally.replied(NOTHING, 0.0)
            tally.add(outcome())
    rate, left = tally.rows_per_minute(40.0), tally.seconds_left(40.0, NO_LIMITS, FRESH)
    assert rate is not None
    assert left == pytest.approx(tally.left / rate * 60)


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        (NO_LIMITS, 90.0),  # 90 rows left at one a second
        (Limits(rpm=6_000), 90.0),  # the limit is wider than the measured rate
        (Limits(rpm=60), 180.0),  # two requests for each row
        (Limits(tpm=600), 900.0),  # 100 input tokens for each row
        (Limits(rpd=200), 90.0),  # all 200 requests fit into today
        (Limits(rpd=199), 3_600.0),  # one has to wait for the reset
        (Limits(rpm=60, tpm=600, rpd=50), 3_600 + 2 * 86_400.0),  # 30 today, then 50 a day
    ],
)
def test_time_left_is_the_longest_of_all_reasons(limits: Limits, seconds: float) -> None:
    """The slowest of rate, rpm, tpm and rpd decides."""
    tally = Tally(total=100, started=0.0)
    for _ in range(10):
        tally.sent()
        tally.refused(BUSY)
        tally.sent()
        tally.replied(Usage(prompt=100), 0.0)
        tally.add(outcome())
    assert tally.seconds_left(10.0, limits, Today(sent=20, resets_in=3_600.0)) == pytest.approx(seconds)


@pytest.mark.parametrize(("rows", "seconds"), [(0, 30.0), (1, 30.0), (9, 30.0), (10, 9.0)])
def test_time_left_is_unknown_until_enough_is_answered(rows: int, seconds: float) -> None:
    """A few replies, or those of a few seconds, make no estimate, whatever the limits."""
    tally = Tally(total=1_000, started=0.0)
    for _ in range(rows):
        tally.replied(Usage(prompt=100), 0.0)
        tally.add(outcome())
    assert tally.seconds_left(seconds, Limits(rpm=15, tpm=100), FRESH) is None


def test_time_left_does_not_count_what_is_in_flight_for_the_rows_that_have_ended() -> None:
    """Of 110 requests a hundred are in flight: that is no tenfold need of requests."""
    tally = Tally(total=110, started=0.0)
    for _ in range(110):
        tally.sent()
    for _ in range(10):
        tally.replied(NOTHING, 0.0)
        tally.add(outcome())
    assert tally.seconds_left(10.0, Limits(rpm=60), FRESH) == 100.0


def test_time_left_goes_on_where_a_minute_brought_nothing() -> None:
    """A run that waits goes by its rate so far; before its first answer it had none."""
    tally = Tally(total=1_000, started=0.0)
    for second in range(301):
        tally.mark(float(second))
        if 100 <= second < 200:
            tally.replied(NOTHING, 0.0)
            tally.add(outcome())
    assert tally.rows_per_minute(300.0) == 0.0
    assert tally.seconds_left(300.0, NO_LIMITS, FRESH) == 900 * 2


def test_an_outage_is_no_part_of_the_rate() -> None:
    """After minutes without an answer there is no estimate until a fresh rate is measured, then that one."""
    tally = Tally(total=1_000, started=0.0)
    said = []
    for second in range(401):
        tally.mark(float(second))
        if 100 <= second < 300:
            tally.refused(BUSY)
        else:
            tally.replied(NOTHING, 0.0)
            tally.add(outcome())
        left = tally.seconds_left(float(second), NO_LIMITS, FRESH)
        said.append(None if left is None else left / tally.left)
    assert said[130:305] == [None] * 175
    assert said[315:] == pytest.approx([1.0] * 86, rel=0.1)


def test_a_refusal_now_and_then_is_no_outage() -> None:
    """Where answers go on to come, what is refused between them takes no estimate away."""
    tally = Tally(total=1_000, started=0.0)
    for second in range(200):
        tally.mark(float(second))
        tally.refused(BUSY)
        if second % 10 == 0:
            tally.replied(NOTHING, 0.0)
            tally.add(outcome())
            tally.refused(BUSY)
    assert tally.seconds_left(200.0, NO_LIMITS, FRESH) == pytest.approx(9_800, rel=0.1)


def test_no_row_left_takes_no_time() -> None:
    """A finished run has nothing to wait for, whatever the limits."""
    assert Tally(total=3, started=0.0, earlier=3).seconds_left(0.0, Limits(rpd=1), FRESH) == 0.0
