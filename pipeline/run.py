"""One run: find what is pending, ask for it, write the table, sum up."""

import time
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from pipeline.asking import Service, Watch, Work, ask_all
from pipeline.auto import auto_words
from pipeline.errors import ChangedError, DamagedError, Exit, RowmillError, StoreError
from pipeline.executors.halt import Halt
from pipeline.executors.parting import enqueued
from pipeline.flow import Failure, FailureKind
from pipeline.input.bad import LeftOut
from pipeline.job import place_of
from pipeline.output import Written, count, write_output
from pipeline.pending import different, pending_rows, replied, waiting_rows
from pipeline.plan import Plan
from pipeline.progress import many, span, usd
from pipeline.quota import day_reset
from pipeline.remarks import gone, kept, open_elsewhere, replaced, unmarked, unneeded
from pipeline.report import RunReport, Stop
from pipeline.retry import OUTAGE, TABLE, Act, hint_of, more_money
from pipeline.shipping import by_batches
from pipeline.store.batches import open_batches_of
from pipeline.store.cache import Use
from pipeline.store.census import Census, census, keep, state_of
from pipeline.store.compaction import compact
from pipeline.store.completion import Completion, completion, mark, unmark
from pipeline.store.folder import CONTINUE, begin_round, changes, end_round, in_words, owned
from pipeline.store.journal import mended
from pipeline.store.memo import Follower, recall, remember
from pipeline.store.origin import is_emulated
from pipeline.store.parts import Parts
from pipeline.store.standing import Standing, stand
from pipeline.usage import Tally

GOES_ON = "run the same command again: it goes on where it stopped and asks nothing twice"
STOPPED = "stopped before the end by {signal}"
AGAIN = "what was in flight is asked once more and may be paid for again"
ONCE_MORE = f"run the same command again: it goes on where it stopped; only {AGAIN}"
EMPTY = "the input has no rows, so the table has none either: see that this is meant"
DAMAGED = "the damaged part `{name}` was set aside; its rows were taken from the journal, or asked again"
SOUGHT = (
    "of {rows} to ask after that the journal had the reply to {kept}; the others were equal to one of these, "
    "in the cache, or asked"
)
ABOVE = "; what is above that was in flight by then"
BEYOND = "spent {spent}, {more} more than `max_cost`"


def run_job(plan: Plan, service: Service, *, watch: Watch, retry_failed: bool = False) -> RunReport:
    """Run a plan to its end or to a stop, and report.

    `watch` is run beside it and cancelled at its end; it shows progress. Raises InputError before anything is
    written, and StoreError where the run folder cannot be used. When the disk fails or the input changes
    later, the report says what is kept, and its `stop` why the run ended.
    """
    taken = census(plan.source, plan.folder)
    survey, state = taken.survey, state_of(plan.source)
    notes = _notes(plan)
    with owned(plan.folder, plan.identity) as repaired:
        notes += repaired
        keep(taken, plan.folder)
        left_out = _left_out(plan)
        parts = Parts(plan.folder.parts, plan.checked.layout.part, plan.fingerprint)
        parts.clean()
        before = completion(plan.folder)
        notes += unmarked(plan.folder)
        compact(parts)
        standing = stand(survey, parts, recall(taken, parts, plan.folder))
        if not standing.index.known:
            remember(standing, taken, plan.folder)
        turn = _turn(plan, standing, notes) if retry_failed else None
        tally = _tally(standing, turn, plan.pack)
        tally.before_usd = service.spent
        notes += [] if survey.rows else [EMPTY]
        notes += gone(before, standing, state) if not parts.set_aside else []
        notes += kept(plan, tally.earlier - tally.alike) if service.use is Use.REFRESH else []
        run = _Run(taken, parts, tally, turn, notes)
        while (ended := _round(plan, service, run, watch, standing)) is None:
            standing = stand(survey, parts)  # each time a part fewer, of which there are only so many
        notes += _damaged(run)
        notes += _beyond(plan, tally) if ended.stop is None else []
        notes += [] if ended.left else unneeded(plan)
        if turn is not None and not ended.left and ended.stop is None:
            end_round(plan.folder)
        if ended.written:
            mark(plan.folder, _completion(plan, ended, state))
            notes += replaced(before, plan, survey.rows)
    return _report(plan, service, run, ended, left_out)


@dataclass(slots=True)
class _Run:
    """What a run has open; so many rows were `sought` in its last round."""

    taken: Census
    parts: Parts
    tally: Tally
    turn: int | None  # of --retry-failed
    notes: list[str]
    sought: int = 0


@dataclass(frozen=True, slots=True)
class _Ended:
    """Where a run stands: its table, and whether that is `written`; the rows without an answer, and more.

    `left` rows are still to be asked in this round, `replied` of them have a reply in the journal; `answers`
    are behind the rows of a table that is written.
    """

    table: Written
    written: bool
    unanswered: int
    left: int
    stop: Stop | None
    replied: int = 0
    answers: int = 0


