"""The way of one request to its reply: through the gate, again after faults that pass, until it is answered.

What the reply says is judged elsewhere; here a failure is one of the way or of the service.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import anyio

from pipeline.executors.crew import Crew
from pipeline.executors.flights import Flights
from pipeline.executors.gate import Gate
from pipeline.executors.halt import Halt
from pipeline.executors.purse import Less, nothing
from pipeline.flow import Failure, FailureKind, Reply, Request
from pipeline.retry import (
    LONGEST_OUTAGE,
    LONGEST_PAUSE,
    LONGEST_PROBE,
    OUTAGE,
    PACK_TRIES,
    ROWS_OWN,
    TABLE,
    Act,
    Step,
    may_be_own,
    may_pass,
    next_probe,
    next_step,
)
from pipeline.usage import Tally

LAST = 20  # prompts, and so requests, at most that fail together where they are all that is left, and
LAST_TRIES = 2  # attempts that each has had by then, and
LAST_SILENCE = 120.0  # seconds after which they do


class Client(Protocol):
    """The API."""

    async def ask(self, request: Request) -> Reply | Failure:
        """Return the answer to one request; never raises for what the network or the API does."""
        ...


@dataclass(frozen=True, slots=True)
class _Stake:
    """What hangs on a request: the prompts in it, and what `Courier.deliver` says of the rest."""

    ids: Collection[bytes]
    held: int
    more: bool


class Courier:
    """Delivers requests; many workers share one."""

    def __init__(
        self,
        client: Client,
        gate: Gate,
        *,
        halt: Halt,
        crew: Crew,
        flights: Flights,
        tally: Tally,
        longest_outage: float = LONGEST_OUTAGE,
        less: Less = nothing,
    ) -> None:
        self.gate = gate
        self.tally = tally
        self._client = client
        self._halt = halt
        self._crew = crew
        self._flights = flights
        self._longest_outage = longest_outage
        self._less = less

    async def deliver(
        self,
        request: Request,
        sent: Callable[[], None],
        *,
        ids: Collection[bytes],
        held: int = 1,
        more: bool = False,
    ) -> Reply | Failure | None:
        """Return the reply, or the failure that asking again does not cure; None when the run is stopped.

        `sent` is called each time that it leaves; `ids` are those of the prompts in it. An attempt that never
        left, or failed when nobody was answered since the one before it, is not held against the request: it
        is sent again until the outage has lasted too long, and then the run stops. A pack with a failure that
        one row may cause is given back soon, to be asked in parts. `held` is how many unfinished rows can
        tell nothing of the service, since they wait for this request; those that wait in `Flights` count
        likewise. While the gate is closed others are asked first; if these fail, too, the failure of a pack
        is returned, or of a row whose worker has `more` to ask, and `tells_nothing`.
        """
        try:
            return await self._delivered(request, sent, _Stake(ids, held, more or len(ids) > 1))
        finally:
            self._flights.end(ids)

    async def _delivered(
        self, request: Request, sent: Callable[[], None], stake: _Stake
    ) -> Reply | Failure | None:
        seen: Counter[FailureKind] = Counter()
        rows = len(stake.ids)
        before, excused = self.tally.replies, 0
        while (answer := await self._call(request, sent, rows)) is not None:
            if isinstance(answer, Reply):
                return answer
            alone = answer.kind in OUTAGE and self.tally.replies == before
            excused = excused + 1 if alone or answer.unsent is not None else 0
            seen[answer.kind] += not excused
            before = self.tally.replies
            step = next_step(answer, seen[answer.kind] + excused, random.random())  # noqa: S311 - for waits
            if excused and (self._all_in_vain or not self._others_may_tell(LAST)):
                self.gate.limiter.congestion.forgive()  # all together would be held back for too long
            patient = excused and self._others_may_tell(stake.held) and not self._all_in_vain
            tries = seen[answer.kind] + (0 if patient else excused)
            if rows > 1 and self._wants_parts(answer, step, tries):
                return answer
            final = step.act is Act.GIVE_UP and not self._is_gone(answer)
            blamed = final and not (excused and self._is_outage(answer, stake.held))
            again = excused and seen.total() + excused >= LAST_TRIES
            if blamed or (again and self._is_last(answer, stake)):
                return answer
            if not await self._again(step, answer, stake.held):
                return None
            if stake.more and self.tells_nothing(answer):
                return answer
        return None

    def tells_nothing(self, failure: Failure) -> bool:
        """Say whether nobody knows yet if a request or the service is to blame, as nobody was answered."""
        return self.gate.closed and may_be_own(failure)

    async def let_others_try(self, held: int) -> bool:
        """Wait after a failure before any answer until other prompts tell whether it is an outage.

        A single other one could not. `held` is as in `deliver`. False where the run is stopped before that.
        """
        if not self._others_may_tell(held + 1):
            return True
        return await self.gate.tried()

    async def _call(self, request: Request, sent: Callable[[], None], rows: int) -> Reply | Failure | None:
        async def send() -> Reply | Failure:
            self.tally.sent()
            sent()
            try:
                answer = await self._client.ask(request)
            except anyio.get_cancelled_exc_class():
                self.tally.dropped += 1
                raise
            if isinstance(answer, Failure):
                self.tally.refused(answer)
            else:
                self.tally.unwritten += 1  # until whoever asked has kept it
            return answer

        return await self.gate.call(send, request.text, rows=rows, less=self._less)

    async def _again(self, step: Step, failure: Failure, held: int) -> bool:
        """Wait for the next attempt; False where there is none because the run stops."""
        if self.tells_nothing(failure):
            return await self._pass_on(failure, held)
        if self._is_gone(failure):
            self._halt.pull(failure)
            return False
        return await (self._outlast(failure) if step.act is Act.GIVE_UP else self._wait(step, failure))

    async def _pass_on(self, failure: Failure, held: int) -> bool:
        """Let others be asked while nobody has been answered; False where that is an outage, or a stop."""
        pause = next_probe(failure, self.gate.vain, random.random())  # noqa: S311 - for waits
        silence = self._silence
        tried_all = pause is None or self.gate.vain > self.tally.left - self._flights.waiting - held
        if self.gate.resumed and tried_all:
            self.gate.trust()
        elif silence > self._longest_outage or (pause is None and not self.gate.answered):
            self.tally.silence = silence
            self._halt.pull(failure)
            return False
        self.gate.limiter.pause(LONGEST_PROBE if pause is None else pause)
        return await self.gate.tried()

    def _wants_parts(self, failure: Failure, step: Step, tries: int) -> bool:
        """Tell whether a pack is to be asked in parts: its parts may be answered, and cost little to try."""
        if not may_be_own(failure) or self.gate.closed:
            return False
        return step.act is Act.GIVE_UP or tries >= PACK_TRIES

    def _others_may_tell(self, held: int) -> bool:
        """Say whether there are rows whose requests will yet tell whether it is an outage."""
        return self.tally.left - self._flights.waiting > held

    def _is_outage(self, failure: Failure, held: int) -> bool:
        """Tell whether the service may be to blame, and not the request, where nobody was answered meanwhile.

        Once there was an answer, a request that all rows left wait for is: no other one will ever tell. One
        whose connection breaks has more time, as networks break more often than prompts break servers.
        """
        own = failure.kind in ROWS_OWN and not self.gate.closed
        return not own or self._others_may_tell(held)

    def _is_last(self, failure: Failure, stake: _Stake) -> bool:
        """Tell whether a request is about a few prompts that alone are left, and failed for long enough."""
        if self.gate.closed or not may_be_own(failure):
            return False
        self._flights.ask_in_vain(stake.ids, stake.held)
        few = self._all_in_vain and self._flights.prompts_in_vain <= LAST  # a few packs hold many
        return few and self._silence >= LAST_SILENCE

    @property
    def _all_in_vain(self) -> bool:
        """Whether all rows left wait for a few requests that have been sent in vain, some times each."""
        return self._flights.all_in_vain(self.tally.left, LAST)

    @property
    def _silence(self) -> float:
        """For how many seconds nothing has been answered."""
        return 0.0 if self.gate.down_since is None else time.monotonic() - self.gate.down_since

    def _is_gone(self, failure: Failure) -> bool:
        """Tell whether nothing has been answered for too long, however often this request was sent."""
        silence = self._silence
        if silence <= self._longest_outage or not may_pass(failure, answered=self.gate.answered):
            return False
        self.tally.silence = silence
        return True

    async def _outlast(self, failure: Failure) -> bool:
        """Wait for the next attempt in an outage; stop the run where that will not pass."""
        if not may_pass(failure, answered=self.gate.answered):
            self._halt.pull(failure)
            return False
        pause = TABLE[failure.kind].ceiling * random.uniform(0.5, 1)  # noqa: S311 - for waits
        if self._all_in_vain and self._silence < LAST_SILENCE:  # and no longer than until that can be told
            pause = min(pause, LAST_SILENCE - self._silence)
        return await self._sleep(pause)

    async def _wait(self, step: Step, failure: Failure) -> bool:
        """Do what comes before the next attempt; False when there is none because the run stops."""
        match step.act:
            case Act.STOP | Act.REFUSE:
                self._halt.pull(failure)
            case Act.PAUSE if step.wait > LONGEST_PAUSE:
                self._halt.pull(failure)
            case Act.PAUSE:
                self.gate.limiter.pause(step.wait)
            case _ if step.wait:
                return await self._sleep(step.wait)
        return not self._halt.pulled.is_set()

    async def _sleep(self, seconds: float) -> bool:
        with self._crew.away():
            return await self._halt.sleep(seconds)
