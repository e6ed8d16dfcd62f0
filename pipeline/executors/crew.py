"""How many workers there are: as many as it takes to have some ready while the others wait for something."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

READY = 4


class Crew:
    """Counts workers, and starts another when hardly one is ready; `most` is the most there may be.

    So the number of requests in flight follows rate × latency by itself: workers that are held back by the
    limiter are ready, and while there are some no more are started.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._workers = 0
        self._away = 0
        self._start: Callable[[], object] | None = None

    def begin(self, start: Callable[[], object]) -> None:
        """Start the first workers with `start`, which is called for each later one, too."""
        self._start, self._workers = start, 0
        self._fill()

    def end(self) -> None:
        """Start no more: there are no more rows, or the run is stopped."""
        self._start = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Run a block in which the worker waits for an answer, or for its next attempt."""
        self._away += 1
        self._fill()
        try:
            yield
        finally:
            self._away -= 1

    def _fill(self) -> None:
        while self._start is not None and self._workers < min(self._most, self._away + READY):
            self._workers += 1
            self._start()
