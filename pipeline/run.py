"""One run: find what is pending, ask for it, write the table, sum up."""

import time
from dataclasses import dataclass

from pipeline.asking import Service, Watch, Work, ask_all
from pipeline.errors import DamagedError, Exit
from pipeline.flow import Failure, FailureKind
from pipeline.output import Written, count, write_output
from pipeline.pending import pending_rows, replied, waiting_rows
from pipeline.plan import Plan
from pipeline.progress import span
from pipeline.quota import day_reset
from pipeline.report import RunReport, Stop
from pipeline.retry import OUTAGE, TABLE, Act, hint_of
from pipeline.store.advice import advice
from pipeline.store.census import Census, census, keep
from pipeline.store.compaction import compact
from pipeline.store.completion import Completion, completion, mark, unmark
from pipeline.store.folder import begin_round, changes, end_round, owned
from pipeline.store.memo import Follower, recall, remember
from pipeline.store.parts import Parts
from pipeline.store.standing import Standing, stand
from pipeline.usage import Tally

GOES_ON = "run the same command again: it goes on where it stopped and asks nothing twice"
EMPTY = "the input has no rows, so the table has none either: see that this is meant"
DAMAGED = "the damaged part `{name}` was set aside; its rows were taken from the journal, or asked again"
UNCALIBRATED = (
    "`packing.rows` is `auto` and nothing is known of this prompt, schema and model yet, so each row has a "
    "request of its own: `rowmill calibrate {job}` finds out how many may share one"
)
SHORTER = "the table in `{output}` had {before:,} rows and has {after:,} now; `--output` keeps tables apart"


def run_job(plan: Plan, service: Service, *, watch: Watch, retry_failed: bool = False) -> RunReport:
    """Run a plan to its end or to a stop, and report.

    `watch` is run beside it and cancelled at its end; it shows progress. Raises InputError before
    anything is written, StoreError when the run folder or the disk fails; what was answered is kept.
    """
    taken = census(plan.source, plan.folder)
    survey = taken.survey
    notes = _notes(plan)
    with owned(plan.folder, plan.identity) as repaired:
        notes += repaired
        keep(taken, plan.folder)
        parts = Parts(plan.folder.parts, plan.checked.layout.part, plan.fingerprint)
        parts.clean()
        before = completion(plan.folder)
        unmark(plan.folder)
        compact(parts)
        standing = stand(survey, parts, recall(taken, parts, plan.folder))
        if not standing.index.known:
            remember(standing, taken, plan.folder)
        turn = _turn(plan, standing, notes) if retry_failed else None
        tally = _tally(standing, turn, plan.pack)
        notes += [] if survey.rows else [EMPTY]
        run = _Run(taken, parts, tally, turn, notes)
        while (ended := _round(plan, service, run, watch, standing)) is None:
            standing = stand(survey, parts)  # each time a part fewer, of which there are only so many
        notes += [DAMAGED.format(name=name) for name in parts.set_aside]
        if turn is not None and not ended.left:
            end_round(plan.folder)
        if not ended.unanswered:
            done = ended.table
            mark(plan.folder, ok=done.ok, failed=done.failed, limited=plan.limited, output=plan.output)
            notes += _shorter(before, plan, survey.rows)
    return RunReport(
        job=plan.checked.loaded.job.name,
        folder=plan.folder.path,
        rows=survey.rows,
        limited=plan.limited,
        pending=ended.unanswered,
        table=ended.table,
        output=None if ended.unanswered else plan.output,
        target=plan.output,
        requests=tally.requests,
        asked=tally.asked,
        usage=tally.usage,
        cost_usd=tally.cost_usd,
        seconds=time.monotonic() - tally.started,
        failures=tally.failures,
        tiers=tally.tiers,
        free=service.free,
        saved=tally.saved,
        offline=plan.identity["endpoint"] == "emulator",
        notes=notes,
        stop=ended.stop if ended.left else None,
    )


@dataclass(frozen=True, slots=True)
class _Run:
    """What a run has open."""

    taken: Census
    parts: Parts
    tally: Tally
    turn: int | None  # of --retry-failed
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Ended:
    """Where a run stands: its table, the rows without an answer, and those `left` in this round."""

    table: Written
    unanswered: int
    left: int
    stop: Stop | None


