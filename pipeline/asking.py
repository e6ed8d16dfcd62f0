"""Asking: what a run opens for it, wired together, and closed whatever happens."""

import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, replace
from typing import TypeAlias

import anyio
import numpy as np
from anyio import from_thread
from numpy.typing import NDArray

from pipeline.batch import Pace
from pipeline.clients import MOST_IN_FLIGHT, Clients, most_connections
from pipeline.earlier import Earlier
from pipeline.errors import RowmillError
from pipeline.executors.asker import Asker
from pipeline.executors.batch import Rows
from pipeline.executors.cached import CachingClient
from pipeline.executors.courier import Courier
from pipeline.executors.crew import Crew
from pipeline.executors.day import Day
from pipeline.executors.flights import Flights
from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt, stop_on_signal
from pipeline.executors.online import Asks, Pending, Sink, execute
from pipeline.executors.packed import PackAsker
from pipeline.executors.purse import nothing
from pipeline.flow import Failure, FailureKind, Outcome
from pipeline.gemini.client import Generation
from pipeline.gemini.endpoint import Endpoint
from pipeline.gemini.lines import TIER as BATCH
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.lookout import Lookout
from pipeline.plan import Plan
from pipeline.posing import costing, generation, packed, packing, purse, question
from pipeline.progress import Watched
from pipeline.remarks import lower
from pipeline.retry import LONGEST_OUTAGE
from pipeline.shipping import Cargo, Manner, by_batches, ship
from pipeline.store.answers import FILE
from pipeline.store.cache import Cache, Use
from pipeline.store.compaction import REACH, compact
from pipeline.store.journal import Journal
from pipeline.store.origin import mark_emulated
from pipeline.store.parts import Parts
from pipeline.store.recent import answered_at
from pipeline.store.standing import Standing
from pipeline.tiers import served_otherwise, shed
from pipeline.tokens import Costing
from pipeline.usage import Tally

Watch: TypeAlias = Callable[[Watched], Coroutine[object, object, None]]

PACE = Pace()
MOST_ASLEEP = 1_024  # rows that wait for their next attempt meanwhile
_SAME = {(FailureKind.CONFIG, FailureKind.BAD_REQUEST)}


@dataclass(frozen=True, slots=True)
class Service:
    """Who answers: the endpoint, what was sent there lately, and whether tokens are free.

    `wait` waits for the reset of the daily quota instead of stopping there; `longest_outage` is how many
    seconds without any answer are waited out; `use` says how the cache of all jobs is used, where the job has
    not turned it off. `detach` leaves batch jobs to the API, at whose `pace` they are looked at; `spent` is
    what runs before this one have taken of `max_cost` (USD), which is for all of them.
    """

    endpoint: Endpoint
    ledger: Ledger
    free: bool
    wait: bool = False
    longest_outage: float = LONGEST_OUTAGE
    use: Use = Use.FULL
    detach: bool = False
    pace: Pace = PACE
    spent: float = 0.0


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

    `watch` is run beside it and cancelled at its end. Raises StoreError, RefusedError, and ChangedError where
    the input was changed meanwhile.
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
    cap = min(plan.checked.loaded.job.limits.concurrency or MOST_IN_FLIGHT, most_connections())
    crew = Crew(cap + MOST_ASLEEP)
    limiter = _limiter(work, cap)
    day = Day(limiter, service.ledger, halt, wait=service.wait)
    costs = costing(plan, free=service.free)
    lookout = Lookout(plan.source)
    money = purse(plan, costs, work.tally, halt, free=service.free)
    gate = Gate(limiter, day, halt, crew, costing=costs, purse=money)
    lately = time.time() - answered_at(plan.folder.journal) < LONGEST_OUTAGE
    gate.resumed = lately or work.turn is not None
    with closing(Journal(plan.folder.journal)) as journal, closing(limiter), closing(_cache(work)) as cached:
        async with AsyncExitStack() as stack, anyio.create_task_group() as beside:
            beside.start_soon(watch, Watched(work.tally, gate, halt))
            await _ask_pending(
                _Open(
                    work=work,
                    halt=halt,
                    crew=crew,
                    gate=gate,
                    costing=costs,
                    journal=journal,
                    cached=cached,
                    lookout=lookout,
                    clients=Clients(
                        plan=plan,
                        endpoint=service.endpoint,
                        stack=stack,
                        connections=cap,
                        notes=work.notes,
                        uses=lambda: work.tally.left / plan.pack,
                        free=service.free,
                    ),
                )
            )
            beside.cancel_scope.cancel()
        work.notes.extend([*journal.notes, *cached.notes, *service.ledger.notes])
    found = replace(limiter.limits, rpd=day.named or plan.checked.limits.rpd)
    work.notes.extend(lower(plan.checked.limits, found))
    work.notes.extend(_served(work))
    if lookout.changed:
        raise plan.source.change()


