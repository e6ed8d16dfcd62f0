"""One run: find what is pending, ask for it, write the table, sum up."""

import resource
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
from pipeline.executors.crew import Crew
from pipeline.executors.day import Day
from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt
from pipeline.executors.online import Pending, Sink, execute
from pipeline.flow import Failure, FailureKind, Outcome, Reply, Row, Spent, Usage
from pipeline.gemini.client import Generation, open_client
from pipeline.gemini.endpoint import Endpoint
from pipeline.job import job_price
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.models import Limits, Price
from pipeline.output import TOKENS, Written, count, write_output
from pipeline.parts import Index, Parts, heads
from pipeline.plan import Plan
from pipeline.progress import Watched, span
from pipeline.quota import day_reset
from pipeline.report import RunReport, Stop
from pipeline.retry import HINTS, OUTAGE, TABLE, Act
from pipeline.source import Survey
from pipeline.store import begin_round, changes, end_round, owned
from pipeline.tokens import CostEstimate, Costing, TokenEstimate
from pipeline.usage import Tally, cost_usd

Watch: TypeAlias = Callable[[Watched], Coroutine[object, object, None]]

MOST_IN_FLIGHT = 4_096
MOST_ASLEEP = 1_024  # rows that wait for their next attempt meanwhile
SPARE_FILES = 128  # of the process's file descriptors: what is no connection
GOES_ON = "run the same command again: it goes on where it stopped and asks nothing twice"
LOWER = (
    "the API allows {found:,} {words}, not {told}, and the run kept to that: set `{name}` to it in [limits]"
)
DAMAGED = "the damaged part `{name}` was set aside, its rows are asked again"
OUTPUT_TOKENS = 65_535  # the cap of every Flash-Lite model so far; for models of unknown limits


@dataclass(frozen=True, slots=True)
class Service:
    """Who answers: the endpoint, what was sent there lately, and whether tokens are free.

    `wait` waits for the reset of the daily quota instead of stopping there.
    """

    endpoint: Endpoint
    ledger: Ledger
    free: bool
    wait: bool = False


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
    notes: list[str]


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
            stop = _asked(_Work(plan, service, parts, index, pending, tally, turn, notes), watch)
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
    if reason.kind is FailureKind.SPEND_LIMITED:
        message = "the API says again and again that the spend limit of ten minutes is reached"
        return Stop(message, HINTS[reason.kind], Exit.STOPPED)
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
    gate = Gate(limiter, day, halt, crew, costing=_costing(work))
    opened = open_client(
        service.endpoint, _generation(plan), timeout_s=checked.loaded.job.model.timeout, connections=cap
    )
    with closing(Journal(plan.folder.journal)) as journal, closing(limiter):
        async with opened as client, anyio.create_task_group() as beside:
            beside.start_soon(watch, Watched(work.tally, gate, halt))
            asker = Asker(_question(work), client, gate, journal, halt=halt, crew=crew, tally=work.tally)
            await execute(_batches(work), asker, _sink(work, journal, halt), halt=halt, crew=crew)
            beside.cancel_scope.cancel()
    work.notes.extend(_learned(checked.limits, limiter.limits))
    return halt


def _most_connections() -> int:
    """Return how many connections the process may open, after asking the system for as many as it gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_IN_FLIGHT + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return MOST_IN_FLIGHT if soft == resource.RLIM_INFINITY else max(1, soft - SPARE_FILES)


def _costing(work: _Work) -> Costing:
    checked = work.plan.checked
    counts = checked.limits.spend_10min_usd is not None and not work.service.free
    price = checked.model.price(datetime.now(UTC).date(), "standard") if counts else None
    return Costing(TokenEstimate(checked.loaded.job.prompt.system), CostEstimate(price), _price(work))


def _learned(told: Limits, found: Limits) -> list[str]:
    """Return a note for each limit of the API that was found to be lower than what the run was told."""
    pairs = [("rpm", "requests a minute"), ("tpm", "input tokens a minute")]
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
