"""A job's estimate: what is left to do, how long prompts and answers are, what each way of asking takes.

Asks no model and writes nothing.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import sqrt
from statistics import fmean

from pipeline.answer import WIDE
from pipeline.auto import auto_words, found_words
from pipeline.backlog import Backlog, Scope, backlog
from pipeline.billing import billing
from pipeline.estimate import NEVER, Again, Answers, Load, Service, Sizes, Span, Way, load, way
from pipeline.input.bad import LeftOut
from pipeline.intervals import rows_needed
from pipeline.packing import Budget
from pipeline.plan import Plan
from pipeline.precedent import FEW, Precedent, Took, precedent, repeated
from pipeline.progress import many
from pipeline.prompts import group_sizes, groups_of
from pipeline.services import Asking, services
from pipeline.sizing import DEVIATIONS, Count, Measured, measured
from pipeline.store.cache import Use
from pipeline.sweep import Told, tried
from pipeline.trial import ORDERS, full_packs

PACK = 20  # rows in a request, where the job packs none and no calibration recommends any
FOREIGN_DOUBT = 0.5  # of the answers to another prompt, schema or model
LEAST_DOUBT = 0.02  # of this job's own
UNKNOWN = 0.4  # of the mean: the standard deviation at least, where answers are too few to show theirs
THINKING = ("low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Calibrating:
    """What `rowmill calibrate` takes as it is called without flags, and what an earlier one has `found`.

    `least` is the smallest sample that can call a size safe, 0 where no smaller one is of use.
    """

    requests: int
    usd: Span
    found: str = ""
    least: int = 0


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
    emulated: bool  # the emulator has counted
    unbatched: str
    max_cost: float | None
    auto: str  # what `packing.rows = "auto"` means now, where the job has it
    ways: tuple[Way, ...]
    calibration: Calibrating
    retried: int = 0  # of the prompts, which are those of failed rows
    again: Again = NEVER
    saved_usd: float = 0.0  # that answers in the response cache have cost
    left_out: LeftOut = field(default_factory=LeftOut)


def forecast(
    plan: Plan,
    count: Count | str,
    asking: Asking,
    *,
    retry_failed: bool = False,
    use: Use = Use.FULL,
) -> Forecast:
    """Estimate what a plan will take. `count` counts tokens, or says why nobody does.

    `use` says how a run would use the cache of all jobs.

    Raises InputError and StoreError as a run does.
    """
    checked = plan.checked
    told = Told()
    left = backlog(plan, retry_failed=retry_failed, enough=told.sample, use=use)
    system = checked.loaded.job.prompt.system
    tokens = measured(left.texts, system, checked.json_schema, count, complete=left.complete)
    before = precedent(plan, left.cached)
    answers = _answers(plan, before, tokens)
    sample = min(told.sample, left.distinct)
    again = repeated(plan, answers.alone.expected) * left.retried if left.retried else NEVER
    found, unbatched = services(plan, asking)
    return Forecast(
        job=checked.loaded.job.name,
        model=checked.model.id,
        limited=plan.limited,
        scope=left.scope,
        sampled=len(left.texts),
        counted=tokens.counted,
        uncounted=tokens.why,
        basis=_basis(plan, before),
        guessed=before is None,
        emulated=tokens.emulated,
        unbatched=unbatched,
        max_cost=checked.loaded.job.limits.max_cost,
        auto="; ".join(auto_words(plan)),
        ways=tuple(_ways(plan, found, left, again, sizes=tokens.sizes, answers=answers)),
        retried=left.retried,
        again=again,
        calibration=_calibration(plan, found[0], sample, sizes=tokens.sizes, answers=answers),
        saved_usd=_saved(plan, left, asking),
        left_out=plan.source.left_out,
    )


def _saved(plan: Plan, left: Backlog, asking: Asking) -> float:
    """Return what the answers have cost that the response cache has for the job, by those of the sample."""
    if not left.cached:
        return 0.0
    today = datetime.fromtimestamp(asking.now, UTC).date()
    model = plan.checked.loaded.job.model
    price = billing(model, plan.checked.model, free=asking.free, today=today)
    return fmean(map(price, left.cached)) * left.scope.cached


def _loads(plan: Plan, left: Backlog, *, sizes: Sizes, answers: Answers, batch: bool) -> dict[int, Load]:
    """Return the requests of each pack size, the job's own first, online or by batches."""
    loads = {}
    other = plan.advice.rows if plan.advice is not None and plan.advice.rows > 1 else PACK
    for rows in dict.fromkeys([plan.pack, 1, other] if plan.pack in (1, other) else [plan.pack, 1]):
        groups = (
            groups_of(int(left.asked.sum()), rows) if batch else group_sizes(left.pending, left.asked, rows)
        )
        loads[rows] = _load(plan, rows, groups, sizes=sizes, answers=answers)
    return loads


def _load(plan: Plan, rows: int, groups: Counter[int], *, sizes: Sizes, answers: Answers) -> Load:
    """Return the requests that groups become which may have so many rows."""
    checked = plan.checked
    told = checked.loaded.job.packing
    each = checked.settings.max_output_tokens or answers.alone.expected
    most = min(told.prompt_tokens, checked.limits.tpm or told.prompt_tokens)
    return load(groups, sizes.rows, each, Budget(rows, most, told.output_tokens))


def _calibration(plan: Plan, service: Service, sample: int, *, sizes: Sizes, answers: Answers) -> Calibrating:
    """Return what a calibration takes: so many different rows at every size and in two orders."""
    requests, usd = 0, Span(0.0, 0.0, 0.0)
    for rows in tried(Told(), sample):
        load_ = _load(plan, rows, groups_of(sample, rows), sizes=sizes, answers=answers)
        took = way(rows, service, load_, sizes, answers)
        requests += len(ORDERS) * full_packs(sample, rows)
        usd += took.usd * len(ORDERS)
    found, least = "" if plan.advice is None else found_words(plan.advice), rows_needed(Told().tolerance)
    return Calibrating(requests, usd, found, least if least < sample else 0)


def _ways(
    plan: Plan, found: list[Service], left: Backlog, again: Again, *, sizes: Sizes, answers: Answers
) -> Iterator[Way]:
    online, batch = (_loads(plan, left, sizes=sizes, answers=answers, batch=which) for which in (False, True))
    for service in found:
        for rows, load_ in (batch if service.name == "batch" else online).items():
            made = way(rows, service, replace(load_, again=again), sizes, answers)
            yield replace(made, current=service is found[0] and rows == plan.pack)


def _answers(plan: Plan, before: Precedent | None, tokens: Measured) -> Answers:
    echo = tokens.echo
    if before is None:
        most = float(plan.checked.settings.max_output_tokens or "inf")
        made = tokens.example
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
    spread = took.spread if took.rows >= FEW else max(took.spread, UNKNOWN * took.output)
    chance = DEVIATIONS * spread / sqrt(took.rows) / took.output if took.output else 0.0
    doubt = chance + (LEAST_DOUBT if own else FOREIGN_DOUBT)
    return Span(took.output, took.output * max(0.0, 1 - doubt), took.output * (1 + doubt))


def _basis(plan: Plan, before: Precedent | None) -> str:
    """Say where output tokens are known from."""
    if before is None:
        thinks = plan.checked.loaded.job.model.thinking in THINKING
        return "guessed from the schema" + (", without thoughts" if thinks else "")
    return f"as {many(before.rows, 'answer')} {before.whose} took"
