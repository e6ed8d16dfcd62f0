"""What a batch job needs next: a table from the stage that it is in, and what follows from what is seen.

A job of the Batch API costs money from its creation on, and creating it is not idempotent. So what is about
to be done is written down before it is done (`creating`, `cancelling`), and what came of it afterwards.
Whoever finds a batch in one of these two stages knows that it may or may not have happened, and looks before
doing it again. No clock, no I/O; times are Unix times in seconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from pipeline.models import Limits

TWO_DAYS = 172_800.0  # a cancelled job was seen to hold its enqueued tokens for that long
MOST_JOBS = 100  # that the API runs at a time
SHARE = 4  # a job holds at most this part of the tokens that may be enqueued, so that there are several
CUT = 3  # times that results which hold less than they should are fetched


class Stage(StrEnum):
    """How far a batch is; each is on disk before the next step is taken."""

    PLANNED = "planned"  # its lines stand in a file and in the table
    UPLOADED = "uploaded"  # the API has the file
    CREATING = "creating"  # the job is about to be created, or was: nobody knows
    CREATED = "created"  # the job has a name
    CANCELLING = "cancelling"  # it is about to be cancelled, or was; what it has answered is still to come
    OVER = "over"  # it will answer no more
    FETCHED = "fetched"  # what it answered is on this disk
    INGESTED = "ingested"  # and in the journal; the files are still to be removed
    CLOSED = "closed"


class Vain(NamedTuple):
    """How often a request was asked in batches without an answer; `whole` of these jobs answered no line."""

    times: int = 0
    whole: int = 0

    @property
    def own(self) -> int:
        """How often its line may have been to blame: the first job that fails as a whole says nothing."""
        return self.times - min(1, self.whole)


class Do(StrEnum):
    """The next step of a batch."""

    UPLOAD = "upload"
    CREATE = "create"
    FIND = "find"  # by its display name: was it created?
    LOOK = "look"
    FETCH = "fetch"
    INGEST = "ingest"
    REMOVE = "remove"
    DROP = "drop"  # it was never created and no longer will be: its lines are asked elsewhere


@dataclass(frozen=True, slots=True)
class Batch:
    """One job of the Batch API, as the table has it.

    `name` is its display name, which no other job has; `file`, `job` and `results` are what the API calls the
    uploaded file, the job and the file of its results. `tokens` (input) and `cost_usd` are estimates. `since`
    is when it came to its stage, `due` when the next step is, `tries` how often that was tried. `state` is as
    last seen, `told` how many lines the API says that it has answered, `seconds` how long the job took,
    `ended` when that was, `scope` who owns it. `cache` is the context cache that its lines name, `stored` the
    picodollars of that cache's storage that its answers bear. One that is `spilled` was given up for its age,
    one that is `withdrawn` by the user, so that its rows may stand in other jobs. `emulated` is as in `Seen`.
    """

    number: int
    name: str
    stage: Stage = Stage.PLANNED
    lines: int = 0
    rows: int = 0
    size: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    planned: float = 0.0
    since: float = 0.0
    due: float = 0.0
    tries: int = 0
    file: str = ""
    job: str = ""
    results: str = ""
    state: str = ""
    why: str = ""
    told: int = 0
    seconds: float = 0.0
    ended: float = 0.0
    spilled: bool = False
    emulated: str = ""
    scope: str = ""
    cache: str = ""
    stored: int = 0
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """A job as the API describes it.

    `state` has no prefix (`RUNNING`), `results` is the file of its results where there is one, `why` what
    went wrong, `told` how many lines were answered, well or not; `done` is the API's own word for it.
    `emulated` names the process of the emulator that says so, and is empty for the API.
    """

    job: str
    name: str
    state: str
    done: bool
    results: str = ""
    why: str = ""
    told: int = 0
    seconds: float = 0.0
    ended: float = 0.0
    emulated: str = ""


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient a run is, in seconds.

    `spill` is the age at which a batch is given up, `first` and `longest` are pauses between two looks, which
    grow by half; `settle` is how long a job that was created may be missing from the list, `patience` how
    long one that was cancelled may take to end.
    """

    spill: float = 86_400.0
    first: float = 1.0
    longest: float = 300.0
    settle: float = 20.0
    patience: float = 3_600.0

    def pause(self, tries: int) -> float:
        """Return the pause after so many looks."""
        return float(min(self.longest, self.first * 1.5 ** min(tries, 40)))


