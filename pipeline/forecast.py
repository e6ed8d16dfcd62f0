"""A job's estimate: what is left to do, how long prompts and answers are, what each way of asking takes.

Asks no model and writes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import sqrt

from pipeline.answer import WIDE
from pipeline.backlog import Backlog, Scope, backlog
from pipeline.estimate import MOST_IN_FLIGHT, Answers, Load, Service, Span, Way, load, way
from pipeline.models import Limits, known_limits
from pipeline.packing import Budget
from pipeline.plan import Plan
from pipeline.precedent import Precedent, Took, precedent
from pipeline.prompts import group_sizes
from pipeline.quota import day_reset
from pipeline.sizing import DEVIATIONS, Count, Measured, measured
from pipeline.tokens import CACHE_TOKENS
from pipeline.usage import Today

PACK = 20  # rows in a request, where the job packs none
COMPARED = "1"  # the tier that a job on the free tier is compared with
FOREIGN_DOUBT = 0.5  # of the answers to another prompt, schema or model
LEAST_DOUBT = 0.02  # of this job's own
UNBATCHED = f"the free tier offers neither batch nor flex: both are those of tier {COMPARED}"
THINKING = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Asking:
    """Who would answer: on the free tier or not, on Vertex AI or not, after how many requests of today."""

    free: bool
    vertex: bool
    sent_today: int
    now: float  # Unix time


@dataclass(frozen=True, slots=True)
class Forecast:
    """The estimate of a job. The first of `ways` is the job as it stands.

    `counted` of `sampled` prompts were counted by the API, where it is 0 `uncounted` says why; `basis` says
    where output tokens are known from and `unbatched` why no batch is among the ways.
    """

    job: str
    model: str
    limited: bool
    scope: Scope
    sampled: int
    counted: int
    uncounted: str
    basis: str
    guessed: bool  # nothing was answered yet
    emulated: bool  # the emulator of this command is asked
    unbatched: str
    max_cost: float | None
    ways: tuple[Way, ...]


def forecast(plan: Plan, count: Count | str, asking: Asking, *, retry_failed: bool = False) -> Forecast:
    """Estimate what a plan will take. `count` counts tokens, or says why nobody does.

    Raises InputError and StoreError as a run does.
    """
    checked = plan.checked
    left = backlog(plan, retry_failed=retry_failed)
    system = checked.loaded.job.prompt.system
    sizes = measured(left.texts, system, checked.json_schema, count, complete=left.complete)
    before = precedent(plan)
    answers = _answers(plan, before, sizes)
    services, unbatched = _services(plan, asking)
    return Forecast(
        job=checked.loaded.job.name,
        model=checked.model.id,
        limited=plan.limited,
        scope=left.scope,
        sampled=len(left.texts),
        counted=sizes.counted,
        uncounted=sizes.why,
        basis=_basis(plan, before),
        guessed=before is None,
        emulated=plan.identity["endpoint"] == "emulator",
        unbatched=unbatched,
        max_cost=checked.loaded.job.limits.max_cost,
        ways=tuple(_ways(plan, services, _loads(plan, left, sizes, answers), sizes, answers)),
    )


def _loads(plan: Plan, left: Backlog, measured_: Measured, answers: Answers) -> dict[int, Load]:
    """Return the requests of each pack size, the job's own first."""
    checked = plan.checked
    told = checked.loaded.job.packing
    each = checked.settings.max_output_tokens or answers.alone.expected
    loads = {}
    for rows in dict.fromkeys([plan.pack, 1, PACK] if plan.pack in (1, PACK) else [plan.pack, 1]):
        most = min(told.prompt_tokens, checked.limits.tpm or told.prompt_tokens)
        budget = Budget(rows, most, told.output_tokens)
        loads[rows] = load(group_sizes(left.pending, left.asked, rows), measured_.sizes.rows, each, budget)
    return loads


def _ways(
    plan: Plan, services: list[Service], loads: dict[int, Load], measured_: Measured, answers: Answers
) -> Iterator[Way]:
    current = plan.pack
    for service in services:
        for rows, load_ in loads.items():
            made = way(rows, service, load_, measured_.sizes, answers)
            yield replace(made, current=service is services[0] and rows == current)


