"""One run: find what is pending, ask for it, write the table, sum up."""

import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from typing import TypeAlias

import anyio
import numpy as np
from numpy.typing import NDArray

from pipeline.cache import Journal
from pipeline.errors import Exit, RowmillError
from pipeline.executors.asker import Asker, Question
from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt
from pipeline.executors.online import Pending, Sink, execute
from pipeline.flow import Failure, FailureKind, Outcome, Reply, Row, Spent, Usage
from pipeline.gemini.client import Generation, open_client
from pipeline.gemini.endpoint import Endpoint
from pipeline.job import job_price
from pipeline.ledger import Ledger
from pipeline.models import Limits, Price
from pipeline.output import TOKENS, Written, count, write_output
from pipeline.parts import Index, Parts, heads
from pipeline.plan import Plan
from pipeline.progress import Watched, span
from pipeline.quota import Estimate, day_reset
from pipeline.report import RunReport, Stop
from pipeline.retry import HINTS, OUTAGE, TABLE, Act
from pipeline.source import Survey
from pipeline.store import begin_round, changes, end_round, owned
from pipeline.usage import Tally, cost_usd

Watch: TypeAlias = Callable[[Watched], Coroutine[object, object, None]]

MOST_WORKERS = 256
SECONDS_EACH = 3.0  # what a request is taken to last when workers are counted out from the rate
GOES_ON = "run the same command again: it goes on where it stopped and asks nothing twice"
DAMAGED = "the damaged part `{name}` was set aside, its rows are asked again"
OUTPUT_TOKENS = 65_535  # the cap of every Flash-Lite model so far; for models of unknown limits


@dataclass(frozen=True, slots=True)
class Service:
    """Who answers: the endpoint, the count of today's requests there, and whether tokens are free."""

    endpoint: Endpoint
    ledger: Ledger
    free: bool


@dataclass(frozen=True, slots=True)
class _Work:
    """What is open while a run asks."""

    plan: Plan
    service: Service
    parts: Parts
    index: Index
    pending: NDArray[np.bool_]
    tally: Tally
    turn: int | None  # of --retry-failed


def run_job(plan: Plan, service: Service, *, watch: Watch, retry_failed: bool = False) -> RunReport:
    """Run a plan to its end or to a stop, and report.

    `watch` is run beside it and cancelled at its end; it shows progress. Raises InputError before
    anything is written, StoreError when the run folder or the disk fails; what was answered is kept.
    """
    survey = plan.source.survey()
    notes = _notes(plan)
    with owned(plan.folder, plan.identity):
        parts = Parts(plan.folder.parts, plan.checked.layout.part)
        parts.clean()
        index = parts.index()
        turn = begin_round(plan.folder, int(index.rounds.max(initial=0))) if retry_failed else None
        pending = pending_rows(survey, index, turn)
        todo = int(pending.sum())
        tally = Tally(total=survey.rows, started=time.monotonic(), earlier=survey.rows - todo)
        notes += [DAMAGED.format(name=name) for name in parts.set_aside]
        stop = None
        if todo:
            stop = _asked(_Work(plan, service, parts, index, pending, tally, turn), watch)
            index = parts.index()
        unanswered = int(pending_rows(survey, index).sum())
        left = int(pending_rows(survey, index, turn).sum())
        if turn is not None and not left:
            end_round(plan.folder)
        table = _table(plan, survey, parts, index, complete=not unanswered)
    return RunReport(
        job=plan.checked.loaded.job.name,
        folder=plan.folder.path,
        rows=survey.rows,
        limited=plan.limited,
        pending=unanswered,
        table=table,
        output=None if unanswered else plan.output,
        requests=tally.requests,
        usage=tally.usage,
        cost_usd=tally.cost_usd,
        seconds=time.monotonic() - tally.started,
        failures=tally.failures,
        free=service.free,
        notes=notes,
        stop=stop if left else None,
    )


def pending_rows(survey: Survey, index: Index, turn: int | None = None) -> NDArray[np.bool_]:
    """Return which rows of the input are to be asked: of equal rows the first, unless it is answered.

    In round `turn` of `--retry-failed`, rows that failed in an earlier round are to be asked too.
    """
    positions = index.find(survey.keys, survey.digests)
    answered = positions >= 0
    if turn is not None:
        known = positions[answered]
        answered[answered] = index.ok[known] | (index.rounds[known] >= turn)
    first = np.zeros(survey.rows, dtype=np.bool_)
    first[np.unique(survey.keys, return_index=True)[1]] = True
    return first & ~answered


def _notes(plan: Plan) -> list[str]:
    changed = changes(plan.folder, plan.identity)
    if not changed:
        return []
    names = ", ".join(f"`{name}`" for name in changed)
    return [f"{names} changed since the last run, so every row is asked anew; the old answers are kept"]


def _table(plan: Plan, survey: Survey, parts: Parts, index: Index, *, complete: bool) -> Written:
    if complete:
        return write_output(plan.source, parts, index, plan.checked.layout, plan.output)
    return count(parts, index, index.find(survey.keys, survey.digests))


