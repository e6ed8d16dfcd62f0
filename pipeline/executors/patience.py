"""Asking the Batch API again after faults that pass, for as long as that may help."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from pipeline.batch import Seen
from pipeline.executors.halt import Halt
from pipeline.flow import Failure, FailureKind
from pipeline.gemini.batches import Absent, Batches
from pipeline.retry import OUTAGE, TABLE, Act, may_pass
from pipeline.retry import next_step as next_try
from pipeline.usage import Stalled, Tally

Answered = TypeVar("Answered")


def any_fault(_failure: Failure) -> bool:
    """Take every fault for one after which a call may be made again."""
    return True


def silent(_failure: Failure) -> None:
    """Say nothing."""


class Patience:
    """Makes calls, and makes them again until an outage has lasted for `longest` seconds.

    As online, an API that has not answered a single one is given up far sooner. `say` is told the first time
    that nobody answers.
    """

    def __init__(
        self, tally: Tally, halt: Halt, longest: float, say: Callable[[Failure], None] = silent
    ) -> None:
        self._tally = tally
        self._halt = halt
        self._longest = longest
        self._say = say
        self._answered = False

    async def asked(
        self,
        call: Callable[[], Awaitable[Answered | Failure]],
        again: Callable[[Failure], bool] = any_fault,
    ) -> Answered | Failure | None:
        """Return what a call gives, again after faults that pass; None when the run is stopped.

        A fault that lasts too long is returned, and so is one that asking again does not cure, or after which
        the call may not be made `again`.
        """
        times: Counter[FailureKind] = Counter()
        began = time.monotonic()
        try:
            while not self._halt.pulled.is_set():
                found = await call()
                self._heed(found)
                if not isinstance(found, Failure):
                    return found
                times[found.kind] += 1
                rule = TABLE[found.kind]
                if rule.act not in (Act.AGAIN, Act.PAUSE) or not again(found):
                    return found
                if self._is_gone(found, times[found.kind], began):
                    return found
                step = next_try(found, min(times[found.kind], rule.tries), 0.5)
                if found.kind in OUTAGE:
                    if self._tally.stalled is None:
                        self._say(found)
                    self._tally.stalled = Stalled(began, time.monotonic() + step.wait)
                await self._halt.sleep(step.wait)
        finally:
            self._tally.stalled = None
        return None

    def _heed(self, found: object) -> None:
        """Show what a call has met; what is refused counts requests for rows, which this is none of."""
        self._tally.trouble = found if isinstance(found, Failure) else None
        self._answered |= not isinstance(found, Failure) or found.kind not in OUTAGE

    def _is_gone(self, failure: Failure, times: int, began: float) -> bool:
        """Tell whether a call that was made so many times, and each in vain, is not made again."""
        answered = self._answered or self._tally.replies > 0
        foreign = failure.kind in OUTAGE and not may_pass(failure, answered=answered)
        return (foreign and times > TABLE[failure.kind].tries) or self.is_over(began)

    async def found(self, api: Batches, name: str) -> list[Seen] | Absent | Failure | None:
        """Return the job with a name, or none, as a list; others of that name are cancelled."""
        found: list[Seen] | Absent | Failure | None = await self.asked(lambda: api.find(name))
        if isinstance(found, list):
            for double in found[1:]:
                await self.asked(partial(api.cancel, double.job))
            return found[:1]
        return found

    def is_over(self, since: float) -> bool:
        """Tell whether an outage that began then, on the monotonic clock, is waited out no longer."""
        return time.monotonic() - since > self._longest
