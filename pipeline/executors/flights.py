"""Which requests are in flight, so that rows with equal prompts wait for one answer and ask once."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import anyio

from pipeline.executors.crew import Crew
from pipeline.executors.halt import Halt


class Flights:
    """Requests under way, by their ids. Of equal ones, the first asks and the others wait."""

    def __init__(self, halt: Halt, crew: Crew) -> None:
        self._halt = halt
        self._crew = crew
        self._under_way: dict[bytes, anyio.Event] = {}

    @property
    def halted(self) -> bool:
        """Whether the run is stopped, so that nobody asks any more."""
        return self._halt.pulled.is_set()

    def has(self, id_: bytes) -> bool:
        """Say whether somebody is asking this just now."""
        return id_ in self._under_way

    @contextmanager
    def of(self, ids: Iterable[bytes]) -> Iterator[None]:
        """Run a block that asks this; whatever is answered is in the journal when it ends."""
        landing = anyio.Event()
        mine = list(ids)
        self._under_way |= dict.fromkeys(mine, landing)
        try:
            yield
        finally:
            for id_ in mine:
                del self._under_way[id_]
            landing.set()

    async def landed(self, id_: bytes) -> bool:
        """Wait until whoever asks this has ended; False when the run is stopped before."""
        event = self._under_way.get(id_)
        if event is not None:
            with self._crew.away(), self._halt.waiting():
                await event.wait()
                return True
            return False
        return True
