"""Which requests are in flight, so that rows with equal prompts wait for one answer and ask once.

Where the one that asks fails of something that the prompt itself may cause, the others fail with it.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import anyio

from pipeline.executors.crew import Crew
from pipeline.executors.halt import Halt
from pipeline.flow import Failure
from pipeline.retry import may_be_own


class Flights:
    """Requests under way, by their ids. Of equal ones, the first asks and the others wait.

    `waiting` is how many rows do so: they can tell nothing of the service. `behind` is how many are asked
    when another row of their worker has ended; `queued` counts all prompts that come after another request
    of their worker, also where these rows wait for that. `changes` counts departures and landings.
    """

    def __init__(self, halt: Halt, crew: Crew) -> None:
        self.waiting = 0
        self.behind = 0
        self.queued = 0
        self.changes = 0
        self._halt = halt
        self._crew = crew
        self._under_way: dict[bytes, anyio.Event] = {}
        self._failed: dict[bytes, Failure] = {}
        self._in_vain: dict[frozenset[bytes], int] = {}

    @property
    def halted(self) -> bool:
        """Whether the run is stopped, so that nobody asks any more."""
        return self._halt.pulled.is_set()

    def has(self, id_: bytes) -> bool:
        """Say whether somebody is asking this just now."""
        return id_ in self._under_way

    def failure_of(self, id_: bytes) -> Failure | None:
        """Return what this has failed of in the run, where asking again would end in the same way."""
        return self._failed.get(id_)

    def fail(self, id_: bytes, failure: Failure) -> None:
        """Keep a failure for the rows with the same prompt, for as long as the run goes on."""
        if may_be_own(failure) and not self.halted:
            self._failed[id_] = failure

    def ask_in_vain(self, ids: Iterable[bytes], rows: int) -> None:
        """Say that a request was sent some times while nobody was answered; so many rows wait for it."""
        self._in_vain[frozenset(ids)] = rows

    def end(self, ids: Iterable[bytes]) -> None:
        """Say that a request is not sent any more."""
        if self._in_vain:
            self._in_vain.pop(frozenset(ids), None)

    def all_in_vain(self, rows: int, most: int) -> bool:
        """Tell whether so many rows are all that wait for requests that were sent in vain, `most` at most."""
        in_vain = sum(self._in_vain.values())
        return 0 < len(self._in_vain) <= most and rows <= self.waiting + self.behind + in_vain

    @property
    def prompts_in_vain(self) -> int:
        """How many prompts wait for an answer where all do so in vain."""
        return sum(map(len, self._in_vain)) + self.queued

    @contextmanager
    def after(self, prompts: int, *, apart: bool) -> Iterator[None]:
        """Run a block at whose end its worker asks for so many prompts more.

        They are held apart from the rows that wait for the block, or are among these.
        """
        behind = prompts if apart else 0
        self.behind += behind
        self.queued += prompts
        try:
            yield
        finally:
            self.behind -= behind
            self.queued -= prompts

    @contextmanager
    def of(self, ids: Iterable[bytes]) -> Iterator[None]:
        """Run a block that asks this; whatever is answered is in the journal when it ends."""
        landing = anyio.Event()
        mine = list(ids)
        self._under_way |= dict.fromkeys(mine, landing)
        self.changes += 1
        try:
            yield
        finally:
            for id_ in mine:
                del self._under_way[id_]
            self.changes += 1
            landing.set()

    async def landed(self, id_: bytes, rows: int = 1) -> bool:
        """Wait with so many rows until whoever asks this has ended; False when the run is stopped before."""
        event = self._under_way.get(id_)
        if event is None:
            return True
        self.waiting += rows
        try:
            with self._crew.away(), self._halt.waiting():
                await event.wait()
                return True
        finally:
            self.waiting -= rows
        return False