@dataclass(frozen=True, slots=True)
class _Open:
    """What is open around all requests of a run."""

    work: Work
    halt: Halt
    crew: Crew
    gate: Gate
    costing: Costing
    journal: Journal
    cached: Cache
    lookout: Lookout
    clients: Clients


async def _ask_pending(run: _Open) -> None:
    """Ask for the pending rows, one by one, in packs or by batches."""
    work, plan = run.work, run.work.plan
    ships = by_batches(plan)  # then a few rows at most are asked one by one
    flights = Flights(run.halt, run.crew)
    first = await _courier(run, generation(plan), flights, most=plan.pack == 1 and not ships)
    posed = question(plan, free=work.service.free)
    alone = Asker(posed, first, run.journal, flights, cache=run.cached)
    asker: Asks = alone
    packs = packing(plan, run.costing) if plan.pack > 1 else None
    if packs is not None:
        courier = await _courier(run, packed(plan), flights, most=not ships)
        asker = PackAsker(packs, alone, courier, run.costing)
    sink = _sink(run)

    async def ask(pending: NDArray[np.bool_]) -> None:
        rows = _batches(replace(work, pending=pending))
        await execute(rows, asker, sink, group=plan.pack, halt=run.halt, crew=run.crew)

    if not ships:
        await ask(work.pending)
        return
    cargo = Cargo(
        journal=run.journal,
        asker=alone,
        packing=packs,
        sink=sink,
        halt=run.halt,
        tally=work.tally,
        costing=run.costing,
        gate=run.gate,
        notes=work.notes,
        rows=Rows(work.pending, lambda mask: _batches(replace(work, pending=mask)), ask),
        alone=generation(plan),
        together=packed(plan),
    )
    await ship(plan, work.service.endpoint, cargo, _manner(work.service))


def _limiter(work: Work, cap: int) -> Limiter:
    told = work.plan.checked.loaded.job.limits
    return Limiter(
        work.plan.checked.limits,
        work.service.ledger,
        cap=cap,
        paced=not work.service.endpoint.vertex or (told.rpm or told.tpm) is not None,
        margin=told.margin,
    )


async def _courier(run: _Open, shared: Generation, flights: Flights, *, most: bool) -> Courier:
    """Open what takes requests that share this to their replies; `most` as for `Clients.open`."""
    client = await run.clients.open(shared, most=most)
    return Courier(
        client,
        run.gate,
        halt=run.halt,
        crew=run.crew,
        flights=flights,
        tally=run.work.tally,
        longest_outage=run.work.service.longest_outage,
        less=client.less if isinstance(client, CachingClient) else nothing,
    )


def _manner(service: Service) -> Manner:
    return Manner(service.free, service.detach, service.pace, service.longest_outage)


def _served(work: Work) -> list[str]:
    """Return notes on requests that were served in another tier than was asked for, or turned away."""
    tier, tally = work.plan.checked.loaded.job.model.service_tier, work.tally
    online = {served: replies for served, replies in tally.tiers.items() if served != BATCH}
    return [
        *served_otherwise(tier, online),
        *shed(tier, tally.overloaded, tally.failures[FailureKind.OVERLOADED]),
    ]


def _cache(work: Work) -> Cache:
    job, runs = work.plan.checked.loaded.job, work.plan.folder.path.parent.parent
    use = work.service.use if job.cache.enabled else Use.NONE
    return Cache(runs / FILE, use, most_bytes=job.cache.max_mb * 10**6, most_rows=work.plan.pack)


def _sink(run: _Open) -> Sink:
    work, journal, cached, halt = run.work, run.journal, run.cached, run.halt
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
        if run.lookout.look():  # what is in flight may end: it is paid for
            from_thread.run_sync(halt.pull, None)

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
