"""Asking: what a run opens for it, wired together, and closed whatever happens."""

import resource
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeAlias

import anyio
import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Pace
from pipeline.billing import billing
from pipeline.earlier import Earlier
from pipeline.errors import RowmillError
from pipeline.executors.asker import Asker, Question
from pipeline.executors.batch import Rows
from pipeline.executors.cached import AHEAD, CachingClient, Terms
from pipeline.executors.courier import Courier
from pipeline.executors.crew import Crew
from pipeline.executors.day import Day
from pipeline.executors.flights import Flights
from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt, stop_on_signal
from pipeline.executors.online import Asks, Pending, Sink, execute
from pipeline.executors.packed import PackAsker, Packing
from pipeline.flow import Failure, FailureKind, Outcome, Reply
from pipeline.gemini.caches import open_caches
from pipeline.gemini.client import Client, Generation, open_client
from pipeline.gemini.endpoint import Endpoint
from pipeline.gemini.lines import TIER as BATCH
from pipeline.keys import cache_name
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.models import Limits
from pipeline.packing import Budget, id_name, packed_schema, packed_system
from pipeline.plan import Plan
from pipeline.progress import Watched
from pipeline.retry import LONGEST_OUTAGE
from pipeline.shipping import Cargo, Manner, by_batches, ship
from pipeline.store.answers import FILE
from pipeline.store.cache import Cache, Use
from pipeline.store.compaction import REACH, compact
from pipeline.store.journal import Journal
from pipeline.store.origin import mark_emulated
from pipeline.store.parts import Parts
from pipeline.store.recent import stored_until
from pipeline.store.standing import Standing
from pipeline.tiers import served_otherwise, shed, wire_tier
from pipeline.tokens import CostEstimate, Costing, TokenEstimate, may_be_cached
from pipeline.usage import Tally

Watch: TypeAlias = Callable[[Watched], Coroutine[object, object, None]]

PACE = Pace()
MOST_IN_FLIGHT = 4_096
MOST_ASLEEP = 1_024  # rows that wait for their next attempt meanwhile
SPARE_FILES = 128  # of the process's file descriptors: what is no connection
LOWER = (
    "the API allows {found:,} {words}, not {told}, and the run kept to that: set `{name}` to it in [limits]"
)
_SAME = {(FailureKind.CONFIG, FailureKind.BAD_REQUEST), (FailureKind.GARBLED, FailureKind.GARBLED)}
NO_VERTEX_CACHE = "the long instruction is sent with each request: on Vertex AI it is not cached by Rowmill"
OUTPUT_TOKENS = 65_535  # the cap of every Flash-Lite model so far; for models of unknown limits


@dataclass(frozen=True, slots=True)
class Service:
    """Who answers: the endpoint, what was sent there lately, and whether tokens are free.

    `wait` waits for the reset of the daily quota instead of stopping there; `longest_outage` is how many
    seconds without any answer are waited out; `use` says how the cache of all jobs is used, where the job has
    not turned it off. `detach` leaves batch jobs to the API, at whose `pace`
    they are looked at.
    """

    endpoint: Endpoint
    ledger: Ledger
    free: bool
    wait: bool = False
    longest_outage: float = LONGEST_OUTAGE
    use: Use = Use.FULL
    detach: bool = False
    pace: Pace = PACE


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
    follow: Callable[[], None]  # to be called when a part was written


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
    halt = Halt()
    async with anyio.create_task_group() as around:
        await around.start(stop_on_signal, halt)
        await _ask_until(halt, work, watch)
        around.cancel_scope.cancel()
    return halt


async def _ask_until(halt: Halt, work: Work, watch: Watch) -> None:
    plan, service = work.plan, work.service
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

            async def courier(generation: Generation, *, most: bool) -> Courier:
                return Courier(
                    await _client(work, opened, generation, cap, most=most),
                    gate,
                    halt=halt,
                    crew=crew,
                    tally=work.tally,
                    longest_outage=service.longest_outage,
                    max_cost=told.max_cost,
                )

            flights = Flights(halt, crew)
            ships = by_batches(plan)  # then a few rows at most are asked one by one
            first = await courier(_generation(plan), most=plan.pack == 1 and not ships)
            alone = Asker(_question(work), first, journal, flights, cache=cached)
            asker: Asks = alone
            if plan.pack > 1:
                packs = await courier(_packed(plan), most=not ships)
                asker = PackAsker(_packing(work, costing), alone, packs, costing)
            sink = _sink(work, journal, cached, halt)

            async def ask(pending: NDArray[np.bool_]) -> None:
                rows = _batches(replace(work, pending=pending))
                await execute(rows, asker, sink, group=plan.pack, halt=halt, crew=crew)

            if ships:
                cargo = Cargo(
                    journal=journal,
                    asker=alone,
                    packing=_packing(work, costing) if plan.pack > 1 else None,
                    sink=sink,
                    halt=halt,
                    tally=work.tally,
                    costing=costing,
                    notes=work.notes,
                    rows=Rows(work.pending, lambda mask: _batches(replace(work, pending=mask)), ask),
                    alone=_generation(plan),
                    together=_packed(plan),
                )
                await ship(plan, service.endpoint, cargo, _manner(service))
            else:
                await ask(work.pending)
            beside.cancel_scope.cancel()
        work.notes.extend([*journal.notes, *cached.notes, *service.ledger.notes])
    found = replace(limiter.limits, rpd=day.named or checked.limits.rpd)
    work.notes.extend(_learned(checked.limits, found))
    online = {tier: replies for tier, replies in work.tally.tiers.items() if tier != BATCH}
    tier, tally = checked.loaded.job.model.service_tier, work.tally
    work.notes.extend(served_otherwise(tier, online))
    work.notes.extend(shed(tier, tally.overloaded, tally.failures[FailureKind.OVERLOADED]))


