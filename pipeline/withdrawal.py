"""Cancelling the batch jobs that a run folder has open; what they have answered by then is not lost.

That a job is about to be cancelled stands in the table before the API is asked to, as in a run. So whenever
this is killed, the next run finds the job, asks once more where that is needed, and takes in what it has
answered.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, TypeAlias

import anyio

from pipeline.batch import (
    BEFORE,
    Batch,
    Pace,
    Seen,
    Stage,
    Vain,
    is_over,
    is_stranded,
    later,
    moved,
    rebased,
    seen,
    unfound,
    withdrawn,
)
from pipeline.errors import Exit
from pipeline.executors.halt import Halt
from pipeline.executors.keeping import left
from pipeline.executors.patience import Patience
from pipeline.executors.stranded import close, take_back
from pipeline.flow import Failure
from pipeline.gemini.batches import Batches, Gone, Hidden, open_batches
from pipeline.gemini.caches import Caches, open_caches
from pipeline.gemini.endpoint import Endpoint
from pipeline.progress import span
from pipeline.report import Stop
from pipeline.retry import OUTAGE, TABLE, Act, hint_of, is_of_cache
from pipeline.store.batches import Paths, Table, open_batches_of
from pipeline.store.folder import Folder, claimed
from pipeline.usage import Tally

CALL_S: Final = 60.0
OUTAGE_S: Final = 60.0  # seconds in which a call that nobody answers is made again
PACE: Final = Pace(spill=math.inf)
GOING: Final = (*BEFORE, Stage.CREATING, Stage.CREATED, Stage.CANCELLING)  # what may still be cancelled
WAITS = f"the API does not answer, and is asked again for up to {span(OUTAGE_S)}: {{why}}"
AGAIN = "run the same command again: it goes on where it stopped"
STRANGE = (
    "set GEMINI_API_KEY to the key that created it; where the job is gone, the next `rowmill run` takes back "
    "its rows"
)

Unasked: TypeAlias = Failure | Gone | Hidden | None


@dataclass(slots=True)
class Withdrawal:
    """What became of batches: `cancelled` now, `ended` before that, `dropped` since no job was created yet.

    Those that are `stranded` ended with their emulator. `caches` is how many context caches were deleted,
    `notes` name those that could not be. `stop` says what kept the rest of the batches from being cancelled.
    """

    cancelled: list[Batch] = field(default_factory=list)
    ended: list[Batch] = field(default_factory=list)
    dropped: list[Batch] = field(default_factory=list)
    stranded: list[Batch] = field(default_factory=list)
    caches: int = 0
    notes: list[str] = field(default_factory=list)
    stop: Stop | None = None


def may_be_cancelled(folder: Folder) -> list[Batch]:
    """Return the batches of a run folder that have not ended, as far as is known. Raises StoreError."""
    return [batch for batch in open_batches_of(folder.path) if batch.stage in GOING]


def withdraw(folder: Folder, who: Endpoint, say: Callable[[str], None]) -> Withdrawal:
    """Cancel the open jobs of a run folder; doing it again does no harm. `say` is told what it waits for.

    Raises StoreError, also where a run is going on there.
    """
    paths = Paths(folder.path)
    with claimed(folder), closing(Table(paths.table)) as table:
        return anyio.run(_withdraw, table, paths, who, say)


def free(folder: Folder) -> list[Batch]:
    """Take back what an emulator had that has ended, in a run folder that is offline. Raises StoreError."""
    paths = Paths(folder.path)
    with claimed(folder), closing(Table(paths.table)) as table:
        return take_back(table, paths, lambda _id: False)


async def _withdraw(table: Table, paths: Paths, who: Endpoint, say: Callable[[str], None]) -> Withdrawal:
    done, tally = Withdrawal(), Tally(0, time.monotonic())
    patience = Patience(tally, Halt(), OUTAGE_S, lambda failure: say(WAITS.format(why=failure.message)))
    async with open_batches(who, "", timeout_s=CALL_S) as api:
        recall = Recall(api, table, paths, patience)
        for batch in table.open():
            if batch.stage not in GOING:
                continue
            unasked = await recall.end(batch, done)
            if unasked is not None:
                done.stop = _stop(unasked, batch)
            if isinstance(unasked, Failure):  # the others would meet it, too
                return done
    if table.caches():
        async with open_caches(who) as caches:
            await _unrent(caches, table, done)
    return done


async def _unrent(caches: Caches, table: Table, done: Withdrawal) -> None:
    """Delete the context caches that no job needs any more: each is billed until it ends.

    They stay in the table as ended, so that answers which are taken in later bear what their storage cost.
    """
    needed = {batch.cache for batch in table.open() if batch.stage in GOING and not batch.withdrawn}
    patience = Patience(Tally(0, time.monotonic()), Halt(), OUTAGE_S)
    for kept in table.caches():
        if kept.name in needed or kept.expires <= time.time():
            continue
        failure = await patience.asked(partial(caches.delete, kept.name))
        if failure is None or is_of_cache(failure):
            table.keep(kept._replace(expires=time.time()))
            done.caches += 1
        else:
            done.notes.append(left(kept, failure.message))


class Recall:
    """Takes one batch after the other back. Its method raises StoreError."""

    def __init__(self, api: Batches, table: Table, paths: Paths, patience: Patience) -> None:
        self._api, self._table, self._paths, self._patience = api, table, paths, patience

    async def end(self, batch: Batch, done: Withdrawal) -> Unasked:
        """Cancel a job, or drop what is none yet; return what kept it from that."""
        found = await self._sought(batch) if batch.stage is Stage.CREATING else batch
        if not isinstance(found, Batch):
            return found
        if found.stage in BEFORE:
            await self._drop(found)
            done.dropped.append(found)
            return None
        state: Seen | Unasked = await self._patience.asked(lambda: self._api.look(found.job))
        if not isinstance(state, Seen):
            return self._unless_stranded(found, state, done)
        if is_over(state):
            done.ended.append(self._table.put(seen(found, state, time.time(), PACE)))
            return None
        going = self._table.put(withdrawn(replace(found, state=state.state), time.time()))
        refused = await self._patience.asked(lambda: self._api.cancel(going.job))
        if isinstance(refused, Failure) and TABLE[refused.kind].act is not Act.GIVE_UP:
            return refused  # what is refused for itself has ended meanwhile: the next run sees that
        done.cancelled.append(self._table.put(later(going, time.time(), PACE)))
        return None

    def _unless_stranded(self, batch: Batch, why: Unasked, done: Withdrawal) -> Unasked:
        """Close a batch whose job ended with its emulator, or return why nothing is known of the job."""
        if not (isinstance(why, Gone) and is_stranded(batch, why.emulated)):
            return why
        close(batch, self._table, self._paths, lambda _id: False)
        done.stranded.append(batch)
        return None

    async def _sought(self, batch: Batch) -> Batch | Unasked:
        """Find out whether a job was created, which a killed run has left open."""
        while batch.stage is Stage.CREATING:
            batch = rebased(batch, time.time())
            await anyio.sleep(max(0.0, batch.due - time.time()))
            found: list[Seen] | Unasked = await self._patience.found(self._api, batch.name)
            if not isinstance(found, list):
                return found
            now = time.time()
            batch = seen(batch, found[0], now, PACE) if found else unfound(batch, now, PACE)
            self._table.put(batch)
        return batch

    async def _drop(self, batch: Batch) -> None:
        """Let the rows of a batch go that was never created, and remove its files."""
        over = moved(batch, Stage.INGESTED, time.time())
        self._table.finish(over, lambda _id: False, Vain())
        if batch.file:
            await self._api.remove(batch.file)  # or it is gone after 48 hours
        self._paths.lines(batch.number).unlink(missing_ok=True)
        self._table.put(moved(over, Stage.CLOSED, time.time()))


def _stop(unasked: Failure | Gone | Hidden, batch: Batch) -> Stop:
    """Say what kept a job from being cancelled."""
    if not isinstance(unasked, Failure):
        said = f"the API knows no job `{batch.job or batch.name}`, at least not with this key"
        return Stop(said, STRANGE, Exit.REFUSED, str(unasked.failure.kind))
    kind = str(unasked.kind)
    said = f"not cancelled: {unasked.message}"
    if TABLE[unasked.kind].act is Act.REFUSE:
        return Stop(said, hint_of(unasked), Exit.REFUSED, kind)
    return Stop(said, hint_of(unasked) if unasked.kind in OUTAGE else AGAIN, Exit.STOPPED, kind)
