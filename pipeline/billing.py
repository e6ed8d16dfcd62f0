"""What replies cost: at the price of the model and the service tier that answered, on the day they did."""

from collections.abc import Callable
from datetime import date, timedelta
from functools import cache

from pipeline.flow import Reply
from pipeline.job import job_price
from pipeline.models import Model
from pipeline.rates import Rates, rates
from pipeline.sections import ModelSection

EPOCH = date(1970, 1, 1)
DAY = 86_400  # seconds, in Unix time


def billing(section: ModelSection, model: Model, *, free: bool, today: date) -> Callable[[Reply], float]:
    """Return what tells the cost of a reply in USD, its share of cache storage included; 0 if `free`.

    A reply that does not say when it came is billed as of `today`; the same reply costs the same whenever
    the journal brings it back. In a tier without a known price the standard price counts, and for a model
    without one that of `model`, which was asked, in the tier that served.
    """

    @cache
    def known(served: str, tier: str, days: int | None) -> Rates | None:
        day = today if days is None else EPOCH + timedelta(days)
        price = job_price(section, served, day, tier) or job_price(section, served, day, "standard")
        price = price or model.price(day, tier) or model.price(day, "standard")
        return None if price is None else rates(price)

    def cost(reply: Reply) -> float:
        if free:
            return 0.0
        found = known(reply.model, reply.tier, int(reply.at // DAY) if reply.at else None)
        return 0.0 if found is None else found.usd(reply.usage, reply.stored)

    return cost
