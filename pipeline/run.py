"""One run: find what is pending, ask for it, write the table, sum up."""

import time

from pipeline.asking import Service, Watch, Work, ask_all
from pipeline.errors import Exit
from pipeline.flow import Failure, FailureKind
from pipeline.output import Written, count, write_output
from pipeline.parts import Index, Parts
from pipeline.pending import pending_rows, replied
from pipeline.plan import Plan
from pipeline.progress import span
from pipeline.quota import day_reset
from pipeline.report import RunReport, Stop
from pipeline.retry import OUTAGE, TABLE, Act, hint_of
from pipeline.source import Survey
from pipeline.store import begin_round, changes, end_round, owned
from pipeline.usage import Tally

GOES_ON = "run the same command again: it goes on where it stopped and asks nothing twice"
DAMAGED = "the damaged part `{name}` was set aside, its rows are asked again"


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
            tally.kept = replied(survey, pending, plan.folder)
            halt = ask_all(Work(plan, service, parts, index, pending, tally, turn, notes), watch)
            stop = _stop(halt.reason) if halt.pulled.is_set() else None
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


def _notes(plan: Plan) -> list[str]:
    changed = changes(plan.folder, plan.identity)
    if not changed:
        return []
    names = ", ".join(f"`{name}`" for name in changed)
    return [f"{names} changed since the last run, so every row is asked anew; the old answers are kept"]


def _table(plan: Plan, survey: Survey, parts: Parts, index: Index, *, complete: bool) -> Written:
    if complete:
        escape = plan.checked.loaded.job.output.escape_formulas
        layout = plan.checked.layout
        return write_output(plan.source, parts, index, layout, plan.output, escape_formulas=escape)
    return count(parts, index, index.find(survey.keys, survey.digests))


def _stop(reason: Failure | None) -> Stop:
    if reason is None:
        return Stop("stopped before the end, by Ctrl-C or SIGTERM", GOES_ON, Exit.STOPPED)
    if reason.kind in OUTAGE:
        return Stop(f"the API cannot be reached: {reason.message}", hint_of(reason), Exit.STOPPED)
    if reason.kind is FailureKind.SPEND_LIMITED:
        message = "the API says again and again that the spend limit of ten minutes is reached"
        return Stop(message, hint_of(reason), Exit.STOPPED)
    if TABLE[reason.kind].act is Act.PAUSE:
        wait = span(reason.retry_after or 0)
        return Stop(f"the API asks to wait {wait}", hint_of(reason), Exit.STOPPED)
    if TABLE[reason.kind].act is Act.STOP:
        reset = day_reset(time.time()).astimezone()
        limit = reason.message if reason.quota_id is None else f"{reason.quota_id} says the API"
        message = f"the daily quota is used up; it resets at {reset:%a %d %b %H:%M %Z} ({limit})"
        return Stop(message, hint_of(reason), Exit.STOPPED)
    return Stop(f"the API refuses this run: {reason.message}", hint_of(reason), Exit.REFUSED)
