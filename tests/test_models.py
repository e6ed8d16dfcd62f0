"""What the table of models promises: right ids, refusals with a way out, prices by day, limits by tier."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.models import (
    Price,
    PricePeriod,
    aliases,
    canonical_id,
    find_model,
    is_same_model,
    known_limits,
    known_models,
    price_of,
    settings_for,
    tier_limits,
)

TODAY = date(2026, 11, 22)
GA = "gemini-3.1-flash-lite"


def refusal(name: str, today: date = TODAY) -> JobError:
    """Return the error that the name is refused with."""
    with pytest.raises(JobError) as caught:
        find_model(name, today)
    return caught.value


@pytest.mark.parametrize("name", [GA, f"models/{GA}", "flash-lite-3.1", "models/3.1-flash-lite"])
def test_id_prefix_and_alias_find_the_same_model(name: str) -> None:
    """An id, the id as the API lists it and its short names are one model."""
    assert find_model(name, TODAY).id == canonical_id(name) == GA


def test_flash_lite_is_the_newest_ga_model_of_the_line() -> None:
    """The shortest alias stands for the Flash-Lite that was released last."""
    line = [model for model in known_models() if model.id.endswith("flash-lite") and model.status == "ga"]
    newest = max(line, key=lambda model: model.released or date.min)
    assert canonical_id("flash-lite") == newest.id


def test_every_alias_and_successor_is_in_the_table() -> None:
    """No name leads to a model that is not known."""
    ids = {model.id for model in known_models()}
    successors = {model.successor for model in known_models() if model.successor}
    assert set(aliases().values()) | successors <= ids


def test_every_fact_has_its_source_and_date() -> None:
    """Models, prices and limits each say where and when they come from."""
    for model in known_models():
        sources = [model.source, *(price.source for price in model.prices)]
        days = [model.as_of, *(price.as_of for price in model.prices)]
        sources += [limits.source for limits in model.limits.values()]
        days += [limits.as_of for limits in model.limits.values()]
        assert all(source and source != "the job file" for source in sources)
        assert None not in days


def test_retired_preview_names_its_date_and_successor() -> None:
    """The preview id that tutorials still show is refused with what to use instead."""
    error = refusal("models/gemini-3.1-flash-lite-preview")
    assert error.message == "model `gemini-3.1-flash-lite-preview` was shut down on 2026-05-25"
    assert error.hint == f"use its successor `{GA}`"


def test_retired_model_without_successor_points_to_the_newest() -> None:
    """A retired id of which no successor is stated still comes with a usable one."""
    assert refusal("gemini-2.0-flash-lite").hint == "use `gemini-3.5-flash-lite`"


def test_announced_shutdown_counts_from_its_day() -> None:
    """A model is usable up to the day before its shutdown."""
    price = PricePeriod(0.3, 2.5)
    assert find_model("gemini-2.5-flash", date(2026, 11, 30), price=price).status == "closed"
    with pytest.raises(JobError, match="shut down on 2026-12-01"):
        find_model("gemini-2.5-flash", date(2026, 12, 1), price=price)


def test_earliest_shutdown_refuses_nothing() -> None:
    """The earliest possible shutdown day is no shutdown: the API decides after it."""
    model = find_model(GA, date(2028, 1, 1))
    assert model.shutdown_earliest == date(2027, 5, 7)


def test_moving_alias_is_refused_with_the_reason() -> None:
    """Google's hot-swapped name would mix the answers of two models."""
    error = refusal("gemini-flash-lite-latest")
    assert "moves from model to model" in error.message
    assert "`gemini-3.5-flash-lite`" in error.hint


@pytest.mark.parametrize("typo", ["gemini-3.1-flash-lit", "Gemini-3.1-Flash-Lite", "gemini-31-flash-lite"])
def test_unknown_id_names_the_nearest_one(typo: str) -> None:
    """A slip of the pen is answered with the right id."""
    error = refusal(typo)
    assert error.message == f"model `{typo}` is not known"
    assert error.hint.startswith(f"did you mean `{GA}`?")


def test_unknown_id_lists_known_ones_and_the_way_around() -> None:
    """Without a near id the hint still lists ids and says that a price makes it usable."""
    hint = refusal("zzz").hint
    assert hint.startswith("known: `gemini-3.5-flash-lite`, `gemini-3.1-flash-lite`")
    assert "price = { input = 0.25, output = 1.5 }" in hint


def test_unknown_id_with_a_price_is_usable() -> None:
    """A model newer than this table can be used at a stated price."""
    model = find_model("gemini-5-flash-lite", TODAY, price=PricePeriod(1.0, 2.0))
    assert (model.id, model.status) == ("gemini-5-flash-lite", "unlisted")
    assert model.price(TODAY, "batch") == Price(0.5, 1.0, 1.0)


def test_own_price_replaces_the_known_one() -> None:
    """A price that the job states wins over the table's."""
    model = find_model(GA, TODAY, price=PricePeriod(9.0, 8.0, 7.0))
    assert model.price(TODAY, "") == Price(9.0, 8.0, 7.0)


def test_known_model_without_price_is_refused() -> None:
    """A run whose cost cannot be told does not start."""
    assert refusal("gemini-3.8-flash").message == "no price is known for model `gemini-3.8-flash`"