def _round(plan: Plan, service: Service, run: _Run, watch: Watch, standing: Standing) -> _Ended | None:
    """Ask for what is pending and write the table; None where a part turned out damaged and was set aside."""
    survey, parts = run.taken.survey, run.parts
    pending = pending_rows(standing, run.turn)
    stop = None
    try:
        if pending.any():
            run.tally.kept = 0 if run.turn else replied(survey, pending, plan.folder)
            memo = Follower(standing, run.taken, parts, plan.folder)
            work = Work(plan, service, parts, standing, pending, run.tally, run.turn, run.notes, memo.follow)
            halt = ask_all(work, watch)
            stop = _stop(halt.reason) if halt.pulled.is_set() else None
            standing = stand(survey, parts, memo.standing)
            if stop is not None:
                remember(standing, run.taken, plan.folder)
        unanswered = int(waiting_rows(standing).sum())
        left = int(pending_rows(standing, run.turn).sum())
        return _Ended(_table(plan, parts, standing, complete=not unanswered), unanswered, left, stop)
    except DamagedError:
        return None


def _turn(plan: Plan, standing: Standing, notes: list[str]) -> int:
    """Begin a round of `--retry-failed`, or go on with it."""
    turn, found = begin_round(plan.folder, standing.index.last_round)
    notes += found
    return turn


def _tally(standing: Standing, turn: int | None, pack: int) -> Tally:
    """Return the counters of a run that begins."""
    rows = len(standing.rows)
    todo = int(pending_rows(standing, turn).sum())
    alike = int(waiting_rows(standing, turn).sum()) - todo
    return Tally(total=rows, started=time.monotonic(), pack=pack, earlier=rows - todo, alike=alike)


def _shorter(before: Completion | None, plan: Plan, rows: int) -> list[str]:
    """Return a note where the table of another input, or of all rows, was replaced by a shorter one."""
    if before is None or before.output != plan.output or before.ok + before.failed <= rows:
        return []
    return [SHORTER.format(output=plan.output, before=before.ok + before.failed, after=rows)]


def _notes(plan: Plan) -> list[str]:
    notes = []
    if changed := changes(plan.folder, plan.identity):
        names = ", ".join(f"`{name}`" for name in changed)
        notes.append(
            f"{names} changed since the last run, so every row is asked anew; the old answers are kept"
        )
    if plan.checked.loaded.job.packing.rows == "auto" and advice(plan.folder, plan.fingerprint) is None:
        notes.append(UNCALIBRATED.format(job=plan.checked.loaded.path.name))
    return notes


def _table(plan: Plan, parts: Parts, standing: Standing, *, complete: bool) -> Written:
    if complete:
        escape = plan.checked.loaded.job.output.escape_formulas
        layout = plan.checked.layout
        return write_output(plan.source, parts, standing, layout, plan.output, escape_formulas=escape)
    return count(parts, standing)


def _stop(reason: Failure | None) -> Stop:
    if reason is None:
        return Stop("stopped before the end, by Ctrl-C, SIGTERM or SIGHUP", GOES_ON, Exit.STOPPED)
    act = TABLE[reason.kind].act
    if reason.kind in OUTAGE:
        message = f"the API cannot be reached: {reason.message}"
    elif reason.kind is FailureKind.SPEND_LIMITED:
        message = "the API says again and again that the spend limit of ten minutes is reached"
    elif reason.kind in (FailureKind.MAX_COST, FailureKind.LEFT_OPEN):
        message = reason.message
    elif act is Act.PAUSE:
        message = f"the API asks to wait {span(reason.retry_after or 0)}"
    elif act is Act.STOP:
        reset = day_reset(time.time()).astimezone()
        limit = reason.message if reason.quota_id is None else f"{reason.quota_id} says the API"
        message = f"the daily quota is used up; it resets at {reset:%a %d %b %H:%M %Z} ({limit})"
    else:
        return Stop(f"the API refuses this run: {reason.message}", hint_of(reason), Exit.REFUSED)
    return Stop(message, hint_of(reason), Exit.STOPPED)
