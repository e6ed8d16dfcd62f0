"""The worker pool: rows come in, outcomes go out, and what is in flight is bounded.

    feeder ──rows──▶ worker × N ──outcomes──▶ writer

Channels are bounded and go downstream only, so memory does not grow with the input. Each worker owns a
clone of the end where outcomes go in, and takes rows out of one supply; the end of the input closes the chain
by itself. How many workers there are follows from how many are held up: see `Crew`.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, TypeVar

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline.errors import StoreError
from pipeline.executors.asker import Source
from pipeline.executors.crew import Crew
from pipeline.executors.halt import Halt
from pipeline.flow import Outcome, Row, Spent

PART_ROWS = 5_000
PART_SECONDS = 60.0
SYNC_SECONDS = 0.1
AHEAD = 256  # rows read ahead
BEHIND = 1_024  # outcomes not yet taken: what comes while a part is written


@dataclass(frozen=True, slots=True)
class Pending:
    """A row to ask for; `turn` counts its earlier rounds, `earlier` is what they took."""

    row: Row
    turn: int = 0
    earlier: Spent | None = None


@dataclass(frozen=True, slots=True)
class Sink:
    """Where outcomes go: `ended` is told of each, `write` makes many durable, `sync` the journal.

    `write` and `sync` run in threads and raise StoreError.
    """

    ended: Callable[[Outcome], None]
    write: Callable[[list[Outcome]], None]
    sync: Callable[[], None]


Item = TypeVar("Item")
Group: TypeAlias = list[Pending]  # goes down the channel at a time
Rows: TypeAlias = MemoryObjectReceiveStream[Group]
Ended: TypeAlias = MemoryObjectSendStream[list[Outcome]]


class Asks(Protocol):
    """Whoever asks for rows."""

    async def ask(self, source: Source) -> None:
        """Take rows and hand each over as it ends, in any order; fewer when the run was stopped.

        What is given back need not end.
        """
        ...


class Supply:
    """The rows that come down the channel, as many at a time as whoever asks for them has a use for."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._rest: deque[Pending] = deque()  # of a group of which fewer were taken

    async def take(self, most: int) -> Group:
        """Return the next rows, `most` or fewer; none at the end."""
        if not self._rest:
            with suppress(anyio.EndOfStream):
                self._rest.extend(await _next(self._rows))
        return [self._rest.popleft() for _ in range(min(most, len(self._rest)))]

    def give_back(self, rows: Group) -> None:
        """Let whoever takes next have rows that were taken."""
        self._rest.extendleft(reversed(rows))


@dataclass(slots=True)
class Basket:
    """What one worker has taken out of the supply and not given back; a `Source` for whoever asks.

    `left` of these rows have not ended.
    """

    supply: Supply
    ended: Ended
    taken: Group = field(default_factory=list)
    left: int = 0

    async def take(self, most: int) -> Sequence[tuple[Row, int]]:
        """Take rows."""
        some = await self.supply.take(most)
        self.taken += some
        self.left += len(some)
        return [(pending.row, pending.turn) for pending in some]

    def give_back(self, rows: Sequence[Row]) -> None:
        """Give rows back to the supply."""
        numbers = {row.index for row in rows}
        self.supply.give_back([pending for pending in self.taken if pending.row.index in numbers])
        self.taken = [pending for pending in self.taken if pending.row.index not in numbers]
        self.left -= len(rows)

    async def end(self, outcomes: list[Outcome]) -> None:
        """Send on how rows have ended; lets others run, also where the journal knew the answers."""
        self.left -= len(outcomes)
        earlier = {pending.row.key: pending.earlier for pending in self.taken if pending.earlier}
        if earlier:
            outcomes = [replace(one, earlier=earlier.get(one.key)) for one in outcomes]
        await self.ended.send(outcomes)


async def execute(
    batches: Iterator[list[Pending]], asker: Asks, sink: Sink, *, group: int = 1, halt: Halt, crew: Crew
) -> None:
    """Ask for every row of `batches`; return when all have ended or the run is stopped.

    `group` rows go down the channel at a time. All outcomes are in parts when it returns. An exception in one
    task stops all of them; replies that had arrived are in the journal then.
    """
    rows_in, rows_out = anyio.create_memory_object_stream[Group](max(2, AHEAD // group))
    ended_in, ended_out = anyio.create_memory_object_stream[list[Outcome]](max(2, BEHIND // group))
    async with anyio.create_task_group() as around:
        around.start_soon(_sync, sink)
        async with anyio.create_task_group() as chain:
            chain.start_soon(_write, ended_out, sink)
            async with rows_out, ended_in:
                with halt.in_flight():
                    async with anyio.create_task_group() as workers:
                        workers.start_soon(_feed, batches, rows_in, group, halt)
                        supply = Supply(rows_out)
                        crew.begin(
                            lambda: workers.start_soon(_work, supply, ended_in.clone(), asker, crew, halt)
                        )
        around.cancel_scope.cancel()
    await to_thread.run_sync(sink.sync)


async def _feed(
    batches: Iterator[list[Pending]], rows: MemoryObjectSendStream[Group], size: int, halt: Halt
) -> None:
    async with rows:
        with halt.waiting():
            rest: Group = []
            while batch := await to_thread.run_sync(next, batches, None):
                batch = rest + batch  # only the last group has fewer rows than it may
                whole = len(batch) - len(batch) % size
                for start in range(0, whole, size):
                    await rows.send(batch[start : start + size])
                rest = batch[whole:]
            if rest:
                await rows.send(rest)


async def _work(supply: Supply, ended: Ended, asker: Asks, crew: Crew, halt: Halt) -> None:
    async with ended:
        while True:
            basket = Basket(supply, ended)
            try:
                await asker.ask(basket)
            except StoreError:
                halt.pull(None)  # at once: nothing leaves in the place of a reply that could not be kept
                raise
            if basket.left or not basket.taken:  # the run is stopped, or there are no more
                break
    crew.end()


async def _next(stream: MemoryObjectReceiveStream[Item]) -> Item:
    """Return what comes next; what is there already without a turn of the event loop, which costs more."""
    try:
        return stream.receive_nowait()
    except anyio.WouldBlock:
        return await stream.receive()


async def _write(ended: MemoryObjectReceiveStream[list[Outcome]], sink: Sink) -> None:
    """Gather outcomes and write a part whenever enough are there or the oldest has waited long enough."""
    async with ended:
        while batch := await _gather(ended, sink):
            await to_thread.run_sync(sink.write, batch)


async def _gather(ended: MemoryObjectReceiveStream[list[Outcome]], sink: Sink) -> list[Outcome]:
    """Return the next part's outcomes, empty at the end of the stream."""
    batch: list[Outcome] = []
    with suppress(anyio.EndOfStream):
        await _receive(ended, sink, batch)
        with anyio.move_on_after(PART_SECONDS):
            while len(batch) < PART_ROWS:
                await _receive(ended, sink, batch)
    return batch


async def _receive(ended: MemoryObjectReceiveStream[list[Outcome]], sink: Sink, batch: list[Outcome]) -> None:
    outcomes = await _next(ended)
    batch += outcomes
    for outcome in outcomes:
        sink.ended(outcome)


async def _sync(sink: Sink) -> None:
    while True:
        await anyio.sleep(SYNC_SECONDS)
        await to_thread.run_sync(sink.sync)
