"""The sleeping half of `quota`: lets requests leave one after the other, none above its limits.

One request at a time waits for its turn at the buckets (the lock is fair), because `AsyncLimiter` serves
the smallest waiting amount first and a large prompt would starve behind small ones.
"""

import time

import anyio
from aiolimiter import AsyncLimiter

from pipeline.models import Limits
from pipeline.quota import bucket


class Limiter:
    """Paces requests and input tokens by `limits`; `pause` holds back all of the run."""

    def __init__(self, limits: Limits) -> None:
        self._turn = anyio.Lock()
        self._requests = _leaky(limits.rpm)
        self._tokens = _leaky(limits.tpm)
        self._resume = 0.0
        self._owed = 0

    async def admit(self, tokens: int) -> None:
        """Return when a request of `tokens` input tokens may leave."""
        async with self._turn:
            await self._paused()
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is not None:
                await self._take(self._tokens, tokens)
            await self._paused()

    def settle(self, estimated: int, counted: int) -> None:
        """Charge the difference between what was estimated and what the API counted to the next ones."""
        self._owed += counted - estimated

    def pause(self, seconds: float) -> None:
        """Let nothing leave for `seconds` from now; a longer pause that is running stays."""
        self._resume = max(self._resume, time.monotonic() + seconds)

    @property
    def paused_for(self) -> float:
        """Seconds until the pause ends; 0 when there is none."""
        return max(0.0, self._resume - time.monotonic())

    async def _paused(self) -> None:
        while (wait := self.paused_for) > 0:  # noqa: ASYNC110 - what is waited for is the clock
            await anyio.sleep(wait)

    async def _take(self, tokens: AsyncLimiter, amount: int) -> None:
        """Acquire in slices, since one acquisition may not exceed what the bucket holds."""
        due = max(0.0, float(amount + self._owed))
        self._owed += amount - round(due)
        while due > 0:
            part = min(due, tokens.max_rate)
            await tokens.acquire(part)
            due -= part


def _leaky(limit: int | None) -> AsyncLimiter | None:
    if limit is None:
        return None
    shape = bucket(limit)
    return AsyncLimiter(shape.burst, shape.period)
