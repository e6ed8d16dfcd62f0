"""The arithmetic of an estimate: requests, tokens, money and time of each way of asking."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example as also
from hypothesis import given
from hypothesis import strategies as st

from pipeline.answer import example
from pipeline.estimate import Answers, Load, Service, Sizes, Span, load, seconds_until_done, way
from pipeline.models import Limits, Price
from pipeline.packing import Budget
from pipeline.prompts import group_sizes, groups_of, rows_at, sampled
from pipeline.usage import Need, Today

FRESH = Today(sent=0, resets_in=3_600.0)
DAY = 86_400.0
WIDE = Budget(rows=20, prompt_tokens=8_000, output_tokens=8_000)
ANSWERS = Answers(Span(30, 20, 40), Span(40, 30, 50), seconds=1.0)


def service(name: str = "online", limits: Limits = Limits(), price: Price | None = None) -> Service:  # noqa: B008
    """Return a service without limits."""
    return Service(name, "tier 1", price, limits, FRESH)


@pytest.mark.parametrize(
    ("need", "limits", "seconds", "held_by"),
    [
        (Need(500), Limits(rpm=15), 2_000.0, "rpm"),
        (Need(500, tokens=1e6), Limits(rpm=15, tpm=10_000), 6_000.0, "tpm"),
        (Need(10, usd=30.0), Limits(rpm=15, spend_10min_usd=10.0), 1_800.0, "spend_10min_usd"),
        (Need(500), Limits(rpd=500), 0.0, ""),
        (Need(510), Limits(rpm=10, rpd=500), 3_600.0 + 60.0, "rpd"),
        (Need(1_600), Limits(rpm=10, rpd=500), 3_600.0 + 2 * DAY + 600.0, "rpd"),
        (Need(1_500), Limits(rpm=10, rpd=500), 3_600.0 + 1 * DAY + 3_000.0, "rpd"),
    ],
)
def test_time_is_that_of_the_limit_that_is_reached_first(
    need: Need, limits: Limits, seconds: float, held_by: str
) -> None:
    """Days end at the reset, and the last of them goes on only as long as its requests take."""
    found, by = seconds_until_done(need, limits, FRESH)
    assert (round(found, 6), by) == (seconds, held_by)


@given(st.integers(1, 10_000), st.integers(1, 100), st.integers(1, 2_000), st.integers(0, 2_000))
@also(requests=62, rpm=1, rpd=62, sent=0)
@also(requests=1_442, rpm=1, rpd=1_442, sent=1_442)
def test_more_requests_never_take_less_time(requests: int, rpm: int, rpd: int, sent: int) -> None:
    """Time grows with the requests, whatever the limits and whatever was sent today."""
    limits, today = Limits(rpm=rpm, rpd=rpd), Today(sent, 3_600.0)
    one, _ = seconds_until_done(Need(requests), limits, today)
    more, _ = seconds_until_done(Need(requests + 1), limits, today)
    assert more >= one - 1e-6


def test_packs_share_the_instructions() -> None:
    """A hundred rows are a hundred instructions alone, and five in packs of twenty."""
    sizes = Sizes(1_000, 1_050, 10, [80.0] * 100, error=0.0, doubt=0.0)
    price = Price(1.0, 10.0, 0.1)
    single = load({1: 100}, sizes.rows, 30, Budget(1, 8_000, 8_000))
    alone = way(1, service(price=price), single, sizes, ANSWERS)
    packed = way(20, service(price=price), load({20: 5}, sizes.rows, 30, WIDE), sizes, ANSWERS)
    assert (alone.requests, packed.requests) == (100, 5)
    assert alone.tokens_in.expected == 100 * 1_080
    assert packed.tokens_in.expected == 5 * 1_050 + 100 * 90
    assert (alone.tokens_out.expected, packed.tokens_out.high) == (3_000, 5_000)
    assert alone.usd.expected == pytest.approx(0.108 + 0.03)
    assert packed.usd.low == pytest.approx(0.01425 + 0.03)


def test_budgets_split_groups_as_a_run_does() -> None:
    """Twenty rows of 1,000 tokens are 2.5 packs; rows that fit nowhere together are asked alone."""
    assert load({20: 3}, [1_000.0] * 60, 30, WIDE) == Load(packs=7.5, packed_rows=60, alone=0)
    assert load({20: 1}, [80.0] * 20, 7_000, WIDE) == Load(packs=0, packed_rows=0, alone=20)


def test_a_group_larger_than_the_sample_is_still_packed() -> None:
    """A job of a few rows, most of them without a sample: the sample stands for them."""
    assert load({20: 1}, [80.0] * 3, 30, WIDE).requests == pytest.approx(1)


def test_a_batch_waits_for_the_tokens_before_it() -> None:
    """What exceeds the enqueued tokens of the tier waits for another day; nothing to do takes no time."""
    sizes = Sizes(0, 0, 0, [100.0], error=0.0, doubt=0.0)
    batch = service("batch", Limits(rpd=1, batch_tokens=1_000_000))
    assert way(1, batch, Load(0, 0, 10_000), sizes, ANSWERS).seconds == DAY
    assert way(1, batch, Load(0, 0, 10_001), sizes, ANSWERS).seconds == 2 * DAY
    assert way(1, batch, Load(0, 0, 0), sizes, ANSWERS).seconds == 0


@pytest.mark.parametrize(
    ("requests", "least", "cached"),
    [(242, 1_024, True), (241, 1_024, False), (900, 2_048, False), (900, None, False)],
)
def test_a_batch_reads_a_long_instruction_from_a_cache(
    requests: int, least: int | None, cached: bool
) -> None:
    """Where that pays for a day: the instruction at the cached price, and its storage for that day."""
    sizes = Sizes(2_000, 2_000, 0, [100.0], error=0.0, doubt=0.0)
    batch = replace(service("batch", price=Price(0.125, 0.75, 0.025, storage=1.0)), cache_tokens=least)
    found = way(1, batch, Load(0, 0, requests), sizes, ANSWERS)
    fresh = (requests * 2_100 * 0.125 + requests * 30 * 0.75) / 1e6
    saved = 2_000 * (requests * 0.1 - 24) / 1e6 if cached else 0.0
    assert found.usd.expected == pytest.approx(fresh - saved)
    assert found.saving.tokens == (2_000 * requests if cached else 0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=3_000), st.integers(1, 30))
def test_groups_hold_every_prompt_once(rows: list[tuple[bool, bool]], group: int) -> None:
    """Groups have no more prompts than rows in a request, and all of them together each prompt."""
    pending = np.array([one for one, _ in rows], np.bool_)
    asked = np.array([one and other for one, other in rows], np.bool_)
    sizes: Counter[int] = group_sizes(pending, asked, group)
    assert sum(size * count for size, count in sizes.items()) == asked.sum()
    assert all(1 <= size <= group for size in sizes)


def test_groups_go_on_where_a_block_of_rows_ends() -> None:
    """A thousand rows are no multiple of 30: a run makes 100 packs of 3,000 rows, and so does an estimate."""
    every = np.ones(3_000, np.bool_)
    assert group_sizes(every, every, 30) == {30: 100}


def test_packs_are_filled_up_past_rows_that_are_not_asked() -> None:
    """Online as far as a pack reaches, which is ten times its rows; in batches whatever stands between."""
    pending = np.ones(100, np.bool_)
    assert group_sizes(pending, np.arange(100) % 2 == 0, 20) == {20: 2, 10: 1}
    assert group_sizes(np.ones(10_000, np.bool_), np.arange(10_000) % 100 == 0, 20) == {2: 50}
    assert groups_of(50, 20) == {20: 2, 10: 1}
    assert groups_of(0, 20) == {}


@given(st.lists(st.booleans(), max_size=500), st.integers(1, 50))
def test_a_sample_is_of_the_rows_in_question(rows: list[bool], size: int) -> None:
    """It has the size that was wanted, or all there are, and only rows of the mask."""
    mask = np.array(rows, np.bool_)
    chosen = sampled(mask, size)
    assert chosen.sum() == min(size, mask.sum())
    assert not (chosen & ~mask).any()


@given(st.lists(st.booleans(), max_size=500), st.data())
def test_rows_are_found_by_their_place_in_a_mask(rows: list[bool], data: st.DataObject) -> None:
    """As numpy has them, which holds all of them at once."""
    mask = np.array(rows, np.bool_)
    chosen = data.draw(st.lists(st.booleans(), min_size=sum(rows), max_size=sum(rows)))
    places = np.flatnonzero(np.array(chosen, np.bool_))
    assert rows_at(mask, places).tolist() == np.flatnonzero(mask)[places].tolist()


def test_a_sample_is_drawn_from_the_whole_input() -> None:
    """Not the first rows: inputs are sorted more often than not."""
    chosen = np.flatnonzero(sampled(np.ones(1_000_000, np.bool_), 2_000))
    assert abs(chosen.mean() / 1_000_000 - 0.5) < 0.03
    assert chosen.max() > 990_000


def test_an_example_has_every_field_of_the_schema() -> None:
    """Enums, lists, objects and what may be null are filled in with something of their kind."""
    schema = {
        "type": "object",
        "properties": {
            "label": {"type": "string", "enum": ["a", "four", "seventh"]},
            "when": {"type": ["string", "null"], "description": "ISO 8601 date"},
            "lines": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
            "either": {"anyOf": [{"type": "null"}, {"type": "boolean"}]},
        },
    }
    assert example(schema) == (
        '{"label": "four", "when": "2026-11-28", "lines": [{"n": 12}, {"n": 12}, {"n": 12}], "either": true}'
    )