async def _client(
    work: Work, opened: AsyncExitStack, generation: Generation, cap: int, *, most: bool
) -> Client | CachingClient:
    """Open a client; one that caches the instruction where it asks for `most` rows and that can pay."""

    def client(generation: Generation) -> AbstractAsyncContextManager[Client]:
        timeout = work.plan.checked.loaded.job.model.deadline
        return open_client(work.service.endpoint, generation, timeout_s=timeout, connections=cap)

    plain = await opened.enter_async_context(client(generation))
    terms = _terms(work, generation) if most else None
    if terms is None:
        return plain
    caches = await opened.enter_async_context(open_caches(work.service.endpoint))
    caching = CachingClient(plain, caches, lambda name: client(replace(generation, cache=name)), terms)
    opened.push_async_callback(_finish, caching, work.notes)
    return caching


def _terms(work: Work, generation: Generation) -> Terms | None:
    """Return what is cached of a run's instruction; None where that is not wanted or cannot pay."""
    checked = work.plan.checked
    section, model = checked.loaded.job.model, checked.model
    tokens = TokenEstimate(generation.system).tokens("")
    price = model.price(datetime.now(UTC).date(), section.service_tier)
    wanted = section.context_cache == "auto" and not work.service.free
    if not wanted or price is None or not may_be_cached(generation.system, model):
        return None
    if work.service.endpoint.vertex:
        work.notes.append(NO_VERTEX_CACHE)
        return None
    return Terms(
        model=generation.model,
        system=generation.system,
        display_name=cache_name(work.plan.fingerprint, generation.system),
        tokens=tokens,
        price=price,
        since=stored_until(work.plan.folder.journal) + AHEAD,
        uses=lambda: work.tally.left / work.plan.pack,
    )


async def _finish(caching: CachingClient, notes: list[str]) -> None:
    await caching.aclose()
    notes.extend(caching.notes)


def _most_connections() -> int:
    """Return how many connections the process may open, after asking the system for as many as it gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_IN_FLIGHT + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST_IN_FLIGHT if soft == resource.RLIM_INFINITY else max(1, soft - SPARE_FILES)


def _manner(service: Service) -> Manner:
    return Manner(service.free, service.detach, service.pace, service.longest_outage)


def _costing(work: Work) -> Costing:
    checked = work.plan.checked
    counts = checked.limits.spend_10min_usd is not None and not work.service.free
    tier = checked.loaded.job.model.service_tier
    price = checked.model.price(datetime.now(UTC).date(), tier) if counts else None
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
        service_tier=wire_tier(plan.checked.loaded.job.model.service_tier),
    )


def _packed(plan: Plan) -> Generation:
    """Return what requests about several rows share."""
    alone, schema = _generation(plan), plan.checked.json_schema
    return replace(alone, system=packed_system(alone.system, schema), json_schema=packed_schema(schema))


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
        max_output_tokens=checked.settings.max_output_tokens,
        bound=told.output_tokens if packed else None,
        output_ceiling=checked.model.output_tokens or OUTPUT_TOKENS,
        price=_price(work),
    )


def _price(work: Work) -> Callable[[Reply], float]:
    checked = work.plan.checked
    free, today = work.service.free, datetime.now(UTC).date()
    return billing(checked.loaded.job.model, checked.model, free=free, today=today)


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
            if work.tally.saved.emulated:
                mark_emulated(work.plan.folder)
            cached.write(replies, time.time())  # first: what is in a part is not read again after a kill
            work.parts.write(layout.table(outcomes))
            journal.checkpoint()
            compact(work.parts, REACH)
            if work.turn is None:  # else another thread reads what rows have taken before
                work.follow()

    return Sink(ended=work.tally.add, write=write, sync=journal.sync)


def _suspect(outcome: Outcome, reason: Failure) -> bool:
    """Tell whether a row was given up for what has then turned out to be wrong with all of them."""
    kind = outcome.answer.kind if isinstance(outcome.answer, Failure) else None
    return (reason.kind, kind) in _SAME


def _batches(work: Work) -> Iterator[list[Pending]]:
    """Yield the pending rows; with those that have failed before goes what that took."""
    rows = work.plan.source.rows(work.pending)
    if work.turn is None:
        return ([Pending(row) for row in some] for some in rows)
    earlier = Earlier(work.parts, work.standing, work.pending)
    return (earlier.add(some, work.turn) for some in rows)
