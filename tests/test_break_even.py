"""When a cache of the instruction pays, and what its storage costs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.caching import BATCH_HOURS, break_even, gain_usd, storage_pico, uses_to_pay
from pipeline.models import Price, find_model
from tests.conftest import TODAY

LITE = Price(0.25, 1.5, 0.025, storage=1.0)


@pytest.mark.parametrize(
    ("model", "tier", "rate"),
    [
        ("gemini-3.1-flash-lite", "standard", 1 / 0.225),  # 4.4 uses an hour
        ("gemini-3.1-flash-lite", "flex", 1 / 0.1),  # half the input price, the same cached price
        ("gemini-3.1-flash-lite", "priority", 1 / 0.425),
        ("gemini-3.5-flash-lite", "standard", 1 / 0.27),
    ],
)
def test_break_even_of_known_models(model: str, tier: str, rate: float) -> None:
    """A cheap tier needs more uses, since the price of cached input is the same in all of them."""
    price = find_model(model, TODAY).price(TODAY, tier)
    assert price is not None
    assert break_even(price) == pytest.approx(rate)


@pytest.mark.parametrize("price", [Price(0.25, 1.5, 0.025), Price(0.25, 1.5, 0.25, storage=1.0)])
def test_without_a_price_or_a_discount_nothing_pays(price: Price) -> None:
    """What cannot be told to pay is not done."""
    assert break_even(price) is None
    assert gain_usd(price, 2_000, uses=1e6, hours=1) < 0


@given(st.integers(1_024, 10**6), st.floats(0.01, 100), st.floats(0.5, 2))
def test_the_break_even_is_where_the_gain_begins(tokens: int, hours: float, times: float) -> None:
    """Above that rate a cache gains what its filling may have cost, below it never does."""
    rate = break_even(LITE)
    assert rate is not None
    filling = tokens * LITE.input / 1e6
    gained = gain_usd(LITE, tokens, rate * hours * times, hours) + filling
    assert gained == pytest.approx(tokens * hours * (times - 1) / 1e6, abs=1e-9)


@pytest.mark.parametrize(("model", "uses"), [("gemini-3.1-flash-lite", 242), ("gemini-3.5-flash-lite", 202)])
def test_a_cache_for_the_day_of_a_batch_needs_hundreds_of_uses(model: str, uses: int) -> None:
    """It is held for hours, whatever the job needs, so that a rate tells nothing: the uses do."""
    price = find_model(model, TODAY).price(TODAY, "batch")
    assert price is not None
    assert uses_to_pay(price, BATCH_HOURS) == uses
    assert gain_usd(price, 2_000, uses, BATCH_HOURS) > 0 >= gain_usd(price, 2_000, uses - 1, BATCH_HOURS)
    assert uses_to_pay(Price(0.25, 1.5, 0.025), BATCH_HOURS) is None


def test_what_is_cached_anyway_is_not_gained() -> None:
    """Where the API finds the instruction by itself, nothing is rented."""
    assert gain_usd(LITE, 2_000, uses=1_000, hours=0.1) > 0
    assert gain_usd(LITE, 2_000, uses=1_000, hours=0.1, already=2_000) < 0


def test_storage_is_paid_by_token_and_second() -> None:
    """A million tokens for an hour are a dollar."""
    assert storage_pico(LITE, 10**6, 3_600) == 10**12
    assert storage_pico(LITE, 2_000, 1.8) == 10**6
    assert storage_pico(Price(0.25, 1.5, 0.025), 2_000, 1.8) == 0
