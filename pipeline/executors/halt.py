"""How a run stops early: waiting ends at once, what is in flight may end within a deadline."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from pipeline.flow import Failure


class Halt:
    """Pulled once, with the reason; None is a wish of the user (Ctrl-C, SIGTERM, SIGHUP).

    Waits that stand inside `waiting()` are cut short when it is pulled; calls to the API stand outside
    and are left to end, since they are paid for.
    """

    def __init__(self) -> None:
        self.pulled = anyio.Event()
        self.reason: Failure | None = None
        self._waits: set[anyio.CancelScope] = set()

    def pull(self, reason: Failure | None) -> None:
        """Stop the run; the first reason stays."""
        if self.pulled.is_set():
            return
        self.reason = reason
        self.pulled.set()
        for scope in self._waits:
            scope.cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Run a block that ends at once when the run is stopped; check `pulled` afterwards."""
        with anyio.CancelScope() as scope:
            self._waits.add(scope)
            if self.pulled.is_set():
                scope.cancel()
            try:
                yield
            finally:
                self._waits.discard(scope)

    async def sleep(self, seconds: float) -> bool:
        """Sleep, unless the run is stopped; say whether it goes on."""
        with self.waiting():
            await anyio.sleep(seconds)
        return not self.pulled.is_set()