@pytest.mark.parametrize(
    ("served", "tier", "price"),
    [
        (GA, "standard", Price(0.25, 1.5, 0.025, 0.5, 0.05, 1.0)),
        (f"models/{GA}", "SERVICE_TIER_STANDARD", Price(0.25, 1.5, 0.025, 0.5, 0.05, 1.0)),
        (f"{GA}-001", "", Price(0.25, 1.5, 0.025, 0.5, 0.05, 1.0)),
        (f"{GA}@default", "batch", Price(0.125, 0.75, 0.025, 0.25, 0.05, 1.0)),
        ("gemini-3.5-flash-lite", "flex", Price(0.15, 1.25, 0.03, storage=1.0)),
        ("gemini-3.5-flash-lite", "priority", Price(0.54, 4.5, 0.03, storage=1.0)),
        ("gemini-2.5-flash-lite", "batch", Price(0.05, 0.2, 0.01, 0.15, 0.03, 1.0)),
        ("gemini-2.5-flash-lite", "priority", None),
        (GA, "platinum", None),
        ("gemini-9", "standard", None),
    ],
)
def test_price_is_that_of_the_served_model_and_tier(served: str, tier: str, price: Price | None) -> None:
    """What answered is billed, in the tier that it answered in; what is not known has no price."""
    assert price_of(served, TODAY, tier) == price


def test_price_changes_on_its_day() -> None:
    """A price holds through its last day, and the next one from the day after."""
    last, first = (price_of("gemini-3.6-flash", day, "") for day in (date(2026, 12, 31), date(2027, 1, 1)))
    assert (last, first) == (Price(0.75, 3.75, 0.075), Price(1.5, 7.5, 0.15))


@given(st.dates(date(2026, 1, 1), date(2030, 1, 1)))
def test_at_most_one_price_holds_on_a_day(day: date) -> None:
    """Periods of one model neither overlap nor leave a gap."""
    for model in known_models():
        covering = [period for period in model.prices if period.covers(day)]
        assert len(covering) == min(1, len(model.prices))


@pytest.mark.parametrize(
    ("served", "same"),
    [(GA, True), (f"models/{GA}-001", True), ("gemini-3.5-flash-lite", False), ("gemini-9", True)],
)
def test_another_known_model_is_told_apart(served: str, same: bool) -> None:
    """Only a served id that the table knows as another model counts as another one."""
    assert is_same_model(served, "flash-lite-3.1") is same


@pytest.mark.parametrize(
    ("tier", "name", "numbers"),
    [
        ("free", GA, (15, 250_000, 500)),
        ("1", GA, (4_000, 4_000_000, 150_000)),
        ("free", "gemini-2.5-flash-lite", (None, None, 20)),
    ],
)
def test_tier_limits_are_those_of_the_model(
    tier: str, name: str, numbers: tuple[int | None, int | None, int | None]
) -> None:
    """Each model has its own numbers in a tier, and some are not known."""
    limits = tier_limits(tier, find_model(name, TODAY))
    assert (limits.rpm, limits.tpm, limits.rpd) == numbers


def test_tier_carries_its_spend_and_batch_limits() -> None:
    """What holds for a whole tier is on the limits of each model; the free tier has no Batch API."""
    model = find_model(GA, TODAY)
    assert tier_limits("1", model).spend_10min_usd == 10
    assert known_limits("3", model).batch_tokens == 1_000_000_000
    assert tier_limits("free", model).batch_tokens == 0


@pytest.mark.parametrize("tier", ["2", "3"])
def test_unknown_limits_ask_for_the_users_own(tier: str) -> None:
    """No number is invented for tiers of which none was seen."""
    with pytest.raises(JobError, match=f"in tier `{tier}` are not known") as caught:
        tier_limits(tier, find_model(GA, TODAY))
    assert "https://aistudio.google.com/rate-limit into [limits]" in caught.value.hint


@pytest.mark.parametrize("day", [TODAY, TODAY + timedelta(days=100)])
def test_every_priced_model_is_found(day: date) -> None:
    """Each model with a price that is not shut down can be used."""
    for model in known_models():
        if model.prices:
            assert find_model(model.id, day) == model


def test_thinking_on_a_budget_model_becomes_tokens() -> None:
    """The 2.5 family takes a budget, of which 0 is off and never a level."""
    model = find_model("gemini-2.5-flash-lite", TODAY)
    settings = settings_for(
        model, seed=0, thinking="minimal", max_output_tokens=None, temperature=None, safety={}
    )
    assert (settings.thinking_level, settings.thinking_budget) == (None, 0)


def test_level_that_the_model_refuses_is_refused() -> None:
    """`minimal` is an error on 3.8 Flash, so it is not sent."""
    model = find_model("gemini-3.8-flash", TODAY, price=PricePeriod(1, 2))
    with pytest.raises(JobError, match="no thinking level `minimal`") as caught:
        settings_for(model, seed=0, thinking="minimal", max_output_tokens=None, temperature=None, safety={})
    assert caught.value.hint == "use one of `low`, `medium`, `high`, or leave `model.thinking` out"