def _services(plan: Plan, asking: Asking) -> tuple[list[Service], str]:
    """Return who could answer, first who does as the job stands, and why no batch is among them."""
    own_name = _own(plan)
    checked = plan.checked
    told, limits = checked.loaded.job.limits, checked.limits
    day = datetime.fromtimestamp(asking.now, UTC).date()
    today = Today(asking.sent_today, day_reset(asking.now).timestamp() - asking.now)
    flying = told.concurrency or MOST_IN_FLIGHT
    standard = checked.model.price(day, "standard")
    label = "Vertex AI" if asking.vertex else "free tier" if asking.free else f"tier {told.tier}"
    online = Service("online", label, None if asking.free else standard, limits, today, told.margin, flying)
    if asking.vertex:
        return [online], "batch and flex of Vertex AI are not estimated"
    paid = online
    if asking.free:
        paid = replace(online, label=f"tier {COMPARED}", price=standard, limits=_compared(plan))
        paid = replace(paid, today=replace(today, sent=0))
    found = [online] if paid is online else [online, paid]
    for name in ("flex", "batch", *(["priority"] if own_name == "priority" else [])):
        price = checked.model.price(day, name)
        if price is not None and not (name == "batch" and paid.limits.batch_tokens == 0):
            least = _cache_tokens(plan) if name == "batch" else None
            found.append(replace(paid, name=name, price=price, cache_tokens=least))
    found.sort(key=lambda service: service.name != own_name)  # the others stay in their order
    return found, UNBATCHED if asking.free else ""


def _own(plan: Plan) -> str:
    """Return the name of the service that the job asks for."""
    job = plan.checked.loaded.job
    tier = job.model.service_tier
    return "batch" if job.mode == "batch" else "online" if tier == "standard" else tier


def _cache_tokens(plan: Plan) -> int | None:
    """Return how many tokens an instruction needs for a cache, None where the job wants none."""
    wanted = plan.checked.loaded.job.model.context_cache == "auto"
    return (plan.checked.model.cache_tokens or CACHE_TOKENS) if wanted else None


def _compared(plan: Plan) -> Limits:
    """Return what is known of the limits of the tier that the free one is compared with."""
    return known_limits(COMPARED, plan.checked.model)


def _answers(plan: Plan, before: Precedent | None, measured_: Measured) -> Answers:
    echo = measured_.echo
    if before is None:
        most = float(plan.checked.settings.max_output_tokens or "inf")
        made = measured_.example
        alone = Span(min(made, most), min(made / WIDE, most), min(made * WIDE, most))
        return Answers(alone, alone + Span(echo, echo, echo))
    alone_, packed_ = before.alone or before.packed, before.packed or before.alone
    assert alone_ is not None  # noqa: S101 - a precedent has one of both
    assert packed_ is not None  # noqa: S101
    alone, packed = _span(alone_, own=before.own), _span(packed_, own=before.own)
    if before.alone is None:
        alone = alone + Span(-echo, -echo, -echo)
    if before.packed is None:
        packed = packed + Span(echo, echo, echo)
    seconds = alone_.seconds
    return Answers(alone, packed) if seconds is None else Answers(alone, packed, seconds)


def _span(took: Took, *, own: bool) -> Span:
    chance = DEVIATIONS * took.spread / sqrt(took.rows) / took.output if took.output else 0.0
    doubt = chance + (LEAST_DOUBT if own else FOREIGN_DOUBT)
    return Span(took.output, took.output * max(0.0, 1 - doubt), took.output * (1 + doubt))


def _basis(plan: Plan, before: Precedent | None) -> str:
    """Say where output tokens are known from."""
    if before is None:
        thinks = plan.checked.loaded.job.model.thinking in THINKING
        return "guessed from the schema" + (", without thoughts" if thinks else "")
    rows = sum(took.rows for took in (before.alone, before.packed) if took is not None)
    whose = "this job" if before.own else "this job with other settings"
    return f"as {rows:,} answers to {whose} took"
