"""Who could answer a job, at what price and under which limits: what a job asks for, and what it might."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from pipeline.estimate import MOST_IN_FLIGHT, Service
from pipeline.models import Limits, Price, known_limits
from pipeline.plan import Plan
from pipeline.quota import day_reset
from pipeline.store.batches import open_batches_of
from pipeline.tokens import CACHE_TOKENS
from pipeline.usage import Today

COMPARED = "1"  # the tier that a job on the free tier is compared with
UNBATCHED = f"the free tier offers neither batch nor flex: both are those of tier {COMPARED}"
VERTEX = "batch and flex of Vertex AI are not estimated"


@dataclass(frozen=True, slots=True)
class Asking:
    """Who would answer: on the free tier or not, on Vertex AI or not, after how many requests of today."""

    free: bool
    vertex: bool
    sent_today: int
    now: float  # Unix time


def services(plan: Plan, asking: Asking) -> tuple[list[Service], str]:
    """Return who could answer, first who does as the job stands, and why no batch is among them."""
    online = _online(plan, asking)
    if asking.vertex:
        return [online], VERTEX
    paid = online
    if asking.free:
        price, today = _price(plan, asking, "standard"), replace(online.today, sent=0)
        paid = replace(online, label=f"tier {COMPARED}", price=price, limits=_compared(plan), today=today)
    found = [online, *([paid] if asking.free else []), *_others(plan, asking, paid)]
    own = _own(plan)
    found.sort(key=lambda service: service.name != own)  # the others stay in their order
    return found, UNBATCHED if asking.free else ""


def _online(plan: Plan, asking: Asking) -> Service:
    """Return the standard service on the tier at hand."""
    checked = plan.checked
    told = checked.loaded.job.limits
    return Service(
        "online",
        "Vertex AI" if asking.vertex else "free tier" if asking.free else f"tier {told.tier}",
        None if asking.free else _price(plan, asking, "standard"),
        checked.limits,
        Today(asking.sent_today, day_reset(asking.now).timestamp() - asking.now),
        told.margin,
        told.concurrency or MOST_IN_FLIGHT,
        checked.model.cache_tokens or CACHE_TOKENS,
        _caches(plan, asking, "online"),
    )


def _others(plan: Plan, asking: Asking, paid: Service) -> Iterator[Service]:
    """Yield the other services of a paid tier, priority only where the job asks for it."""
    for name in ("flex", "batch", "priority"):
        price = _price(plan, asking, name)
        offered = paid.limits.batch_tokens != 0 if name == "batch" else name in ("flex", _own(plan))
        if price is not None and offered:
            yield replace(paid, name=name, price=price, caches=_caches(plan, asking, name))


def _price(plan: Plan, asking: Asking, name: str) -> Price | None:
    return plan.checked.model.price(datetime.fromtimestamp(asking.now, UTC).date(), name)


def _own(plan: Plan) -> str:
    """Return the name of the service that the job asks for."""
    job = plan.checked.loaded.job
    tier = job.model.service_tier
    return "batch" if job.mode == "batch" else "online" if tier == "standard" else tier


def _caches(plan: Plan, asking: Asking, name: str) -> bool:
    """Tell whether a run makes a cache: not on Vertex AI, nor where it takes in batch jobs but makes none."""
    wanted = plan.checked.loaded.job.model.context_cache == "auto" and not asking.vertex
    return wanted and (name == "batch" or not open_batches_of(plan.folder.path))


def _compared(plan: Plan) -> Limits:
    """Return what is known of the limits of the tier that the free one is compared with."""
    return known_limits(COMPARED, plan.checked.model)