def _report(plan: Plan, service: Service, run: _Run, ended: _Ended, left_out: LeftOut) -> RunReport:
    tally = run.tally
    return RunReport(
        job=plan.checked.loaded.job.name,
        folder=plan.folder.path,
        rows=run.taken.survey.rows,
        limited=plan.limited,
        pending=ended.unanswered,
        table=ended.table,
        replied=ended.replied,
        output=plan.output if ended.written else None,
        target=plan.output,
        requests=tally.departed,
        unsent=tally.unsent,
        unanswered=tally.unheard + tally.dropped,
        unwritten=tally.unwritten,
        asked=tally.asked + tally.shipped.rows + tally.shipped.tried,
        shipped=tally.shipped,
        usage=tally.usage,
        cost_usd=tally.cost_usd,
        seconds=time.monotonic() - tally.started,
        failures=tally.failures,
        tiers=tally.tiers,
        free=service.free,
        saved=tally.saved,
        offline=plan.identity["endpoint"] == "emulator" or is_emulated(plan.folder) or tally.emulated,
        notes=run.notes,
        stop=ended.stop,
        left_out=left_out,
    )


def _round(plan: Plan, service: Service, run: _Run, watch: Watch, standing: Standing) -> _Ended | None:
    """Ask for what is pending and write the table; None where a part turned out damaged and was set aside."""
    whole = len(run.parts.set_aside)
    try:
        ended = _whole_round(plan, service, run, watch, standing)
    except DamagedError:
        return None
    except (StoreError, ChangedError) as error:
        return _broken_off(plan, run, standing, error)
    damaged = len(run.parts.set_aside) > whole  # what was written just now, too
    return None if damaged and ended.left and ended.stop is None else ended


def _whole_round(plan: Plan, service: Service, run: _Run, watch: Watch, standing: Standing) -> _Ended:
    survey, parts = run.taken.survey, run.parts
    pending = pending_rows(standing, run.turn)
    stop = None
    if pending.any():
        run.sought = int(pending.sum())
        run.tally.kept = 0 if run.turn else _kept(plan, run, pending)
        if by_batches(plan):
            run.tally.enqueued = enqueued(open_batches_of(plan.folder.path), time.time())
        memo = Follower(standing, run.taken, parts, plan.folder)
        work = Work(plan, service, parts, standing, pending, run.tally, run.turn, run.notes, memo.follow)
        unmark(plan.folder)
        halt = ask_all(work, watch)
        stop = _stop(halt, run.tally, plan) if halt.pulled.is_set() else None
        standing = stand(survey, parts, memo.standing)
        if stop is not None:
            remember(standing, run.taken, plan.folder)
    else:
        run.notes.extend(mended(plan.folder.journal))
    unanswered = int(waiting_rows(standing).sum())
    left = int(pending_rows(standing, run.turn).sum())
    table = _table(plan, parts, standing, complete=not unanswered)
    stop = stop if left else None
    return _Ended(table, not unanswered, unanswered, left, stop, answers=different(standing))


def _kept(plan: Plan, run: _Run, pending: NDArray[np.bool_]) -> int:
    """Return how many of these rows have a reply in the journal; of a damaged one only when it is mended."""
    if found := replied(run.taken.survey, pending, plan.folder):
        return found
    notes = mended(plan.folder.journal)
    run.notes.extend(notes)
    return replied(run.taken.survey, pending, plan.folder) if notes else 0


def _broken_off(plan: Plan, run: _Run, standing: Standing, error: StoreError | ChangedError) -> _Ended:
    """Say what is kept where the disk or the input has failed; raises the error where that cannot be told."""
    try:
        standing = stand(run.taken.survey, run.parts, standing)
        pending = pending_rows(standing, run.turn)
        unanswered, left = int(waiting_rows(standing).sum()), int(pending.sum())
        known = 0 if run.turn else replied(run.taken.survey, pending, plan.folder)
        stop = _cut_short(error, run.tally, left)
        return _Ended(count(run.parts, standing), False, unanswered, left, stop, known)
    except RowmillError:
        raise error from None


def _beyond(plan: Plan, tally: Tally) -> list[str]:
    """Return a note where more was spent than the job allows, without a stop that tells."""
    most = plan.checked.loaded.job.limits.max_cost
    if most is None or tally.spent_usd <= most:
        return []
    return [BEYOND.format(spent=usd(tally.spent_usd), more=usd(tally.spent_usd - most))]


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


def _completion(plan: Plan, ended: _Ended, state: str | None) -> Completion:
    """Return the mark of a run that has written its table of the input in this state."""
    return Completion(
        ok=ended.table.ok,
        failed=ended.table.failed,
        limited=plan.limited,
        output=plan.output,
        answers=ended.answers,
        input=state,
        input_path=plan.input_path,
    )