def _asked(work: _Work, watch: Watch) -> Stop | None:
    """Ask for all pending rows; return why it ended early, if it did."""
    try:
        halt = anyio.run(_ask, work, watch)
    except BaseExceptionGroup as group:
        ours = group.subgroup(RowmillError)
        if ours is None:
            raise
        raise _first(ours) from group
    return _stop(halt.reason) if halt.pulled.is_set() else None


def _first(group: BaseExceptionGroup[RowmillError]) -> RowmillError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _stop(reason: Failure | None) -> Stop:
    if reason is None:
        return Stop("stopped before the end, by Ctrl-C or SIGTERM", GOES_ON, Exit.STOPPED)
    if reason.kind in OUTAGE:
        return Stop(f"the API cannot be reached: {reason.message}", HINTS[reason.kind], Exit.STOPPED)
    if TABLE[reason.kind].act is Act.PAUSE:
        wait = span(reason.retry_after or 0)
        return Stop(f"the API asks to wait {wait}", HINTS[reason.kind], Exit.STOPPED)
    if TABLE[reason.kind].act is Act.STOP:
        reset = day_reset(time.time()).astimezone()
        limit = reason.message if reason.quota_id is None else f"{reason.quota_id} says the API"
        message = f"the daily quota is used up; it resets at {reset:%a %d %b %H:%M %Z} ({limit})"
        return Stop(message, HINTS[reason.kind], Exit.STOPPED)
    return Stop(f"the API refuses this run: {reason.message}", HINTS[reason.kind], Exit.REFUSED)


async def _ask(work: _Work, watch: Watch) -> Halt:
    plan, halt = work.plan, Halt()
    checked = plan.checked
    workers = worker_count(checked.limits, checked.loaded.job.limits.concurrency)
    gate = Gate(
        checked.limits,
        work.service.ledger,
        halt,
        estimate=Estimate(checked.loaded.job.prompt.system),
        clock=time.time,
    )
    opened = open_client(
        work.service.endpoint,
        _generation(plan),
        timeout_s=checked.loaded.job.model.timeout,
        connections=workers,
    )
    with closing(Journal(plan.folder.journal)) as journal:
        async with opened as client, anyio.create_task_group() as beside:
            beside.start_soon(watch, Watched(work.tally, checked.limits, gate.limiter, halt))
            asker = Asker(_question(work), client, gate, journal, halt=halt, tally=work.tally)
            await execute(_batches(work), asker, _sink(work, journal, halt), halt, workers=workers)
            beside.cancel_scope.cancel()
    return halt


def worker_count(limits: Limits, cap: int | None) -> int:
    """Return how many requests may be in flight: rate times duration, at least 4, at most the cap."""
    wanted = MOST_WORKERS if limits.rpm is None else round(limits.rpm / 60 * SECONDS_EACH)
    return min(max(4, wanted), cap or MOST_WORKERS)


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


def _question(work: _Work) -> Question:
    checked = work.plan.checked
    return Question(
        template=checked.template,
        answer=checked.loaded.schema,
        fingerprint=work.plan.fingerprint,
        max_output_tokens=checked.settings.max_output_tokens,
        output_ceiling=checked.model.output_tokens or OUTPUT_TOKENS,
        price=_price(work),
    )


def _price(work: _Work) -> Callable[[Reply], float]:
    """Return what a reply cost in USD, at the price of the model that served it on the day it did."""
    checked = work.plan.checked

    @cache
    def known(model: str, tier: str, day: date) -> Price | None:
        return job_price(checked.loaded.job.model, model, day, tier) or checked.model.price(day, "standard")

    def price(reply: Reply) -> float:
        found = known(reply.model, reply.tier, datetime.now(UTC).date())
        return cost_usd(reply.usage, found, free=work.service.free) if found else 0.0

    return price


def _sink(work: _Work, journal: Journal, halt: Halt) -> Sink:
    layout = work.plan.checked.layout

    def write(outcomes: list[Outcome]) -> None:
        if halt.reason is not None and halt.reason.kind is FailureKind.CONFIG:
            outcomes = [one for one in outcomes if not _suspect(one)]  # the request was wrong, not these rows
        if outcomes:
            work.parts.write(layout.table(outcomes))
            journal.checkpoint()

    return Sink(ended=work.tally.add, write=write, sync=journal.sync)


def _suspect(outcome: Outcome) -> bool:
    return isinstance(outcome.answer, Failure) and outcome.answer.kind is FailureKind.BAD_REQUEST


def _batches(work: _Work) -> Iterator[list[Pending]]:
    for rows in work.plan.source.rows(work.pending):
        yield _with_earlier(rows, work)


def _with_earlier(rows: list[Row], work: _Work) -> list[Pending]:
    """Add what earlier rounds took to rows that have failed before and are asked again."""
    if work.turn is None:
        return [Pending(row) for row in rows]
    positions = work.index.find(heads([row.key for row in rows]), heads([row.digest for row in rows]))
    known = np.flatnonzero(positions >= 0)
    earlier = dict(zip(known, work.parts.take(work.index, positions[known]).to_pylist(), strict=True))
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