FINAL: Final = frozenset({"SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})
PREFIXES: Final = ("BATCH_STATE_", "JOB_STATE_")

_STEPS: Final[Mapping[Stage, Do]] = MappingProxyType(
    {
        Stage.PLANNED: Do.UPLOAD,
        Stage.UPLOADED: Do.CREATE,
        Stage.CREATING: Do.FIND,
        Stage.CREATED: Do.LOOK,
        Stage.CANCELLING: Do.LOOK,
        Stage.OVER: Do.FETCH,
        Stage.FETCHED: Do.INGEST,
        Stage.INGESTED: Do.REMOVE,
    }
)
BEFORE: Final = (Stage.PLANNED, Stage.UPLOADED)  # nothing was created yet
AT_WORK: Final = (Stage.CREATING, Stage.CREATED, Stage.CANCELLING)
ASKING: Final = (*BEFORE, *AT_WORK, Stage.OVER, Stage.FETCHED)  # its lines are still to be answered


def next_step(batch: Batch, now: float, pace: Pace, *, submits: bool = True) -> Do | None:
    """Return what is to be done with a batch now, or None where nothing is, or not before `due`.

    A run that no longer `submits` drops what it has not created.
    """
    if batch.stage in BEFORE and (not submits or is_late(batch, now, pace)):
        return Do.DROP
    if batch.stage is Stage.OVER and not batch.results:
        return Do.INGEST
    return None if now < batch.due else _STEPS.get(batch.stage)


def is_late(batch: Batch, now: float, pace: Pace) -> bool:
    """Tell whether a batch has had the time that it may take."""
    return now - batch.planned > pace.spill


def is_given_up(batch: Batch) -> bool:
    """Tell whether what a batch has not answered yet is asked again: it is cancelled, or has no results."""
    return batch.stage is Stage.CANCELLING or (batch.stage is Stage.OVER and not batch.results)


def is_stuck(batch: Batch, now: float, pace: Pace) -> bool:
    """Tell whether a batch that was cancelled, and by a look just now goes on, is not waited for any more."""
    return batch.stage is Stage.CANCELLING and now - batch.since > pace.patience


def moved(batch: Batch, stage: Stage, now: float) -> Batch:
    """Return the batch in another stage."""
    return replace(batch, stage=stage, since=now, due=now, tries=0)


def later(batch: Batch, now: float, pace: Pace, least: float = 0.0) -> Batch:
    """Return the batch with its next step after a pause, which grows with each."""
    return replace(batch, due=now + max(least, pace.pause(batch.tries)), tries=batch.tries + 1)


def rebased(batch: Batch, now: float) -> Batch:
    """Return the batch as if it had just come to its stage, where by the clock that is still to be.

    The clock was set back, and would be waited for.
    """
    return batch if batch.since <= now else replace(batch, since=now, due=min(batch.due, now))


def unfound(batch: Batch, now: float, pace: Pace) -> Batch:
    """Return what follows when no job has the name: look again until the list must know, then create."""
    if now - batch.since < pace.settle:
        return later(batch, now, pace)
    return moved(batch, Stage.UPLOADED, now)


def seen(batch: Batch, what: Seen, now: float, pace: Pace) -> Batch:
    """Return what follows from a look at the job; one that is late and still at work is to be cancelled."""
    batch = replace(
        batch,
        job=what.job,
        state=what.state,
        why=what.why,
        told=what.told,
        results=what.results,
        seconds=what.seconds,
        ended=what.ended,
        emulated=what.emulated,
    )
    if is_over(what):
        return moved(batch, Stage.OVER, now)
    if batch.stage is Stage.CREATING:
        batch = moved(batch, Stage.CREATED, now)
    if batch.stage is Stage.CREATED and is_late(batch, now, pace):
        return replace(moved(batch, Stage.CANCELLING, now), spilled=True)
    return later(batch, now, pace)


def withdrawn(batch: Batch, now: float) -> Batch:
    """Return a job that the user cancels, before the API is asked to."""
    return replace(moved(batch, Stage.CANCELLING, now), withdrawn=True)


def is_stranded(batch: Batch, emulated: str) -> bool:
    """Tell whether another emulator answers where the job was, so that nobody has the job any more."""
    return bool(batch.emulated and emulated) and emulated != batch.emulated


def is_over(what: Seen) -> bool:
    """Tell whether a job has come to its end; a state that nobody knows is waited out."""
    return what.state in FINAL or what.done


def plain_state(state: str) -> str:
    """Return the state without the prefix that it has in REST or in the SDK."""
    for prefix in PREFIXES:
        state = state.removeprefix(prefix)
    return state


@dataclass(frozen=True, slots=True)
class Room:
    """How much more may be enqueued: jobs, input tokens and dollars; None is without limit."""

    jobs: int
    tokens: int | None
    usd: float | None


def room(batches: Iterable[Batch], limits: Limits, usd: float | None, now: float) -> Room:
    """Return the room beside these batches, of which `usd` may still be spent.

    A cancelled job counts for two days with its tokens.
    """
    jobs, tokens, cost = MOST_JOBS, limits.batch_tokens, usd
    for batch in batches:
        asking = batch.stage in ASKING
        jobs -= asking and batch.stage is not Stage.OVER and batch.stage is not Stage.FETCHED
        if cost is not None and asking:
            cost -= batch.cost_usd
        if tokens is not None and (batch.stage in (*BEFORE, *AT_WORK) or _holds(batch, now)):
            tokens -= batch.tokens
    return Room(max(0, jobs), None if tokens is None else max(0, tokens), cost)


def state_of(batch: Batch) -> str:
    """Return the state as people are told it: what the API said last, or how far the batch is.

    The API's `PENDING` is not that of rows, so it is told as `queued`.
    """
    if batch.stage is Stage.CANCELLING:
        return str(batch.stage)
    return "queued" if batch.state == "PENDING" else batch.state.lower() or str(batch.stage)


def share(limits: Limits) -> int:
    """Return how many of the tokens that may be enqueued one job may hold."""
    return max(1, (limits.batch_tokens or 0) // SHARE)


def _holds(batch: Batch, now: float) -> bool:
    """Tell whether a job that was cancelled may still hold its tokens."""
    ended = batch.state in FINAL and batch.state != "CANCELLED"
    given_up = batch.spilled or batch.withdrawn
    return given_up and bool(batch.job) and not ended and now - batch.since < TWO_DAYS
