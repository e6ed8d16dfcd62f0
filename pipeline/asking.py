"""Asking: what a run opens for it, wired together, and closed whatever happens."""

import resource
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import cache
from typing import TypeAlias

import anyio
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RowmillError
from pipeline.executors.asker import Asker, Question
from pipeline.executors.courier import Courier
from pipeline.executors.crew import Crew
from pipeline.executors.day import Day
from pipeline.executors.flights import Flights
from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt
from pipeline.executors.online import Asks, Pending, Sink, execute
from pipeline.executors.packed import PackAsker, Packing
from pipeline.flow import Failure, FailureKind, Outcome, Reply, Row, Spent, Usage
from pipeline.gemini.client import Generation, open_client
from pipeline.gemini.endpoint import Endpoint
from pipeline.job import job_price
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.models import Limits, Price
from pipeline.output import TOKENS
from pipeline.packing import INSTRUCTIONS, Budget, id_name, packed_schema
from pipeline.plan import Plan
from pipeline.progress import Watched
from pipeline.retry import LONGEST_OUTAGE
from pipeline.store.answers import FILE
from pipeline.store.cache import Cache, Use
from pipeline.store.compaction import REACH, compact
from pipeline.store.journal import Journal
from pipeline.store.parts import Parts
from pipeline.store.standing import Standing
from pipeline.tokens import CostEstimate, Costing, TokenEstimate
from pipeline.usage import Tally, cost_usd

Watch: TypeAlias = Callable[[Watched], Coroutine[object, object, None]]

MOST_IN_FLIGHT = 4_096
MOST_ASLEEP = 1_024  # rows that wait for their next attempt meanwhile
SPARE_FILES = 128  # of the process's file descriptors: what is no connection
LOWER = (
    "the API allows {found:,} {words}, not {told}, and the run kept to that: set `{name}` to it in [limits]"
)
_SAME = {(FailureKind.CONFIG, FailureKind.BAD_REQUEST), (FailureKind.GARBLED, FailureKind.GARBLED)}
OUTPUT_TOKENS = 65_535  # the cap of every Flash-Lite model so far; for models of unknown limits


@dataclass(frozen=True, slots=True)
class Service:
    """Who answers: the endpoint, what was sent there lately, and whether tokens are free.

    `wait` waits for the reset of the daily quota instead of stopping there; `longest_outage` is how many
    seconds without any answer are waited out; `use` says how the cache of all jobs is used, where the job has
    not turned it off.
    """

    endpoint: Endpoint
    ledger: Ledger
    free: bool
    wait: bool = False
    longest_outage: float = LONGEST_OUTAGE
    use: Use = Use.FULL


@dataclass(frozen=True, slots=True)
class Work:
    """What is open while a run asks."""

    plan: Plan
    service: Service
    parts: Parts
    standing: Standing
    pending: NDArray[np.bool_]
    tally: Tally
    turn: int | None  # of --retry-failed
    notes: list[str]


def ask_all(work: Work, watch: Watch) -> Halt:
    """Ask for all pending rows; `halt.pulled` is set where it ended early.

    `watch` is run beside it and cancelled at its end. Raises StoreError and RefusedError.
    """
    try:
        return anyio.run(_ask, work, watch)
    except BaseExceptionGroup as group:
        ours = group.subgroup(RowmillError)
        if ours is None:
            raise
        raise _first(ours) from group


def _first(group: BaseExceptionGroup[RowmillError]) -> RowmillError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _ask(work: Work, watch: Watch) -> Halt:
    plan, halt, service = work.plan, Halt(), work.service
    checked = plan.checked
    cap = min(checked.loaded.job.limits.concurrency or MOST_IN_FLIGHT, _most_connections())
    crew = Crew(cap + MOST_ASLEEP)
    told = checked.loaded.job.limits
    limiter = Limiter(
        checked.limits,
        service.ledger,
        cap=cap,
        paced=not service.endpoint.vertex or (told.rpm or told.tpm) is not None,
        margin=told.margin,
    )
    day = Day(limiter, service.ledger, halt, wait=service.wait)
    costing = _costing(work)
    gate = Gate(limiter, day, halt, crew, costing=costing)
    with closing(Journal(plan.folder.journal)) as journal, closing(limiter), closing(_cache(work)) as cached:
        async with AsyncExitStack() as opened, anyio.create_task_group() as beside:
            beside.start_soon(watch, Watched(work.tally, gate, halt))

            async def courier(generation: Generation) -> Courier:
                timeout = checked.loaded.job.model.timeout
                client = open_client(service.endpoint, generation, timeout_s=timeout, connections=cap)
                return Courier(
                    await opened.enter_async_context(client),
                    gate,
                    halt=halt,
                    crew=crew,
                    tally=work.tally,
                    longest_outage=service.longest_outage,
                    max_cost=told.max_cost,
                )

            flights = Flights(halt, crew)
            alone = Asker(_question(work), await courier(_generation(plan)), journal, flights, cache=cached)
            asker: Asks = alone
            if plan.pack > 1:
                asker = PackAsker(_packing(work, costing), alone, await courier(_packed(plan)), costing)
            sink = _sink(work, journal, cached, halt)
            await execute(_batches(work), asker, sink, group=plan.pack, halt=halt, crew=crew)
            beside.cancel_scope.cancel()
        work.notes.extend([*journal.notes, *cached.notes, *service.ledger.notes])
    found = replace(limiter.limits, rpd=day.named or checked.limits.rpd)
    work.notes.extend(_learned(checked.limits, found))
    return halt


