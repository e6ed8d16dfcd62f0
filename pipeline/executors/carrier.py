"""The steps of one batch, from a file of lines to its answers in the journal.

Each step ends with a line in the table, on disk, before the next one begins; so a killed process leaves at
most one step of each batch half done, and `batch.next_step` says how to go on.
"""

import time
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import dataclass, replace
from functools import partial

from anyio import to_thread

from pipeline.batch import (
    CUT,
    Batch,
    Do,
    Pace,
    Seen,
    Stage,
    Vain,
    is_late,
    is_stranded,
    is_stuck,
    later,
    moved,
    next_step,
    seen,
    unfound,
)
from pipeline.executors.halt import Halt
from pipeline.executors.intake import SEPARATE, Intake, Taken, in_vain, lost_cache
from pipeline.executors.keeping import Keeping
from pipeline.executors.loading import Line
from pipeline.executors.parting import reason, unanswered
from pipeline.executors.patience import Patience
from pipeline.executors.results import Results, is_past
from pipeline.flow import Failure, FailureKind
from pipeline.gemini.batches import Absent, Batches, Gone, Hidden
from pipeline.models import Limits
from pipeline.retry import LONGEST_OUTAGE, OUTAGE, TABLE, Act, is_of_cache
from pipeline.store.batches import Paths, Table
from pipeline.store.journal import Journal
from pipeline.usage import Tally

NO_FILE = "the uploaded file is gone"  # after 48 hours
NO_LINES = "its file of lines was deleted"
RESTARTED = "the emulator that had the job has ended, and another answers at its address"
GONE = "GONE"  # the state of a job that the API does not know


@dataclass(frozen=True, slots=True)
class Policy:
    """What a run may do.

    `lines` of a job at most, `max_cost` in USD; `submits` new jobs at all, `leaves` before they end; `scope`
    tells apart who pays, `tier` is the service tier of what is asked online; `offline` says that jobs end
    with the run.
    """

    limits: Limits
    pace: Pace
    lines: int
    max_cost: float | None
    submits: bool
    leaves: bool
    scope: str
    tier: str
    longest_outage: float = LONGEST_OUTAGE
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Means:
    """What a batch needs on its way.

    `sync` makes the journal durable; `prove` asks a line online and puts its answer there, or stops the run
    where the API refuses whatever is asked so.
    """

    api: Batches
    table: Table
    paths: Paths
    journal: Journal
    intake: Intake
    keeping: Keeping
    sync: Callable[[], None]
    prove: Callable[[Line], Awaitable[None]]
    tally: Tally
    halt: Halt
    notes: list[str]