def _damaged(run: _Run) -> list[str]:
    """Return a note for each part that was set aside, and one on where its rows came from."""
    notes = [DAMAGED.format(name=name) for name in run.parts.set_aside]
    if notes and run.sought and not run.turn:
        notes.append(SOUGHT.format(rows=many(run.sought, "row"), kept=f"{run.tally.kept:,}"))
    return notes


def _left_out(plan: Plan) -> LeftOut:
    """Write the bad rows into the run folder, in place of those of the last run of this input."""
    path = plan.bad_rows
    try:
        return plan.source.write_left_out(path)
    except OSError as exc:
        raise StoreError(f"`{path}` cannot be written: {exc.strerror}", CONTINUE) from exc


def _notes(plan: Plan) -> list[str]:
    notes = []
    if changed := changes(plan.folder, plan.identity):
        names = ", ".join(f"`{name}`" for name in in_words(changed))
        notes.append(
            f"{names} changed since the last run, so every row is asked anew; the old answers are kept"
        )
    return notes + auto_words(plan) + open_elsewhere(plan)


def _table(plan: Plan, parts: Parts, standing: Standing, *, complete: bool) -> Written:
    if complete:
        escape = plan.checked.loaded.job.output.escape_formulas
        layout = plan.checked.layout
        return write_output(plan.source, parts, standing, layout, plan.output, escape_formulas=escape)
    return count(parts, standing)


def _stop(halt: Halt, tally: Tally, plan: Plan) -> Stop:
    """Say why a run stopped; some requests were not waited for where Ctrl-C was pressed again."""
    reason = halt.reason
    told = Stop(STOPPED.format(signal=halt.signal), GOES_ON, Exit.STOPPED, "signal")
    stop = told if reason is None else _stopped_by(reason, tally, plan)
    if not tally.dropped:
        return stop
    hint = ONCE_MORE if reason is None else f"{stop.hint}; {AGAIN}"
    return replace(stop, message=stop.message + _dropped(tally.dropped), hint=hint)


def _cut_short(error: StoreError | ChangedError, tally: Tally, left: int) -> Stop:
    """Say why a run could not go on: replies that the disk did not take are lost like those in flight."""
    asked_again = left and tally.requests if isinstance(error, StoreError) else tally.dropped
    hint = f"{error.hint}; {AGAIN}" if asked_again else error.hint
    kind = "disk" if isinstance(error, StoreError) else "input"
    return Stop(error.message + _dropped(tally.dropped), hint, error.exit_code, kind)


def _dropped(dropped: int) -> str:
    was = "was" if dropped == 1 else "were"
    return f"; {many(dropped, 'request')} in flight {was} dropped" if dropped else ""


def _silence(seconds: float) -> str:
    """Say since when nothing was answered; nothing where no answer was ever waited for."""
    since = datetime.fromtimestamp(time.time() - seconds).astimezone()
    return f"; no answer since {since:%a %d %b %H:%M %Z}, for {span(seconds)}" if seconds else ""


def _stopped_by(reason: Failure, tally: Tally, plan: Plan) -> Stop:
    """Say what stopped a run; what it has spent includes what was in flight then."""
    act, kind = TABLE[reason.kind].act, str(reason.kind)
    if reason.kind in OUTAGE:
        message = f"the API cannot be reached: {reason.message}{_silence(tally.silence)}"
    elif reason.kind is FailureKind.SPEND_LIMITED:
        message = "the API says again and again that the spend limit of ten minutes is reached"
    elif reason.kind is FailureKind.MAX_COST:
        most = plan.checked.loaded.job.limits.max_cost
        above = "" if most is None or tally.spent_usd <= most else ABOVE
        message = f"the run has spent {usd(tally.spent_usd)}, and {reason.message}{above}"
        open_ = 0.0 if tally.enqueued is None else tally.enqueued.usd
        hint = more_money(place_of(plan.checked.loaded, "limits", "max_cost"), open_)
        return Stop(message, hint, Exit.STOPPED, kind)
    elif reason.kind is FailureKind.LEFT_OPEN:
        message = reason.message
    elif act is Act.PAUSE:
        message = f"the API asks to wait {span(reason.retry_after or 0)}"
    elif act is Act.STOP:
        reset = day_reset(time.time()).astimezone()
        limit = reason.message if reason.quota_id is None else f"{reason.quota_id} says the API"
        message = f"the daily quota is used up; it resets at {reset:%a %d %b %H:%M %Z} ({limit})"
    else:
        return Stop(f"the API refuses this run: {reason.message}", hint_of(reason), Exit.REFUSED, kind)
    return Stop(message, hint_of(reason), Exit.STOPPED, kind, asked=reason.kind is FailureKind.LEFT_OPEN)
