"""Asking by batches: what is pending is put into jobs of the Batch API, and their answers into the journal.

    pending rows ──walk──▶ lines ──▶ file ──▶ job ──▶ results ──▶ journal ──walk──▶ outcomes

A walk takes each row the way that it always takes (`asker`), over the journal and without a request. Where
that ends with an answer, the row has ended; where it ends with a request, the request stands in an open batch
already, or becomes a line of the next one. So a batch is only another way for replies to come into the
journal, and a run may leave at any time: whoever comes next finds the open batches in their table and goes
on.
"""

import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from uuid import uuid4

import anyio
import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from pipeline.batch import ASKING, AT_WORK, BEFORE, Batch, Room, Stage, room, share
from pipeline.disk import make_folder, whole_file
from pipeline.executors.asker import Asker, Attempt
from pipeline.executors.carrier import Carrier, Means, Policy
from pipeline.executors.intake import key_of
from pipeline.executors.loading import Ahead, Line, Loading
from pipeline.executors.online import PART_ROWS, Pending, Sink
from pipeline.executors.parting import Dear, enqueued, open_jobs
from pipeline.flow import Failure, FailureKind, Outcome
from pipeline.progress import many
from pipeline.store.batches import LINES

ROUNDS = 3  # batches in which a request is asked in vain, before it is asked by itself
FEW = 50  # rows that are not worth another batch when they are asked again, and
SLIGHT = 0.01  # of all rows this share
MOST_BYTES = 100_000_000  # of a file; the API takes 2 GB
ABROAD = (*BEFORE, *AT_WORK)  # stages that a batch may be in for a day
BESIDE = (*ABROAD, Stage.OVER)  # stages out of which a batch comes without the journal
NOBODY, ENDED, ASIDE, ALONE = 0, -1, -2, -3  # what a row waits for, if not for a batch


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows that are pending, how some of them are read, and how some are asked by themselves."""

    pending: NDArray[np.bool_]
    read: Callable[[NDArray[np.bool_]], Iterator[list[Pending]]]
    ask: Callable[[NDArray[np.bool_]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Bodies:
    """What lines for one row and lines for several have in common, in the API's names."""

    alone: Mapping[str, object]
    together: Mapping[str, object]


