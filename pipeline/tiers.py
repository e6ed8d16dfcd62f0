"""Service tiers of the API: what is asked for, how long it may take, and what was delivered instead."""

from collections.abc import Mapping
from typing import Final

from pipeline.errors import JobError
from pipeline.models import Model
from pipeline.sections import ModelSection

STANDARD: Final = "standard"
FLEX: Final = "flex"

OTHERWISE = "{other:,} of {all:,} replies were served in another tier than `{asked}` ({which}), and cost that"

SHED = (
    "{requests} in the service tier `flex` met a 503: it is served where there is room, so this took "
    "longer{rows}; `--service-tier standard` is served first, at twice the price"
)


def check_tier(section: ModelSection, model: Model, *, vertex: bool, free: bool = False) -> None:
    """Raise JobError where the tier that `[model]` asks for does not exist or has no known price.

    `free` is the usage tier: Google has announced flex and priority for paid ones.
    """
    asked = section.service_tier
    if asked == STANDARD:
        return
    if vertex:
        raise JobError(
            f"`model.service_tier` is `{asked}`, and Vertex AI has no such field",
            "leave it out: there it is a matter of the project's throughput",
        )
    if free:
        raise JobError(
            f"service tier `{asked}` is not offered in usage tier `free`",
            "say which paid tier the project has (`--tier 1`), or leave `service_tier` out",
        )
    if not any(period.at(asked) for period in model.prices):
        raise JobError(
            f"no price is known for model `{model.id}` in service tier `{asked}`",
            "leave `service_tier` out, or give `priority = 1.8` in `price` under [model], a factor",
        )


def patient(section: ModelSection, model: Model) -> ModelSection:
    """Return `[model]` for what a job asks one by one although it asks by batches: at half the price, too.

    A tier that the job names stays, and so does the standard one where the price of `flex` is not known.
    """
    if "service_tier" in section.model_fields_set or not any(period.at(FLEX) for period in model.prices):
        return section
    return section.model_copy(update={"service_tier": FLEX})


def wire_tier(asked: str) -> str | None:
    """Return what is sent as `serviceTier`: nothing for the standard tier, which needs no asking."""
    return None if asked == STANDARD else asked


def shed(asked: str, overloaded: int, failed: int) -> list[str]:
    """Return a note where requests in `flex` were turned away; `failed` rows were given up for that."""
    if asked != FLEX or not overloaded:
        return []
    requests = f"{overloaded:,} request{'s' * (overloaded != 1)}"
    rows = f", and {failed:,} row{'s' * (failed != 1)} failed" if failed else ""
    return [SHED.format(requests=requests, rows=rows)]


def served_otherwise(asked: str, served: Mapping[str, int]) -> list[str]:
    """Return a note where replies came in other tiers than asked for; `served` counts them by tier."""
    others = {tier or STANDARD: 0 for tier in served if (tier or STANDARD) != asked}
    for tier, replies in served.items():
        if (tier or STANDARD) in others:
            others[tier or STANDARD] += replies
    if not others:
        return []
    which = ", ".join(f"{replies:,} `{tier}`" for tier, replies in sorted(others.items()))
    found = OTHERWISE.format(other=sum(others.values()), all=sum(served.values()), asked=asked, which=which)
    return [found]
