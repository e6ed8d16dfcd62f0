"""The daily quota of a run: when it is over, and what then.

The API's 429 for the day can be wrong, so it is doubted once: one request probes after the delay that the API
named. Only when that is refused, too, or where our own count says so, the day is over.
"""

import time
from collections.abc import Callable
from datetime import datetime

from pipeline.executors.halt import Halt
from pipeline.flow import Failure
from pipeline.ledger import Ledger
from pipeline.limiter import Limiter
from pipeline.quota import day_began, day_reset, pacific_day
from pipeline.retry import LONGEST_PAUSE
from pipeline.usage import Today

PROBE_SECONDS = 10.0  # until the probe, where the API names no delay
SLICE = 30.0  # seconds of a long sleep: after a laptop's sleep the clock is looked at soon
LATE = 900.0  # seconds by which the API's day may begin later than ours
AGAIN = 120.0  # seconds until the next probe then


class Day:
    """Doubts, ends and outlasts a day. `clock` is the Unix time; `wait` waits for the reset."""

    def __init__(
        self,
        limiter: Limiter,
        ledger: Ledger,
        halt: Halt,
        *,
        clock: Callable[[], float] = time.time,
        wait: bool,
    ) -> None:
        self.doubted = False  # one more request will tell
        self.parked_until: datetime | None = None
        self.named: int | None = None  # requests a day, by the last 429 that named them
        self._limiter = limiter
        self._ledger = ledger
        self._halt = halt
        self._clock = clock
        self._wait = wait

    def so_far(self) -> Today:
        """Return how far this Pacific day is."""
        now = self._clock()
        return Today(self._ledger.count(pacific_day(now)), day_reset(now).timestamp() - now)

    def welcome(self) -> None:
        """Say that the API answers: whatever was thought of the day is not true."""
        self.doubted = False
        self._ledger.welcome(pacific_day(self._clock()))

    def doubt(self, answer: Failure) -> None:
        """Hold everything back after a 429 for the day, until a probe may leave."""
        self.doubted = True
        self.named = _requests(answer) or self.named
        self._limiter.pause(min(_delay(answer), LONGEST_PAUSE))

    async def refused(self, answer: Failure) -> bool:
        """Decide after a probe was refused for the day; say whether there is to be another."""
        now = self._clock()
        self.named = _requests(answer) or self.named
        today = pacific_day(now)
        if not (self.doubted or _delay(answer) > LONGEST_PAUSE or self._ledger.refused(today)):
            self.doubt(answer)
            return True
        if self._wait and day_began(now) < LATE:  # our clock is ahead, or the reset late
            self._limiter.pause(AGAIN)
            return True
        self._ledger.refuse(today)
        return await self.over()

    async def over(self) -> bool:
        """Wait for the reset, if that is wanted; say whether the run goes on."""
        if not self._wait:
            return False
        self.parked_until = day_reset(self._clock())
        end, going = self.parked_until.timestamp(), True
        while going and (left := end - self._clock()) > 0:
            going = await self._halt.sleep(min(left, SLICE))
        self.parked_until, self.doubted = None, False
        return going


def _delay(answer: Failure) -> float:
    return PROBE_SECONDS if answer.retry_after is None else answer.retry_after


def _requests(answer: Failure) -> int | None:
    """Return the requests a day that a 429 allows, where it says so."""
    return None if "token" in (answer.quota_id or "").lower() else answer.quota_value
