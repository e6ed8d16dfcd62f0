"""What a run says of what it has found and done: answers that stay, jobs left open, tables that gave way."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.batch import AT_WORK, Batch, Stage
from pipeline.errors import StoreError
from pipeline.executors.parting import jobs_of, price_of
from pipeline.models import Limits
from pipeline.pending import waiting_rows
from pipeline.plan import Plan
from pipeline.progress import many
from pipeline.store.batches import open_batches_of
from pipeline.store.completion import Completion, is_spoilt
from pipeline.store.folder import IDENTITY, Folder, differences, identity_fault, in_words, is_used
from pipeline.store.inspection import count_replies, is_missing
from pipeline.store.salvage import RIGHTS, barred
from pipeline.store.standing import Standing

NAMED = 3  # parts
KEPT = (
    "`--refresh` asks anew what the cache knows, but {rows} of this job keep the answer that they have: to "
    "ask for them again, remove the run folder first (`rowmill clean {run}`), then run with `--refresh`. All "
    "answers in that folder go with it{more}"
)
ELSEWHERE = (
    "{jobs} open at the API{price}, from a run of this job with another {names} (`{run}`): put that back and "
    "run it to take in what they answer, or cancel them (`rowmill cancel {run}`) and remove the run folder "
    "(`rowmill clean --all {run}`)"
)
UNREAD = (
    "counted without {parts} ({names}): the next run sets aside what is damaged, takes its rows from the "
    "journal{rest}"
)
REST = " and asks for what that has no reply to, which is paid for again"
NO_REST = ", which has the reply to all that are pending, and pays for nothing again"
GONE = (
    "{rows} that the last run had finished {have} no answer in the parts any more: what the journal or the "
    "cache holds of that is taken, the rest is asked again and paid for again"
)
JOURNAL = (
    "the journal (`replies.sqlite`) is damaged or cannot be read: the next run takes over what it can; what "
    "it held besides and no part holds is asked again and paid for again"
)
SPARE = (
    "the journal (`replies.sqlite`) is damaged or cannot be read: nothing is lost, since parts answer every "
    "row"
)
MISSING = (
    "the journal (`replies.sqlite`) is missing, so only the parts hold the answers: the next run that asks "
    "makes a new one, and asks and pays again for what no part has"
)
UNNAMED = (
    "`identity.json`, which names what was asked here, {fault}: the next run writes it anew and keeps the "
    "answers"
)
UNMARKED = (
    "`finished.json`, which says what the last run had finished, cannot be read: a run that finishes writes "
    "it anew, and whether answers have gone since the last one is not known"
)
UNNEEDED = (
    "{jobs} open at the API{price}, which no row of this run needs, so it does not wait: nothing is to do; "
    "the next run of this job that asks for rows takes in what they answer, and `rowmill status` counts them"
)
OTHER = (
    "the table of `{before}` in `{output}` gave way to that of `{now}`: `--output` keeps tables apart; the "
    "answers are kept, so a run with the other input writes its table again"
)
SHORTER = (
    "{why}, and so has the table in `{output}`; the answers to rows that were left out stay in the run "
    "folder, and `--output` keeps tables apart"
)
LOWER = (
    "the API allows {found:,} {words}, not {told}, and the run kept to that: set `{name}` to it in [limits]"
)


def gone(before: Completion | None, standing: Standing, state: str | None) -> list[str]:
    """Return a note where answers are gone that the last run had, with the input in this state or another."""
    if before is None:
        return []
    waiting, answers = int(waiting_rows(standing).sum()), int(standing.index.starts[-1])
    rows = before.gone(state, rows=len(standing.rows), waiting=waiting, answers=answers)
    return [GONE.format(rows=many(rows, "row"), have="has" if rows == 1 else "have")] if rows else []


def kept(plan: Plan, answered: int) -> list[str]:
    """Return a note where `--refresh` meets rows that this job has answered already."""
    more = ", also those to rows beyond `--limit`" if plan.limited else ""
    return (
        [KEPT.format(rows=many(answered, "row"), run=_name(plan.folder.path), more=more)] if answered else []
    )


def open_elsewhere(plan: Plan) -> list[str]:
    """Return a note for each other run folder of the job that has jobs open at the API: they are paid for."""
    notes = []
    for path in sorted(plan.folder.path.parent.glob(f"*/{IDENTITY}")):
        batches = [] if path.parent == plan.folder.path else _created(path.parent)
        if batches:
            notes.append(_elsewhere(path, batches, plan.identity))
    return notes


def replaced(before: Completion | None, plan: Plan, rows: int) -> list[str]:
    """Return a note where a table was replaced by that of another input, or by a shorter one."""
    if before is None or before.output != plan.output:
        return []
    if before.input_path not in (None, plan.input_path):
        return [OTHER.format(before=before.input_path, output=plan.output, now=plan.input_path)]
    if before.ok + before.failed <= rows:
        return []
    fewer = many(before.ok + before.failed - rows, "row")
    limited, whole = f"`--limit` took {fewer} fewer than", f"the input has {fewer} fewer than at"
    why = f"{limited if plan.limited else whole} the last run"
    return [SHORTER.format(output=plan.output, why=why)]


def unneeded(plan: Plan) -> list[str]:
    """Return a note where a finished run leaves batch jobs open: rows of an earlier input are in them."""
    batches = open_batches_of(plan.folder.path)
    return [UNNEEDED.format(jobs=jobs_of(batches), price=price_of(batches))] if batches else []


def unread(damaged: Sequence[str], *, to_ask: int) -> list[str]:
    """Return a note on parts that do not count since they are damaged; `to_ask` rows have no reply either."""
    if not damaged:
        return []
    names = ", ".join(f"`{name}`" for name in damaged[:NAMED])
    more = f" and {len(damaged) - NAMED:,} more" if len(damaged) > NAMED else ""
    return [
        UNREAD.format(
            parts=many(len(damaged), "damaged part"), names=names + more, rest=REST if to_ask else NO_REST
        )
    ]


def unsound(folder: Folder, *, waiting: bool) -> list[str]:
    """Return notes on a journal and an identity that are not as a run left them; nothing is changed.

    `waiting` says whether rows have no answer in the parts, so that the journal counts.
    """
    notes = []
    if (shut := barred(folder.journal, write=False)) is not None:
        notes.append(f"`{shut}` may not be read: {RIGHTS}")
    elif count_replies(folder.journal) is None:
        notes.append(JOURNAL if waiting else SPARE)
    elif is_missing(folder.journal, folder.parts):
        notes.append(MISSING)
    if is_used(folder) and (fault := identity_fault(folder)) is not None:
        notes.append(UNNAMED.format(fault=fault))
    return notes + unmarked(folder)


def unmarked(folder: Folder) -> list[str]:
    """Return a note where the mark of the last finished run cannot be read."""
    return [UNMARKED] if is_spoilt(folder) else []


def lower(told: Limits, found: Limits) -> list[str]:
    """Return a note for each limit of the API that was found to be lower than what the run was told."""
    pairs = [("rpm", "requests a minute"), ("tpm", "input tokens a minute"), ("rpd", "requests a day")]
    fell = [(name, words) for name, words in pairs if getattr(found, name) != getattr(told, name)]
    return [
        LOWER.format(name=name, words=words, found=getattr(found, name), told=getattr(told, name) or "any")
        for name, words in fell
    ]


def _elsewhere(path: Path, batches: Sequence[Batch], identity: Mapping[str, object]) -> str:
    names = ", ".join(f"`{name}`" for name in in_words(differences(path, identity)))
    return ELSEWHERE.format(
        jobs=jobs_of(batches),
        price=price_of(batches),
        names=names,
        run=_name(path.parent),
    )


def _created(folder: Path) -> list[Batch]:
    """Return the batches of a run folder whose jobs the API has, as far as that can be read."""
    with suppress(StoreError):
        return [batch for batch in open_batches_of(folder) if batch.stage in (*AT_WORK, Stage.OVER)]
    return []


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
