"""What is left to ask of a job: which rows, and what others than the model answer of it.

The parts, the journal, open batch jobs and the response cache are looked at as a run does, without a change.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from pipeline.batch import BEFORE, Batch, is_given_up
from pipeline.executors.stranded import LOST
from pipeline.flow import Reply
from pipeline.keys import request_id
from pipeline.pending import pending_rows, replied
from pipeline.plan import Plan
from pipeline.prompts import Mask, asked_rows, first_rows, sampled, texts_of, thinned
from pipeline.store.answers import FILE, answered
from pipeline.store.batches import enqueued, open_batches_of
from pipeline.store.cache import Use
from pipeline.store.census import census
from pipeline.store.folder import is_offline, owner, round_under_way
from pipeline.store.parts import Parts
from pipeline.store.recent import latest
from pipeline.store.standing import Standing, stand

SAMPLE = 2_000  # prompts that are rendered


@dataclass(frozen=True, slots=True)
class Scope:
    """Rows of the input: `done` have an answer, `failed` ones included, `pending` are to be asked.

    Of these, `replied` have their reply in the journal; `prompts` are sent for the others, once each, but for
    those to which the response cache has an answer, which are about `cached`, and those that stand in open
    `batch_jobs`, which are `enqueued` and may cost `enqueued_cost_usd`. What stands in `cancelled_jobs` are
    `cancelled` prompts, which are sent again as far as these have not answered them. `damaged_parts` do not
    count.
    """

    rows: int
    done: int
    failed: int
    pending: int
    replied: int
    prompts: int
    cached: int
    batch_jobs: int
    enqueued: int
    enqueued_cost_usd: float
    cancelled_jobs: int = 0
    cancelled: int = 0
    damaged_parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backlog:
    """Which rows are `pending`, and for which of them something is `asked`.

    `texts` are a sample of that, or of the whole input where nothing is; `complete` says that there are no
    others. `distinct` prompts are in the whole input, or more where these are enough for a calibration.
    `cached` are the answers that the response cache has to prompts of the sample. `retried` of the prompts
    are those of rows that have failed.
    """

    scope: Scope
    pending: Mask
    asked: Mask
    texts: list[str]
    complete: bool
    distinct: int
    cached: list[Reply]
    retried: int


def backlog(plan: Plan, *, retry_failed: bool, enough: int, use: Use = Use.FULL) -> Backlog:
    """Return what is left to ask; `enough` prompts are those of a calibration, `use` is that of the cache.

    Raises InputError and StoreError as a run does.
    """
    survey = census(plan.source, plan.folder).survey
    parts = Parts(plan.folder.parts, plan.checked.layout.part, plan.fingerprint)
    parts.pass_over()
    standing = stand(survey, parts)
    turn = _turn(plan, standing) if retry_failed else None
    pending = pending_rows(standing, turn)
    batches = _open(plan)
    known = enqueued(plan.folder.path, _waited_for(batches))
    if turn is None:
        known = np.concatenate([known, latest(plan.folder.journal)[1]])
    asked = asked_rows(survey, standing, pending, known, again=turn is not None)
    texts = _texts(plan, asked)
    fresh, taken = _uncached(plan, texts, use) if turn is None else (texts, [])
    prompts = int(asked.sum())
    cached = round(prompts * (len(texts) - len(fresh)) / len(texts)) if texts else 0
    kept = replied(survey, pending, plan.folder) if turn is None else 0
    scope = _scope(standing, pending, batches, replied=kept, prompts=prompts - cached, cached=cached)
    scope = replace(scope, damaged_parts=tuple(parts.set_aside))
    firsts = asked if prompts >= enough else first_rows(survey)
    return Backlog(
        scope,
        pending,
        thinned(asked, cached),
        fresh or texts or _texts(plan, firsts),
        prompts <= SAMPLE,
        int(firsts.sum()),
        taken,
        _answered(standing, asked),
    )


def _answered(standing: Standing, asked: Mask) -> int:
    """Count the rows that are asked although the parts have an answer, which is a failure then."""
    return sum(
        int((rows["place"][asked[start : start + len(rows)]] >= 0).sum())
        for start, rows in standing.rows.slices()
    )


def _texts(plan: Plan, wanted: Mask) -> list[str]:
    return texts_of(plan.source, plan.checked.template, sampled(wanted, SAMPLE))


def _turn(plan: Plan, standing: Standing) -> int:
    """Return the round of `--retry-failed` that a run would begin, or go on with."""
    last = standing.index.last_round
    with suppress(OSError):  # the run says what is wrong with it
        return round_under_way(plan.folder, last) or last + 1
    return last + 1


def _open(plan: Plan) -> list[Batch]:
    """Return the batch jobs that a run waits for.

    A run that asks online drops what was not created yet, and one that is offline takes back what an emulator
    had that has ended.
    """
    batches = open_batches_of(plan.folder.path)
    if is_offline(plan.folder) and owner(plan.folder) is None:
        batches = [batch for batch in batches if batch.stage not in LOST]
    if plan.checked.loaded.job.mode == "batch":
        return batches
    return [batch for batch in batches if batch.stage not in BEFORE]


def _waited_for(batches: Sequence[Batch]) -> list[Batch]:
    return [batch for batch in batches if not is_given_up(batch)]


def _uncached(plan: Plan, texts: list[str], use: Use) -> tuple[list[str], list[Reply]]:
    """Return the prompts to which the response cache gives no answer to this job, and those that it has."""
    job = plan.checked.loaded.job
    if not job.cache.enabled or use is Use.NONE:
        return texts, []
    most = plan.checked.settings.max_output_tokens
    ids = [request_id(plan.question, text, most, 0) for text in texts]
    found = answered(plan.folder.path.parent.parent / FILE, ids, plan.pack)
    if use is Use.REFRESH:
        return texts, list(found.values())
    return [text for text, id_ in zip(texts, ids, strict=True) if id_ not in found], list(found.values())


def _scope(
    standing: Standing,
    pending: Mask,
    batches: Sequence[Batch],
    *,
    replied: int,
    prompts: int,
    cached: int,
) -> Scope:
    done = failed = 0
    for start, rows in standing.rows.slices():
        answered = (rows["place"] >= 0) & ~pending[start : start + len(rows)]
        done += int(answered.sum())
        failed += int((answered & ~rows["ok"]).sum())
    total = len(standing.rows)
    open_ = _waited_for(batches)
    return Scope(
        rows=total,
        done=done,
        failed=failed,
        pending=total - done,
        replied=replied,
        prompts=prompts,
        cached=cached,
        batch_jobs=len(open_),
        enqueued=sum(batch.rows for batch in open_),
        enqueued_cost_usd=sum(batch.cost_usd for batch in open_),
        cancelled_jobs=len(batches) - len(open_),
        cancelled=sum(batch.rows for batch in batches if is_given_up(batch)),
    )
