"""The sleeping half of `quota`: lets requests leave one after the other, none above its limits.

aiolimiter spreads requests and tokens over the minute; the exact windows of `quota` have the last word. One
request at a time waits for its turn (the lock is fair), because `AsyncLimiter` serves the smallest waiting
amount first and a large prompt would starve behind small ones.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import anyio
from aiolimiter import AsyncLimiter

from pipeline.models import Limits
from pipeline.quota import Entry, Window, pace


@dataclass(frozen=True, slots=True)
class Admission:
    """What an admitted request counts against the token limit, to be settled when its reply is there."""

    entry: Entry | None


class Limiter:
    """Paces requests and input tokens by `limits`; `pause` holds back all of the run."""

    def __init__(self, limits: Limits) -> None:
        self._turn = anyio.Lock()
        self._requests = None if limits.rpm is None else _Budget(limits.rpm)
        self._tokens = None if limits.tpm is None else _Budget(limits.tpm)
        self._resume = 0.0

    async def admit(self, estimate: Callable[[], int]) -> Admission:
        """Return when a request may leave that counts about `estimate()` input tokens.

        The estimate is asked for when it is the request's turn, since it learns while requests wait.
        """
        async with self._turn:
            tokens = estimate()
            if self._requests is not None:
                await self._requests.pace(1)
            if self._tokens is not None:
                await self._tokens.pace(tokens)
            while (wait := self._wait(tokens)) > 0:  # noqa: ASYNC110 - what is waited for is the clock
                await anyio.sleep(wait)
            return self._take(tokens)

    def settle(self, admission: Admission, counted: int) -> None:
        """Put what the API counted in the place of the estimate."""
        if self._tokens is not None and admission.entry is not None:
            self._tokens.settle(admission.entry, counted)

    def pause(self, seconds: float) -> None:
        """Let nothing leave for `seconds` from now; a longer pause that is running stays."""
        self._resume = max(self._resume, time.monotonic() + seconds)

    @property
    def paused_for(self) -> float:
        """Seconds until the pause ends; 0 when there is none."""
        return max(0.0, self._resume - time.monotonic())

    def _wait(self, tokens: int) -> float:
        now = time.monotonic()
        requests = 0.0 if self._requests is None else self._requests.window.wait(1, now)
        return max(
            self._resume - now,
            requests,
            0.0 if self._tokens is None else self._tokens.window.wait(tokens, now),
        )

    def _take(self, tokens: int) -> Admission:
        now = time.monotonic()
        if self._requests is not None:
            self._requests.window.take(1, now)
        return Admission(None if self._tokens is None else self._tokens.window.take(tokens, now))


class _Budget:
    """One limit: its pace and its exact window."""

    def __init__(self, limit: int) -> None:
        shape = pace(limit)
        self._pace = AsyncLimiter(shape.burst, shape.period)
        self._owed = 0.0
        self.window = Window(limit)

    async def pace(self, amount: int) -> None:
        """Wait until the pace allows `amount`; in slices, since the bucket may hold less than that."""
        due = amount + self._owed
        self._owed = min(0.0, due)
        while due > 0:
            part = min(due, self._pace.max_rate)
            await self._pace.acquire(part)
            due -= part

    def settle(self, entry: Entry, counted: int) -> None:
        """Correct the window now, and the pace with the next request."""
        self._owed = max(self._owed + counted - entry.amount, -self._pace.max_rate)
        self.window.settle(entry, counted, time.monotonic())