class Shipping:
    """Asks for the pending rows by batches."""

    def __init__(
        self,
        means: Means,
        policy: Policy,
        rows: Rows,
        *,
        asker: Asker,
        loading: Loading,
        bodies: Callable[[str], Bodies],  # by the name of the cache, empty without one
        sink: Sink,
    ) -> None:
        self._means = means
        self._policy = policy
        self._rows = rows
        self._asker = asker
        self._loading = loading
        self._bodies = bodies
        self._sink = sink
        self._carrier = Carrier(means, policy, self._release)
        self._waits = np.where(rows.pending, NOBODY, ENDED).astype(np.int32)
        self._again = False  # rows that were asked before are put into lines now
        self._crowded = False  # there was no room for another line
        self._dear: Dear | None = None  # since too little money was left for it
        self._ended: list[Outcome] = []

    async def run(self) -> None:
        """Ask until every row has ended, or the run is stopped, or it leaves its batches to the API."""
        await to_thread.run_sync(self._tidy)
        while True:
            with self._means.halt.in_flight():
                await self._until_alone()
            alone = self._waits == ALONE
            if self._stopped or not alone.any():
                break
            asked = anyio.Event()
            async with anyio.create_task_group() as beside:
                beside.start_soon(self._go_on, asked)
                await self._rows.ask(alone)
                asked.set()
            self._waits[alone] = ENDED
        await self._means.keeping.close()
        self._say()

    @property
    def _stopped(self) -> bool:
        return self._means.halt.pulled.is_set()

    async def _go_on(self, asked: anyio.Event) -> None:
        """Let jobs go on while rows are `asked` by themselves; their answers are taken in after that.

        The journal has one task at a time, and that of the rows writes there. Results are fetched at once,
        since rows may take days, and the API keeps files for two.
        """
        while not asked.is_set() and not self._stopped:
            for batch in self._means.table.open():
                await self._carrier.advance(batch, BESIDE)
            self._show(self._means.table.open(), beside=True)
            dues = [batch.due for batch in self._means.table.open() if batch.stage in ABROAD]
            with anyio.move_on_after(max(0.0, min(dues, default=math.inf) - time.time())):
                await asked.wait()

    async def _until_alone(self) -> None:
        """Go on until rows are to be asked by themselves, or nothing is left to do."""
        while not self._stopped:
            for batch in self._means.table.open():
                await self._carrier.advance(batch)
            if not self._stopped and (self._waits == NOBODY).any() and not self._crowded:
                await self._walk()
            batches = self._means.table.open()
            self._show(batches)
            if self._stopped or ((self._waits == ALONE).any() and not self._is_short(batches)):
                return
            needed = self._needed(batches)
            if not (await self._wait(needed) if needed else self._next_round()):
                return

    def _needed(self, batches: list[Batch]) -> list[Batch]:
        """Return the batches that a row waits for or that are over; all where rows wait for room or money."""
        if ((self._waits == NOBODY) | (self._waits == ALONE)).any():
            return batches
        numbers = set(np.unique(self._waits).tolist())
        return [batch for batch in batches if batch.number in numbers or batch.stage not in ABROAD]

    def _is_short(self, batches: list[Batch]) -> bool:
        """Tell whether open jobs may cost all that is left to spend, so that nothing is asked beside them."""
        most, asking = self._policy.max_cost, any(batch.stage in ASKING for batch in batches)
        return most is not None and asking and self._means.tally.committed_usd >= most

    async def _wait(self, batches: list[Batch]) -> bool:
        """Wait for the next step of a batch; False where the run leaves instead."""
        due = min(batch.due for batch in batches) - time.time()
        if due > 0 and self._policy.leaves:
            said = f"{many(len(batches), 'batch job')} left to the API"
            self._means.halt.pull(Failure(FailureKind.LEFT_OPEN, said))
            return False
        return await self._means.halt.sleep(max(0.0, due))

    def _next_round(self) -> bool:
        """Say whether another walk is to come when no batch is open."""
        aside, left = self._waits == ASIDE, self._waits == NOBODY
        if aside.any():
            few = aside.sum() <= max(FEW, SLIGHT * len(self._waits))
            self._waits[aside] = ALONE if few else NOBODY
            self._again, self._crowded = not few, False
            return not few
        if left.any() and self._dear is not None:
            self._means.halt.pull(self._dear.failure)
        self._waits[left] = ALONE  # tokens of cancelled jobs leave no room
        return False

    def _release(self, number: int) -> None:
        """Let the rows of a batch be looked at again."""
        self._waits[self._waits == number] = NOBODY
        self._crowded = False

    # --- rows ---

    async def _walk(self) -> None:
        """Look at every row that waits for nobody: it ends, waits, or is put into a line of a new batch."""
        await self._prove()
        self._dear = None
        self._loading.clear()
        async with aclosing(self._lines()) as source:
            lines = Ahead(source)
            line = await lines.next()
            while line is not None and not self._stopped and not self._carrier.full:
                if line.tokens > (self._policy.limits.batch_tokens or line.tokens):  # it fits into no batch
                    self._waits[line.rows] = ALONE
                    self._loading.settled(line)
                    line = await lines.next()
                    continue
                space = self._room()
                if not self._fits(line, space, Batch(0, "")):
                    break
                batch, line = await self._load(line, lines, space)
                await self._carrier.advance(batch, BEFORE)  # what it answers is for the next walk
            self._crowded = line is not None
        self._again = False
        await self._flush()

    async def _prove(self) -> None:
        """Ask the first line of all online, where its price is slight: a refusal is found now, not in a day.

        The walk that follows finds its answer in the journal.
        """
        if not self._policy.submits or self._means.table.all():
            return
        self._loading.clear()
        async with aclosing(self._lines()) as lines:
            line = await anext(lines, None)
        known = any(not isinstance(ended.answer, Failure) for ended in self._ended)  # so the API takes it
        if line is None or known or len(line.rows) > SLIGHT * (self._waits != ENDED).sum():
            return
        if self._fits(line, self._room(), Batch(0, "")):
            await self._means.prove(line)

    async def _load(self, line: Line, lines: Ahead, space: Room) -> tuple[Batch, Line | None]:
        """Write a file of lines and plan its batch; return it, and the line that did not fit."""
        cache = await self._cache(line, lines)
        bodies, now = self._bodies(cache), time.time()
        with self._means.table.planning() as number:
            name = f"rowmill-{uuid4().hex}"
            scope = self._policy.scope
            batch = Batch(number, name, planned=now, since=now, due=now, scope=scope, cache=cache)
            path = self._means.paths.lines(number)
            make_folder(path.parent)
            with whole_file(path) as draft, draft.open("wb") as file:
                following: Line | None = line
                while following is not None and self._fits(following, space, batch):
                    key = key_of(number, batch.lines)
                    body = following.body(key, bodies.alone, bodies.together)
                    self._means.table.add(number, batch.lines, following.members)
                    file.write(body)
                    self._waits[following.rows] = number
                    self._loading.settled(following)
                    batch = _with(batch, following, len(body))
                    following = await lines.next()
            self._means.table.put(batch)
        return batch, following

    async def _cache(self, line: Line, lines: Ahead) -> str:
        """Return the cache that this line and the next ones name; empty where that does not pay."""
        need = self._means.keeping.need
        if need is None:
            return ""
        packs = self._loading.packing is not None
        if need and not await lines.hold(need - (line.packed is packs), packed=packs):
            return ""
        return await self._means.keeping.name()

    def _room(self) -> Room:
        spent, most = self._means.tally.spent_usd, self._policy.max_cost
        usd = None if most is None else most - spent
        return room(self._means.table.all(), self._policy.limits, usd, time.time())

    def _fits(self, line: Line, space: Room, batch: Batch) -> bool:
        """Tell whether a line may still stand in a batch, in the room that there was before it."""
        if batch.lines >= self._policy.lines or batch.size >= MOST_BYTES or space.jobs <= 0:
            return False
        if space.usd is not None and batch.cost_usd + line.cost_usd > space.usd:
            self._dear = self._too_dear(line, batch)
            return False
        if space.tokens is None:
            return True
        most = share(self._policy.limits) if batch.lines else space.tokens
        return batch.tokens + line.tokens <= min(space.tokens, most)

    def _too_dear(self, line: Line, batch: Batch) -> Dear:
        asking = [one.cost_usd for one in self._means.table.all() if one.stage in ASKING]
        return Dear(line.cost_usd, sum(asking) + batch.cost_usd, self._policy.max_cost or 0.0)

    async def _lines(self) -> AsyncGenerator[Line, None]:
        """Yield lines for the rows that wait for nobody and cannot end."""
        source = self._rows.read(self._waits == NOBODY)
        while batch := await to_thread.run_sync(next, source, None):
            begun = self._asker.begin_all([(pending.row, pending.turn) for pending in batch])
            left = [self._unless_ended(pending, one) for pending, one in zip(batch, begun, strict=True)]
            # whoever wants no more lines leaves here: what has ended is counted by then, and not begun again
            for pending, attempt in filter(None, left):
                for line in self._placed(pending, attempt):
                    yield line
            if len(self._ended) >= PART_ROWS:
                await self._flush()
            if self._stopped:
                return
        for line in self._loading.rest():
            yield line

    def _unless_ended(self, pending: Pending, begun: Attempt | Outcome) -> tuple[Pending, Attempt] | None:
        """Keep how a row has ended, or return it."""
        if isinstance(begun, Attempt):
            return pending, begun
        self._waits[pending.row.index] = ENDED
        self._ended.append(replace(begun, earlier=pending.earlier))
        return None

    def _placed(self, pending: Pending, begun: Attempt) -> Iterator[Line]:
        """Find out what a row waits for; yield the lines that are full with it."""
        table, row = self._means.table, pending.row.index
        id_ = self._asker.id_of(begun)
        if (holder := table.holder(id_)) is not None:
            self._waits[row] = holder
            return
        vain = table.vain(id_)
        if vain.times >= ROUNDS or not self._policy.submits:
            self._waits[row] = ALONE
        elif (vain.times or begun.replies) and not self._again:
            self._waits[row] = ASIDE
        else:
            yield from self._loading.add(begun, id_, row, vain.own)

    async def _flush(self) -> None:
        """Make durable how rows have ended."""
        ended, self._ended = self._ended, []
        for outcome in ended:
            self._sink.ended(outcome)
        for start in range(0, len(ended), PART_ROWS):
            await to_thread.run_sync(self._sink.write, ended[start : start + PART_ROWS])

    # --- what is left lying about, and what is said ---

    def _tidy(self) -> None:
        """Remove files that no open batch has: a killed process has left them."""
        known = {batch.number for batch in self._means.table.open()}
        for path in (self._means.paths.folder / LINES).glob("*.jsonl*"):
            number = path.name.partition(".")[0]
            if not path.name.endswith(".jsonl") or not number.isdecimal() or int(number) not in known:
                path.unlink(missing_ok=True)

    def _show(self, batches: list[Batch], *, beside: bool = False) -> None:
        asking = [batch for batch in batches if batch.stage in ASKING]
        shown = enqueued(asking, time.time(), beside=beside) if asking or not beside else None
        self._means.tally.enqueued = shown

    def _say(self) -> None:
        """Leave a note about what goes on without this run, where that is not finished."""
        self._means.tally.enqueued = None
        batches = [batch for batch in self._means.table.open() if batch.stage is not Stage.INGESTED]
        if batches and (self._waits != ENDED).any():
            self._means.notes.extend(open_jobs(batches, offline=self._policy.offline))
        held, reason = int((self._waits == NOBODY).sum()), self._means.halt.reason
        if held and self._dear is not None and (reason is None or reason.kind is not FailureKind.MAX_COST):
            self._means.notes.append(self._dear.note(held))


def _with(batch: Batch, line: Line, size: int) -> Batch:
    return replace(
        batch,
        lines=batch.lines + 1,
        rows=batch.rows + len(line.members),
        size=batch.size + size,
        tokens=batch.tokens + line.tokens,
        cost_usd=batch.cost_usd + line.cost_usd,
    )
