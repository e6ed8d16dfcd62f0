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
from pipeline.retry import TABLE, Act
from pipeline.retry import next_step as next_try
from pipeline.usage import Tally

Answered = TypeVar("Answered")


def any_fault(_failure: Failure) -> bool:
    """Take every fault for one after which a call may be made again."""
    return True


class Patience:
    """Makes calls, and makes them again until an outage has lasted for `longest` seconds."""

    def __init__(self, tally: Tally, halt: Halt, longest: float) -> None:
        self._tally = tally
        self._halt = halt
        self._longest = longest

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
        while not self._halt.pulled.is_set():
            found = await call()
            if not isinstance(found, Failure):
                self._tally.trouble = None
                return found
            self._tally.trouble = found  # refused are requests for rows, which this is none of
            times[found.kind] += 1
            rule = TABLE[found.kind]
            if rule.act not in (Act.AGAIN, Act.PAUSE) or not again(found) or self.is_over(began):
                return found
            step = next_try(found, min(times[found.kind], rule.tries), 0.5)
            await self._halt.sleep(step.wait)
        return None

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
