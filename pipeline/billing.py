"""What replies cost: at the price of the model and the service tier that answered, on the day they did."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import cache

from pipeline.flow import Reply
from pipeline.job import job_price
from pipeline.models import Model, Price
from pipeline.sections import ModelSection
from pipeline.usage import cost_usd


def billing(section: ModelSection, model: Model, *, free: bool, today: date) -> Callable[[Reply], float]:
    """Return what tells the cost of a reply in USD, its share of cache storage included; 0 if `free`.

    A reply that does not say when it came is billed as of `today`; the same reply costs the same whenever
    the journal brings it back. In a tier without a known price the standard price counts, and for a model
    without one that of `model`, which was asked.
    """

    @cache
    def known(served: str, tier: str, day: date) -> Price | None:
        priced = job_price(section, served, day, tier) or job_price(section, served, day, "standard")
        return priced or model.price(day, "standard")

    def cost(reply: Reply) -> float:
        day = datetime.fromtimestamp(reply.at, UTC).date() if reply.at else today
        price = known(reply.model, reply.tier, day)
        return 0.0 if price is None else cost_usd(reply.usage, price, free=free, stored=reply.stored)

    return cost