class Carrier:
    """Takes the steps of batches. `full` says that the API took no other job when it was last asked."""

    def __init__(self, means: Means, policy: Policy, released: Callable[[int], None]) -> None:
        self.full = False
        self._beside = False
        self._vain_since: float | None = None  # when creation began to fail, and has not succeeded since
        self._means = means
        self._policy = policy
        self._patience = Patience(means.tally, means.halt, policy.longest_outage)
        self._results = Results(means.api, means.paths, means.intake)
        self._released = released  # told the number of a batch whose rows wait for it no longer
        self._steps: Mapping[Do, Callable[[Batch], Awaitable[Batch | None]]] = {
            Do.UPLOAD: self._upload,
            Do.CREATE: self._create,
            Do.FIND: self._find,
            Do.LOOK: self._look,
            Do.FETCH: self._fetch,
            Do.INGEST: self._ingest,
            Do.REMOVE: self._remove,
            Do.DROP: self._drop,
        }

    async def advance(self, batch: Batch, stages: Container[Stage] = tuple(Stage)) -> None:
        """Take every step of a batch that can be taken now, as long as it is in one of these stages.

        Without FETCHED among them, nothing goes into the journal, and only this thread reads it: rows that
        are asked meanwhile write there.
        """
        self._beside = Stage.FETCHED not in stages
        current: Batch | None = batch
        while current is not None and current.stage in stages and not self._stopped:
            step = next_step(current, time.time(), self._policy.pace, submits=self._policy.submits)
            if step is None or (step is Do.INGEST and Stage.FETCHED not in stages):
                return
            current = await self._steps[step](current)

    # Each step returns where the batch stands now, or None where it has closed or the run is stopped.

    async def _upload(self, batch: Batch) -> Batch | None:
        lines = self._means.paths.lines(batch.number)
        if not lines.exists():  # somebody has deleted it; a new batch is made of its rows
            return await self._finish(replace(batch, why=NO_LINES), Taken(), Vain())
        found = await self._patience.asked(lambda: self._means.api.upload(lines, batch.name, batch.size))
        if not isinstance(found, str):
            return self._stop(found)
        return self._put(replace(moved(batch, Stage.UPLOADED, time.time()), file=found))

    async def _create(self, batch: Batch) -> Batch | None:
        """Create the job. The intent is on disk before each request leaves: a kill cannot hide a job."""
        if batch.cache and not await self._means.keeping.covers(batch):
            return await self._drop(batch)

        async def create() -> Seen | Absent | Failure:
            self._put(moved(batch, Stage.CREATING, time.time()))
            return await self._means.api.create(batch.file, batch.name)

        found: Seen | Absent | Failure | None = await self._patience.asked(create, _is_unsent)
        if found is None:
            self._put(batch)
            return None
        if isinstance(found, Seen):
            return self._created(moved(batch, Stage.CREATING, time.time()), found)
        failure = found if isinstance(found, Failure) else found.failure
        if batch.cache and is_of_cache(failure):
            self._means.keeping.lose(batch.cache)
            return await self._drop(batch)
        if _names_a_file(found) and batch.why != NO_FILE:
            return self._put(replace(moved(batch, Stage.PLANNED, time.time()), why=NO_FILE))
        return self._not_created(batch, failure)

    def _created(self, batch: Batch, found: Seen) -> Batch:
        self.full, self._vain_since = False, None
        self._means.tally.trouble = None
        self._means.tally.requests += batch.lines
        self._means.tally.shipped.created(batch.number, batch.lines, batch.rows)
        return self._put(seen(batch, found, time.time(), self._policy.pace))

    def _not_created(self, batch: Batch, failure: Failure) -> Batch | None:
        """Say what follows; after a fault of the way nobody knows, so the intent stays."""
        now, pace = time.time(), self._policy.pace
        if failure.kind in OUTAGE:
            self._vain_since = self._vain_since or time.monotonic()
            # it may still be on its way: the time that the list may lag begins now
            doubt = batch if failure.unsent else moved(batch, Stage.CREATING, now)
            after = self._put(later(doubt, now, pace))
            gone = failure.unsent or self._patience.is_over(self._vain_since)
            return self._stop(failure) if gone else after
        if failure.kind in (FailureKind.RATE_LIMITED, FailureKind.SPEND_LIMITED):
            self.full, self._vain_since = True, None
            waiting = later(batch, now, pace, failure.retry_after or 0.0)
            return self._put(replace(waiting, why=failure.message))
        self._put(batch)
        return self._stop(failure)

    async def _find(self, batch: Batch) -> Batch | None:
        found = await self._patience.found(self._means.api, batch.name)
        if not isinstance(found, list):
            return self._stop(found)
        if not found:
            return self._put(unfound(batch, time.time(), self._policy.pace))
        return self._created(batch, found[0])

    async def _look(self, batch: Batch) -> Batch | None:
        found = await self._patience.asked(lambda: self._means.api.look(batch.job))
        if isinstance(found, Gone):
            return await self._lost(batch, found)
        if not isinstance(found, Seen):
            return self._stop(found)
        after = self._put(seen(batch, found, time.time(), self._policy.pace))
        if batch.tries and is_stuck(after, time.time(), self._policy.pace):
            return await self._abandon(after)
        return await self._cancel(batch, after) if after.stage is Stage.CANCELLING else after

    async def _cancel(self, before: Batch, batch: Batch) -> Batch | None:
        """Ask a job to end; its table says so already, and each look at one that goes on asks again."""
        refused = await self._patience.asked(lambda: self._means.api.cancel(batch.job))
        if isinstance(refused, Failure) and TABLE[refused.kind].act is not Act.GIVE_UP:
            return self._stop(refused)  # what is refused for itself has ended meanwhile: the next look tells
        if before.stage is Stage.CANCELLING and before.tries:
            return batch
        now = time.time()  # its patience begins: before that, nobody knows whether it was asked to end
        return self._put(later(moved(batch, Stage.CANCELLING, now), now, self._policy.pace))

    async def _lost(self, batch: Batch, found: Gone) -> Batch | None:
        """Take back the lines of a job that the API does not know, unless another key may know it.

        Only what was missing twice is: it is paid for, and a list may lag behind or a gateway err.
        """
        if is_stranded(batch, found.emulated):
            return await self._strand(batch)
        if batch.scope != self._policy.scope:
            said = "a batch job is open that was created with another key, and this key cannot see it"
            return self._stop(Failure(FailureKind.KEY, said))
        now, pace = time.time(), self._policy.pace
        if batch.state != GONE:
            return self._put(later(replace(batch, state=GONE), now, pace, pace.settle))
        self._note(f"the API does not know the job `{batch.job}` any more: its rows are asked again")
        return self._put(replace(moved(batch, Stage.OVER, now), results=""))

    async def _fetch(self, batch: Batch) -> Batch | None:
        found = await self._patience.asked(lambda: self._results.fetch(batch))
        if isinstance(found, Absent) and is_stranded(batch, found.emulated):
            return await self._strand(batch)
        if isinstance(found, Hidden) and not is_past(batch, time.time()):
            said = f"this key cannot see the results of the job `{batch.job}`: {found.failure.message}"
            return self._stop(replace(found.failure, message=said))
        if isinstance(found, Absent):
            self._note(f"the results of the job `{batch.job}` are gone: its rows are asked again")
            return self._put(replace(moved(batch, Stage.OVER, time.time()), results=""))
        if isinstance(found, Failure) or self._stopped:
            return self._stop(found)
        now = time.time()
        return self._put(replace(batch, stage=Stage.FETCHED, since=now, due=now))

    async def _ingest(self, batch: Batch) -> Batch | None:
        """Put the answers into the journal, durably; only then forget the lines."""
        batch = self._means.keeping.charged(batch)
        taken = await to_thread.run_sync(self._results.take, batch)
        if batch.results and taken.told < batch.told:
            if batch.tries < CUT:  # the file was cut on its way
                again = replace(batch, stage=Stage.OVER)
                return self._put(later(again, time.time(), self._policy.pace))
            self._note(f"the results of the job `{batch.job}` hold fewer answers than the API says")
        if (verdict := taken.verdict) is not None:
            self._means.halt.pull(verdict)
        await to_thread.run_sync(self._means.sync)
        batch = batch if taken.replies else self._means.keeping.unborne(batch)
        self._means.keeping.used(taken.cached)
        lost = lost_cache(batch, taken)
        if lost:
            self._means.keeping.lose(batch.cache)
        return await self._finish(batch, taken, Vain() if verdict else in_vain(batch, taken, lost=lost))

    async def _finish(self, batch: Batch, taken: Taken, vain: Vain) -> Batch:
        """Take the lines away; what no answer came for was asked in vain so often more."""
        if batch.cache:  # before its lines go: after a kill they lead to the cache
            await self._means.keeping.sweep(batch.number)
        done = moved(batch, Stage.INGESTED, time.time())
        finish = partial(self._means.table.finish, done, self._is_kept, vain)
        left = finish() if self._beside else await to_thread.run_sync(finish)
        self.full = False
        self._released(batch.number)
        if taken.foreign:
            self._note(f"{taken.foreign:,} lines in the results of `{batch.job}` are of nobody's")
        if left:
            alone = vain == SEPARATE
            late = alone and batch.state != "EXPIRED"
            why = reason(batch, taken.passing, self._policy.pace.spill if late else None)
            self._note(unanswered(batch, left, why, self._policy.tier if alone else ""))
        return done

    def _is_kept(self, id_: bytes) -> bool:
        return self._means.journal.find(id_, b"") is not None

    async def _remove(self, batch: Batch) -> Batch | None:
        """Delete the files of a batch, here and there; what the API keeps is gone after 48 hours."""
        for file in filter(None, (batch.results, batch.file)):
            await self._means.api.remove(file)
        for path in (self._means.paths.lines(batch.number), self._means.paths.results(batch.number)):
            await to_thread.run_sync(partial(path.unlink, missing_ok=True))
        self._put(moved(batch, Stage.CLOSED, time.time()))
        return None

    async def _drop(self, batch: Batch) -> Batch | None:
        """Take back the lines of a batch that was never created; they may stand in another one later."""
        late = is_late(batch, time.time(), self._policy.pace)
        return await self._finish(replace(batch, spilled=True), Taken(), SEPARATE if late else Vain())

    async def _abandon(self, batch: Batch) -> Batch:
        """Take back the lines of a job that was cancelled and does not end."""
        self._note(
            f"the job `{batch.job}` was cancelled and does not end: its rows are asked again, and may be "
            "billed twice"
        )
        return await self._finish(batch, Taken(), SEPARATE)

    async def _strand(self, batch: Batch) -> Batch:
        """Take back the lines of a job whose emulator was started again: nobody has it any more."""
        lost = replace(batch, state=GONE, why=RESTARTED, spilled=False, withdrawn=False)
        return await self._finish(lost, Taken(), Vain())

    @property
    def _stopped(self) -> bool:
        return self._means.halt.pulled.is_set()

    def _put(self, batch: Batch) -> Batch:
        return self._means.table.put(batch)

    def _note(self, words: str) -> None:
        self._means.notes.append(words)

    def _stop(self, failure: object) -> Batch | None:
        """Stop the run because of a failure; where there is none, it has been stopped."""
        if isinstance(failure, Absent):
            failure = failure.failure
        if not isinstance(failure, Failure):
            return None
        stops = TABLE[failure.kind].act in (Act.REFUSE, Act.STOP, Act.PAUSE) or failure.kind in OUTAGE
        self._means.halt.pull(failure if stops else replace(failure, kind=FailureKind.CONFIG))
        return None


def _is_unsent(failure: Failure) -> bool:
    """Tell whether a creation may simply be repeated, because it never left."""
    return failure.unsent is not None


def _names_a_file(found: Absent | Failure) -> bool:
    """Tell whether a job was not created because the API has no such file."""
    if isinstance(found, Gone):
        return "file" in found.failure.message.lower()
    return isinstance(found, Hidden)
