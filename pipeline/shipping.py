"""Asking by batches: what is open for it, wired together."""

from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from anyio import to_thread

from pipeline.batch import Pace
from pipeline.executors.asker import Asker
from pipeline.executors.batch import Bodies, Rows, Shipping
from pipeline.executors.cached import AHEAD
from pipeline.executors.carrier import Means, Policy
from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt
from pipeline.executors.intake import Intake
from pipeline.executors.keeping import Keeping, Terms
from pipeline.executors.loading import Line, Loading
from pipeline.executors.online import Sink
from pipeline.executors.packed import Packing
from pipeline.executors.stranded import take_back, told
from pipeline.flow import Failure, FailureKind, Reply, Request
from pipeline.gemini.batches import open_batches
from pipeline.gemini.caches import open_caches
from pipeline.gemini.call import Generation, shared_body
from pipeline.gemini.client import open_client
from pipeline.gemini.endpoint import Endpoint
from pipeline.job import job_price
from pipeline.keys import cache_name
from pipeline.models import Price
from pipeline.packing import id_name
from pipeline.plan import Plan
from pipeline.store.batches import Paths, Table, open_batches_of
from pipeline.store.folder import is_offline
from pipeline.store.journal import Journal
from pipeline.store.recent import stored_until
from pipeline.tokens import Costing, may_be_cached
from pipeline.usage import Tally

CALL_S = 120.0  # of a call to the Batch API, where the job sets no time limit


@dataclass(frozen=True, slots=True)
class Cargo:
    """What a run has open; requests for one row share `alone`, those for several `together`."""

    journal: Journal
    asker: Asker
    packing: Packing | None
    sink: Sink
    halt: Halt
    tally: Tally
    costing: Costing
    gate: Gate
    notes: list[str]
    rows: Rows
    alone: Generation
    together: Generation


@dataclass(frozen=True, slots=True)
class Manner:
    """How a run ships: whether tokens are `free`, whether it leaves its jobs, and how patient it is."""

    free: bool
    detach: bool
    pace: Pace
    longest_outage: float


def by_batches(plan: Plan) -> bool:
    """Tell whether a run asks by batches, or has to take in those that an earlier one has left open."""
    return plan.checked.loaded.job.mode == "batch" or bool(open_batches_of(plan.folder.path))


async def ship(plan: Plan, endpoint: Endpoint, cargo: Cargo, manner: Manner) -> None:
    """Ask for what is pending by batches; see `executors.batch`. Raises StoreError."""
    job, model = plan.checked.loaded.job, plan.checked.settings.model
    secrets = (endpoint.api_key,) if endpoint.api_key else ()
    paths = Paths(plan.folder.path)

    def replied(reply: Reply, batch: int, rows: int) -> None:
        usd = cargo.costing.usd(reply)
        cargo.tally.replied(reply.usage, usd, reply.tier)
        if batch:
            cargo.tally.shipped.answered(batch, rows, reply.usage, usd)
            cargo.costing.cost.learn(reply.usage, rows)  # or the gate has

    name = id_name(plan.checked.json_schema)
    with closing(Table(paths.table)) as table:
        intake = Intake(table, cargo.journal, name, replied=replied, secrets=secrets)
        async with (
            open_batches(endpoint, model, timeout_s=job.model.timeout or CALL_S) as api,
            open_caches(endpoint) as caches,
        ):
            means = Means(
                api=api,
                table=table,
                paths=paths,
                journal=cargo.journal,
                intake=intake,
                keeping=Keeping(caches, table, _kept(plan, cargo, manner), cargo.notes),
                sync=cargo.sink.sync,
                prove=partial(
                    _prove, endpoint=endpoint, deadline=job.model.deadline, cargo=cargo, intake=intake
                ),
                tally=cargo.tally,
                halt=cargo.halt,
                notes=cargo.notes,
            )
            shipping = Shipping(
                means,
                _policy(plan, endpoint, manner),
                cargo.rows,
                asker=cargo.asker,
                loading=Loading(cargo.packing, cargo.costing, _price(plan, manner)),
                bodies=lambda cache: _bodies(cargo, cache),
                sink=cargo.sink,
            )
            if is_offline(plan.folder):
                cargo.notes.extend(await to_thread.run_sync(_freed, table, paths, cargo.journal))
            await shipping.run()


def _freed(table: Table, paths: Paths, journal: Journal) -> list[str]:
    """Take back what emulators of earlier runs had; return notes."""
    return [told(lost) for lost in take_back(table, paths, lambda id_: journal.find(id_, b"") is not None)]


def _bodies(cargo: Cargo, cache: str) -> Bodies:
    """Return what lines share; of those for one row and those for several only the job's own name a cache."""
    alone, together = cargo.alone, cargo.together
    if cache and cargo.packing is None:
        alone = replace(alone, cache=cache)
    elif cache:
        together = replace(together, cache=cache)
    return Bodies(shared_body(alone), shared_body(together))


def _kept(plan: Plan, cargo: Cargo, manner: Manner) -> Terms:
    """Return what may be cached of a run's instruction."""
    checked = plan.checked
    system = (cargo.alone if cargo.packing is None else cargo.together).system
    wanted = checked.loaded.job.model.context_cache == "auto" and may_be_cached(system, checked.model)
    return Terms(
        model=checked.settings.model,
        system=system,
        display_name=cache_name(plan.fingerprint, system),
        price=_price(plan, manner),
        since=lambda: stored_until(plan.folder.journal) + AHEAD,
        wanted=wanted and not manner.free,
    )


async def _prove(line: Line, *, endpoint: Endpoint, deadline: float, cargo: Cargo, intake: Intake) -> None:
    """Ask a line online; see `Means`. A fault that passes says nothing, and the line goes into a batch."""
    generation, rows = cargo.together if line.packed else cargo.alone, len(line.members)
    async with open_client(endpoint, generation, timeout_s=deadline, connections=1) as client:

        async def send() -> Reply | Failure:
            cargo.tally.sent()
            cargo.tally.shipped.tried += rows
            return await client.ask(Request(line.members[0].id, line.text, line.cap))

        answer = await cargo.gate.once(send, line.text, rows=rows)
    if isinstance(answer, Reply):
        intake.keep(answer, line.members)
        return
    if answer is None:
        return
    cargo.tally.refused(answer)
    if answer.kind in (FailureKind.SCHEMA, FailureKind.CONFIG):
        cargo.halt.pull(answer)


def _policy(plan: Plan, endpoint: Endpoint, manner: Manner) -> Policy:
    job = plan.checked.loaded.job
    return Policy(
        limits=plan.checked.limits,
        pace=replace(manner.pace, spill=job.batch.spill_seconds),
        lines=job.batch.requests,
        max_cost=job.limits.max_cost,
        submits=job.mode == "batch",
        leaves=manner.detach,
        scope=endpoint.scope(job.limits.project),
        tier=job.model.service_tier,
        longest_outage=manner.longest_outage,
        offline=is_offline(plan.folder),
    )


def _price(plan: Plan, manner: Manner) -> Price | None:
    """Return what tokens cost in a batch, None where nothing."""
    section, model = plan.checked.loaded.job.model, plan.checked.settings.model
    return None if manner.free else job_price(section, model, datetime.now(UTC).date(), "batch")
