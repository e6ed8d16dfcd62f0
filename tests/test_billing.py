"""A reply costs what the model that served it does, in the tier and on the day that it did."""

from datetime import UTC, date, datetime

import pytest

from pipeline.billing import billing
from pipeline.flow import Reply, Usage
from pipeline.job import job_model
from pipeline.sections import ModelSection

TODAY = date(2026, 11, 22)
MILLION = Usage(prompt=1_000_000, total=1_000_000)


def cost(
    reply: Reply, *, asked: str = "gemini-3.1-flash-lite", free: bool = False, **section: object
) -> float:
    """Return what a reply costs a job that asks this model."""
    model = ModelSection.model_validate({"id": asked, **section})
    return billing(model, job_model(model, TODAY), free=free, today=TODAY)(reply)


def reply(model: str, tier: str = "standard", *, day: date | None = None, usage: Usage = MILLION) -> Reply:
    """Return a reply of a model on a day."""
    at = 0.0 if day is None else datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp()
    return Reply("{}", "STOP", "", usage, model, tier, 0.5, "api", at=at)


@pytest.mark.parametrize(
    ("tier", "price"), [("standard", 0.25), ("", 0.25), ("flex", 0.125), ("batch", 0.125), ("priority", 0.45)]
)
def test_the_tier_that_served_is_billed(tier: str, price: float) -> None:
    """A request costs what was delivered, whatever it had asked for."""
    assert cost(reply("gemini-3.1-flash-lite", tier)) == price


@pytest.mark.parametrize("tier", ["standard", "flex", "batch", "priority"])
def test_discounts_do_not_multiply(tier: str) -> None:
    """Cached input costs the same in every tier."""
    cached = Usage(prompt=1_000_000, cached=1_000_000, total=1_000_000)
    assert cost(reply("gemini-3.1-flash-lite", tier, usage=cached)) == 0.025


def test_a_model_that_was_routed_elsewhere_costs_what_that_does() -> None:
    """From 2026-12-01 on gemini-2.5-flash is answered by another model, and at its price, not the job's."""
    own = {"input": 0.3, "output": 2.4}
    before = reply("gemini-2.5-flash", day=date(2026, 11, 30))
    after = reply("gemini-3.5-flash-lite", day=date(2026, 12, 1), usage=Usage(output=1_000_000))
    assert cost(before, asked="gemini-2.5-flash", price=own) == 0.3
    assert cost(after, asked="gemini-2.5-flash", price=own) == 2.5


def test_the_day_of_the_reply_decides() -> None:
    """A reply of the old year keeps its price when the new year's run takes it from the journal."""
    days = [date(2026, 12, 31), date(2027, 1, 1)]
    assert [cost(reply("gemini-3.6-flash", day=day)) for day in days] == [0.75, 1.5]
    assert cost(reply("gemini-3.6-flash")) == 0.75


def test_a_tier_without_a_price_costs_the_standard_one() -> None:
    """What the table does not know is not free."""
    assert cost(reply("gemini-2.5-flash-lite", "priority")) == 0.1
    assert cost(reply("gemini-9-huge", "platinum")) == 0.25


@pytest.mark.parametrize(("tier", "price"), [("batch", 0.125), ("flex", 0.125), ("priority", 0.45)])
@pytest.mark.parametrize("served", ["gemini-9-huge", ""])
def test_a_model_that_nobody_knows_costs_what_was_asked_for_in_its_tier(
    served: str, tier: str, price: float
) -> None:
    """A reply that does not name its model came in a batch or a tier all the same."""
    assert cost(reply(served, tier)) == price


def test_the_free_tier_is_free() -> None:
    """No token is billed there."""
    assert cost(reply("gemini-3.1-flash-lite"), free=True) == 0.0
