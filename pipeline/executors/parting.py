"""What a run says of batch jobs: which are open, what they may cost, what they or `max_cost` leave undone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.batch import BEFORE, Batch, Stage, state_of
from pipeline.flow import Failure, FailureKind
from pipeline.progress import at_most, many, span, usd
from pipeline.rates import dollars
from pipeline.usage import Enqueued

OPEN = "{jobs} open at the API{price}: the same command takes in what they answer"
PLANNED = "{jobs} not created yet: the same command goes on there"
ENDING = "{jobs} {ends} with the emulator of this run: the same command asks again for the rows"
DEAR = "the next request may cost up to {line}{open}, more than is left of the {most} that the run may spend"
HELD = "`max_cost` holds back {rows}: {why}; the same command asks for them, and may spend as much again"
COUNTED = "{held}; what open jobs may cost counts until they have ended, also then"


@dataclass(frozen=True, slots=True)
class Dear:
    """A line for which too little money was left: what it may cost, what open jobs may, the limit (USD)."""

    line: float
    open: float
    most: float

    @property
    def words(self) -> str:
        """Say why no other line was submitted."""
        open_ = f" beside {usd(self.open)} of open jobs" if self.open else ""
        return DEAR.format(line=usd(self.line), open=open_, most=dollars(self.most))

    @property
    def failure(self) -> Failure:
        """What stops the run."""
        return Failure(FailureKind.MAX_COST, self.words)

    def note(self, rows: int) -> str:
        """Say how many rows wait for another run."""
        held = HELD.format(rows=many(rows, "row"), why=self.words)
        return COUNTED.format(held=held) if self.open else held


def unanswered(batch: Batch, left: int, why: str, instead: str = "") -> str:
    """Say how many rows of a batch have no answer, `why`, and in which tier they are asked `instead`."""
    told = f"batch {batch.number} left {left:,} of {many(batch.rows, 'row')} without an answer: {why}"
    return told + (f"; what is left is asked online, in the service tier `{instead}`" if instead else "")


def reason(batch: Batch, kinds: Mapping[FailureKind, int], spill: float | None) -> str:
    """Return why a batch has not answered all of its rows; `spill` is the age in seconds that ended it."""
    told = ", ".join(f"{many(number, 'request')} met `{kind}`" for kind, number in kinds.items())
    told = told or batch.state.lower() or "not created"
    if spill is not None:
        told += f", since it was older than {span(spill)} (`batch.spill`)"
    return f"{told} ({batch.why})" if batch.why else told


def jobs_of(batches: Sequence[Batch]) -> str:
    """Return how many jobs these are, of how many requests, and for how many rows where these are more."""
    requests, rows = sum(batch.lines for batch in batches), sum(batch.rows for batch in batches)
    for_rows = f" for {many(rows, 'row')}" if rows != requests else ""
    return f"{many(len(batches), 'batch job')} with {many(requests, 'request')}{for_rows}"


def price_of(batches: Sequence[Batch]) -> str:
    """Return what jobs may cost, behind a comma; nothing where they cost nothing."""
    return at_most(sum(batch.cost_usd for batch in batches if not _never_began(batch)))


def _never_began(batch: Batch) -> bool:
    """Tell whether a job is being cancelled that had not begun, so that it has no answers to pay for."""
    return batch.stage is Stage.CANCELLING and batch.state == "PENDING"


def enqueued(batches: Sequence[Batch], now: float, *, beside: bool = False) -> Enqueued:
    """Return what a run shows of the jobs that are open at the Unix time `now`; see `Enqueued`."""
    states = Counter(map(state_of, batches))
    return Enqueued(
        jobs=len(batches),
        requests=sum(batch.lines for batch in batches),
        usd=sum(batch.cost_usd for batch in batches),
        states=tuple(sorted(states.items())),
        oldest=min((batch.planned for batch in batches), default=now),
        due=now + min((batch.due - now for batch in batches), default=0.0),
        beside=beside,
    )


def open_jobs(batches: Sequence[Batch], *, offline: bool = False) -> list[str]:
    """Say what goes on without the run, or that nothing does, since the emulator ends with it."""
    if offline:
        return [ENDING.format(jobs=jobs_of(batches), ends="ends" if len(batches) == 1 else "end")]
    planned = [batch for batch in batches if batch.stage in BEFORE]
    created = [batch for batch in batches if batch.stage not in BEFORE]
    told = [OPEN.format(jobs=jobs_of(created), price=price_of(created))] if created else []
    return [*told, PLANNED.format(jobs=jobs_of(planned))] if planned else told
