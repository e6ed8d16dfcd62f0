"""The money of a run: no request leaves that may bring it beyond what it may spend.

A reply says what it cost when it is there. Until then a request holds back what it is expected to cost, so
that those in flight are counted before they are paid for. Where nothing is in flight and money is left, one
may leave that is expected to cost more: so a run ends at its limit, and not somewhere before it.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TypeAlias

import anyio

from pipeline.executors.halt import Halt
from pipeline.flow import Failure, FailureKind
from pipeline.rates import dollars
from pipeline.usage import Tally

Expected: TypeAlias = Callable[[str, int], float]
"""Says what a request with a text, about so many rows, is expected to cost in USD."""

Less: TypeAlias = Callable[[], float]
"""Says by how many USD the next request costs less, since the API reads a part of it from a cache."""


def nothing() -> float:
    """Say that a request costs what its text does."""
    return 0.0


class Purse:
    """Holds back what requests in flight may cost; `most` is what may be spent, in USD.

    One request waits for its turn to take (the lock is fair), so that a dear one is not overtaken for ever.
    """

    def __init__(self, most: float, expected: Expected, tally: Tally, halt: Halt) -> None:
        self._most = most
        self._expected = expected
        self._tally = tally
        self._halt = halt
        self._held = 0.0
        self._in_flight = 0
        self._turn = anyio.Lock()
        self._returned = anyio.Event()

    def fits(self, text: str, rows: int) -> bool:
        """Tell whether a request leaves no more to be spent than there is, whatever is in flight."""
        return self._has(self._expected(text, rows))

    def _has(self, usd: float) -> bool:
        return self._tally.committed_usd + self._held + usd <= self._most

    @asynccontextmanager
    async def held(self, text: str, rows: int, less: Less = nothing) -> AsyncGenerator[bool, None]:
        """Run a block in which a request is in flight, once there is money for it.

        It is expected to cost `less` than its text does, by what that says when its money is taken.
        The block is given False where the run is stopped before that; it stops here where all is spent. Who
        waits holds nothing that others need. A reply is to be counted by whoever is given it before the event
        loop runs another task: the money that was held for it is free from here on.
        """
        usd = await self._taken(text, rows, less)
        if usd is None:
            yield False
            return
        try:
            yield True
        finally:
            self._in_flight -= 1
            self._held = self._held - usd if self._in_flight else 0.0  # nothing is left of rounding
            self._returned.set()

    async def _taken(self, text: str, rows: int, less: Less) -> float | None:
        with self._halt.waiting():
            async with self._turn:
                while not self._is_spent():
                    usd = max(0.0, self._expected(text, rows) - less())
                    if not self._in_flight or self._has(usd):
                        self._in_flight += 1
                        self._held += usd
                        return usd
                    self._returned = anyio.Event()
                    await self._returned.wait()
        return None

    def _is_spent(self) -> bool:
        """Stop the run where all is spent, and say whether it is stopped."""
        if self._tally.committed_usd >= self._most:
            said = f"`max_cost` stops it at {dollars(self._most)}"  # what it has spent is known at its end
            open_ = self._tally.enqueued.usd if self._tally.enqueued else 0.0
            beside = f" beside open batch jobs, which may cost ${open_:,.4f}" if open_ else ""
            self._halt.pull(Failure(FailureKind.MAX_COST, said + beside))
        return self._halt.pulled.is_set()
