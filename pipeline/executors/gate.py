"""What a request passes before it leaves: the budgets of minute and day, and the first answer.

The gate is closed until the API has answered once: requests go one at a time, for one row. A wrong key, model
or schema is then found with a single request instead of one for each worker, and nothing is spent. It closes
again when the API says that the day's requests are used up: since such a 429 can be wrong, one request probes
after the delay that the API named, and only when that is refused, too, the run stops, or waits for the reset.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import anyio

from pipeline.executors.crew import Crew
from pipeline.executors.halt import Halt
from pipeline.flow import Failure, FailureKind, Reply
from pipeline.ledger import Full, Ledger
from pipeline.limiter import Admission, Limiter
from pipeline.quota import Amount, day_began, day_reset, pacific_day
from pipeline.retry import LONGEST_PAUSE, OUTAGE, TABLE, Act
from pipeline.tokens import CostEstimate, TokenEstimate
from pipeline.usage import Today

Send: TypeAlias = Callable[[], Awaitable[Reply | Failure]]

SUSPECT = 3  # this many first rows refused as bad requests, and it is the request, not the rows
PROBE_SECONDS = 10.0  # until the probe, where the API names no delay
SLICE = 30.0  # seconds of a long sleep: after a laptop's sleep the clock is looked at soon
LATE = 900.0  # seconds by which the API's day may begin later than ours
AGAIN = 120.0  # seconds until the next probe then


@dataclass(frozen=True, slots=True)
class Costing:
    """What requests will count and what replies did: `usd` is the cost of a reply."""

    tokens: TokenEstimate
    cost: CostEstimate
    usd: Callable[[Reply], float]

    def amount(self, text: str) -> Amount:
        """Return what is reserved for a request with `text`."""
        return self.cost.amount(self.tokens.most(text))

    def learn(self, text: str, reply: Reply) -> None:
        """Take in what a request with `text` did count."""
        self.tokens.learn(text, reply.usage.prompt)
        self.cost.learn(reply.usage)


class Gate:
    """Lets requests leave. `clock` is the Unix time; `wait` waits for the daily quota's reset."""

    def __init__(
        self,
        limiter: Limiter,
        ledger: Ledger,
        halt: Halt,
        crew: Crew,
        *,
        costing: Costing,
        clock: Callable[[], float] = time.time,
        wait: bool = False,
    ) -> None:
        self.limiter = limiter
        self.parked_until: datetime | None = None
        self.answered = False  # at least once
        self.down_since: float | None = None  # when the API ceased to answer at all
        self._costing = costing
        self._ledger = ledger
        self._halt = halt
        self._crew = crew
        self._clock = clock
        self._wait = wait
        self._open = False
        self._probing: int | None = None  # the task that alone may ask while the gate is closed
        self._changed = anyio.Event()
        self._suspects = 0
        self.doubted = False  # the day's requests may be used up: one more request will tell

    async def call(self, send: Send, text: str) -> Reply | Failure | None:
        """Return what `send` answers to `text` once it may leave, or None when the run is stopped before."""
        while await self._turn():
            probe = not self._open
            answer = await self._pass(send, text)
            if isinstance(answer, Full):
                answer = Failure(
                    FailureKind.QUOTA_DAY, f"all {self.limiter.limits.rpd} requests of today are used"
                )
                self._shut()
                again = await self._park()
            elif isinstance(answer, Failure) and answer.kind is FailureKind.QUOTA_DAY:
                again = await self._day_refused(answer, probe=probe)
            elif answer is None and not self._halt.pulled.is_set():
                again = True  # the gate was closed before it left
            else:
                if probe:
                    self._judge(answer)
                return answer
            if not again:
                return answer
        return None

    def today(self) -> Today:
        """Return how far this Pacific day is."""
        now = self._clock()
        return Today(self._ledger.count(pacific_day(now)), day_reset(now).timestamp() - now)

    def doubts(self, answer: Failure) -> bool:
        """Say whether a refusal may yet turn out to be of the request and not of its row."""
        return answer.kind is FailureKind.BAD_REQUEST and not self.answered

    def leave(self) -> None:
        """Say that the row of this task has ended, so that another may try the API in its place."""
        if self._probing is not None and self._probing == anyio.get_current_task().id:
            self._probing = None
            self._wake()

    async def _turn(self) -> bool:
        """Wait until the gate is open or this task is the one that probes; False when the run is stopped."""
        if self._open:
            return not self._halt.pulled.is_set()
        me = anyio.get_current_task().id
        while not self._open and self._probing not in (None, me) and not self._halt.pulled.is_set():
            with self._halt.waiting():
                await self._changed.wait()
        if not self._open:
            self._probing = me
        return not self._halt.pulled.is_set()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _pass(self, send: Send, text: str) -> Reply | Failure | Full | None:
        limit = self.limiter.limits.tpm
        if limit is not None and (tokens := self._costing.tokens.tokens(text)) > limit:
            said = f"about {tokens:,} input tokens, where {limit:,} a minute are allowed (tpm)"
            return Failure(FailureKind.TOO_LONG, said)
        admission = await self._admitted(text)
        if not isinstance(admission, Admission):
            return admission
        counted = admission.amount
        try:
            with self._crew.away():
                answer = await send()
            counted = self._heed(answer, text, admission)
        finally:
            self.limiter.end(admission, counted)
        return answer

    async def _admitted(self, text: str) -> Admission | Full | None:
        now = self.limiter.admit_now(self._costing.amount(text))
        if now is not None:
            return now
        probe = not self._open
        with self._halt.waiting():
            return await self.limiter.admit(lambda: self._costing.amount(text), lambda: probe or self._open)
        return None  # the run is stopped

    def _heed(self, answer: Reply | Failure, text: str, admission: Admission) -> Amount:
        """Learn from an answer; return what the request counted."""
        now, congestion = time.monotonic(), self.limiter.congestion
        if isinstance(answer, Reply):
            congestion.answered(answer.seconds, now)
            self.answered, self.down_since = True, None
            self._costing.learn(text, answer)
            return Amount(1, answer.usage.prompt, round(self._costing.usd(answer) * 1e9))
        if answer.kind is FailureKind.RATE_LIMITED:
            self.limiter.learn(answer)
        if is_congestion(answer):
            congestion.overloaded(now)
        if answer.kind in OUTAGE and self.down_since is None:
            self.down_since = now
        return Amount(1, admission.amount.tokens)  # what was refused costs nothing, yet it counts

    def _judge(self, answer: Reply | Failure | None) -> None:
        """Open the gate, unless the answer leaves open whether any request is welcome."""
        if answer is None:
            return
        if isinstance(answer, Failure):
            if answer.kind is FailureKind.BAD_REQUEST and not self.answered:
                self._suspect(answer)
                return
            if answer.kind in OUTAGE or TABLE[answer.kind].act not in (Act.AGAIN, Act.GIVE_UP):
                return
        self.doubted = False
        self._ledger.welcome(pacific_day(self._clock()))
        self._probing, self.answered, self._open = None, True, True
        self._wake()

    def _suspect(self, answer: Failure) -> None:
        self._suspects += 1
        if self._suspects == SUSPECT:
            said = f"each of the first {SUSPECT} requests was refused: {answer.message}"
            self._halt.pull(Failure(FailureKind.CONFIG, said))

    def _shut(self) -> None:
        """Close the gate; this task probes, unless another does."""
        self._open = False
        if self._probing is None:
            self._probing = anyio.get_current_task().id

    async def _day_refused(self, answer: Failure, *, probe: bool) -> bool:
        """Decide after a 429 for the day; say whether the request is to be tried again."""
        delay = PROBE_SECONDS if answer.retry_after is None else answer.retry_after
        if not probe:  # it left while the gate was open, maybe long ago
            if self._open:
                self.doubted, self._open, self._probing = True, False, None
                self.limiter.pause(min(delay, LONGEST_PAUSE))
            return True
        now = self._clock()
        known = self.doubted or delay > LONGEST_PAUSE or self._ledger.refused(pacific_day(now))
        if not known:
            self.doubted = True
            self.limiter.pause(delay)
            return True
        if self._wait and day_began(now) < LATE:  # our clock is ahead, or the reset late
            self.limiter.pause(AGAIN)
            return True
        self._ledger.refuse(pacific_day(now))
        return await self._park()

    async def _park(self) -> bool:
        """Wait for the reset of the daily quota, if that is wanted; say whether the run goes on."""
        if not self._wait:
            return False
        self.parked_until = day_reset(self._clock())
        while (left := self.parked_until.timestamp() - self._clock()) > 0 and await self._halt.sleep(
            min(left, SLICE)
        ):
            pass
        self.parked_until, self.doubted = None, False
        return not self._halt.pulled.is_set()


def is_congestion(failure: Failure) -> bool:
    """Say whether a failure tells that fewer requests in flight would help."""
    if failure.kind is FailureKind.RATE_LIMITED:
        return failure.quota_id is None and failure.retry_after is None
    return failure.kind in OUTAGE