def _most_connections() -> int:
    """Return how many connections the process may open, after asking the system for as many as it gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_IN_FLIGHT + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST_IN_FLIGHT if soft == resource.RLIM_INFINITY else max(1, soft - SPARE_FILES)


def _costing(work: Work) -> Costing:
    checked = work.plan.checked
    counts = checked.limits.spend_10min_usd is not None and not work.service.free
    price = checked.model.price(datetime.now(UTC).date(), "standard") if counts else None
    return Costing(TokenEstimate(checked.loaded.job.prompt.system), CostEstimate(price), _price(work))


def _learned(told: Limits, found: Limits) -> list[str]:
    """Return a note for each limit of the API that was found to be lower than what the run was told."""
    pairs = [("rpm", "requests a minute"), ("tpm", "input tokens a minute"), ("rpd", "requests a day")]
    lower = [(name, words) for name, words in pairs if getattr(found, name) != getattr(told, name)]
    return [
        LOWER.format(name=name, words=words, found=getattr(found, name), told=getattr(told, name) or "any")
        for name, words in lower
    ]


def _generation(plan: Plan) -> Generation:
    settings = plan.checked.settings
    return Generation(
        model=settings.model,
        system=plan.checked.loaded.job.prompt.system,
        json_schema=plan.checked.json_schema,
        thinking_level=settings.thinking_level,
        thinking_budget=settings.thinking_budget,
        seed=settings.seed,
        temperature=settings.temperature,
        safety=settings.safety,
    )


def _packed(plan: Plan) -> Generation:
    """Return what requests about several rows share."""
    alone, schema = _generation(plan), plan.checked.json_schema
    told = INSTRUCTIONS.format(name=id_name(schema))
    return replace(alone, system=f"{alone.system}\n\n{told}".strip(), json_schema=packed_schema(schema))


def _packing(work: Work, costing: Costing) -> Packing:
    checked = work.plan.checked
    told = checked.loaded.job.packing
    minute = checked.limits.tpm
    most = told.prompt_tokens if minute is None else min(told.prompt_tokens, minute - costing.tokens.most(""))
    return Packing(
        Budget(work.plan.pack, most, told.output_tokens),
        id_name(checked.json_schema),
        checked.settings.max_output_tokens,
        checked.model.output_tokens or OUTPUT_TOKENS,
    )


def _question(work: Work) -> Question:
    checked, packed = work.plan.checked, work.plan.pack > 1
    told = checked.loaded.job.packing
    return Question(
        template=checked.template,
        answer=checked.loaded.schema,
        fingerprint=work.plan.question,
        max_output_tokens=checked.settings.max_output_tokens or (told.output_tokens if packed else None),
        output_ceiling=checked.model.output_tokens or OUTPUT_TOKENS,
        price=_price(work),
    )


def _price(work: Work) -> Callable[[Reply], float]:
    """Return what a reply cost in USD, at the price of the model that served it on the day it did."""
    checked = work.plan.checked

    @cache
    def known(model: str, tier: str, day: date) -> Price | None:
        return job_price(checked.loaded.job.model, model, day, tier) or checked.model.price(day, "standard")

    def price(reply: Reply) -> float:
        found = known(reply.model, reply.tier, datetime.now(UTC).date())
        return cost_usd(reply.usage, found, free=work.service.free) if found else 0.0

    return price


def _cache(work: Work) -> Cache:
    job, runs = work.plan.checked.loaded.job, work.plan.folder.path.parent.parent
    use = work.service.use if job.cache.enabled else Use.NONE
    return Cache(runs / FILE, use, most_bytes=job.cache.max_mb * 10**6, most_rows=work.plan.pack)


def _sink(work: Work, journal: Journal, cached: Cache, halt: Halt) -> Sink:
    layout, replies = work.plan.checked.layout, work.plan.folder.journal

    def write(outcomes: list[Outcome]) -> None:
        if halt.reason is not None:  # which was wrong, not these rows
            outcomes = [one for one in outcomes if not _suspect(one, halt.reason)]
        if work.turn is not None:  # new rows belong to the round, too, or it would never end
            outcomes = [replace(one, round=work.turn) for one in outcomes]
        if outcomes:
            cached.write(replies, time.time())  # first: what is in a part is not read again after a kill
            work.parts.write(layout.table(outcomes))
            journal.checkpoint()
            compact(work.parts, REACH)

    return Sink(ended=work.tally.add, write=write, sync=journal.sync)


def _suspect(outcome: Outcome, reason: Failure) -> bool:
    """Tell whether a row was given up for what has then turned out to be wrong with all of them."""
    kind = outcome.answer.kind if isinstance(outcome.answer, Failure) else None
    return (reason.kind, kind) in _SAME


def _batches(work: Work) -> Iterator[list[Pending]]:
    for rows in work.plan.source.rows(work.pending):
        yield _with_earlier(rows, work)


def _with_earlier(rows: list[Row], work: Work) -> list[Pending]:
    """Add what earlier rounds took to rows that have failed before and are asked again."""
    if work.turn is None:
        return [Pending(row) for row in rows]
    start = rows[0].index
    places = work.standing.rows.read(start, rows[-1].index + 1)["place"][[row.index - start for row in rows]]
    known = np.flatnonzero(places >= 0).tolist()
    found = work.parts.take(work.standing.index, places[known]).to_pylist()
    earlier = {n: row for n, row in zip(known, found, strict=True) if row["_key"] == rows[n].key}
    return [
        Pending(row, work.turn, _spent(earlier[n])) if n in earlier else Pending(row)
        for n, row in enumerate(rows)
    ]


def _spent(part_row: Mapping[str, object]) -> Spent:
    """Read back what a failed row took."""
    row = {name: value for name, value in part_row.items() if isinstance(value, int | float | str)}
    return Spent(
        usage=Usage(*(int(row.get(name, 0)) for name in TOKENS)),
        cost_usd=float(row.get("_cost_usd", 0.0)),
        attempts=int(row.get("_attempts", 0)),
    )
