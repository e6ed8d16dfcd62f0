"""The sleeping half of `quota`: lets requests leave one after the other, none above its limits.

aiolimiter spreads requests, tokens and money over their windows; the ledger, which all runs share, has the
last word; `Congestion` bounds how many are in flight. One request at a time waits for its turn (the lock is
fair), because `AsyncLimiter` serves the smallest waiting amount first and a large prompt would starve behind
small ones.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import anyio
from aiolimiter import AsyncLimiter

from pipeline.congestion import Congestion
from pipeline.flow import Failure
from pipeline.holdup import Holdup
from pipeline.leases import Full, Lease, Moment
from pipeline.ledger import LATELY, LEASE_SECONDS, POLL_SECONDS, Ledger
from pipeline.models import MARGIN, Limits
from pipeline.quota import Allowance, Amount, Dimension, Pace, allowances, learned, pace, pacific_day

MOST_LEASED = 64
SLICE_SECONDS = 0.02  # what is waited for at once, at high rates
NOTICED = 0.1  # a share that changed by less does not change the pace
SHARED_SECONDS = 2.0  # how often shares are looked at
UNUSED = Amount(0)
UNSEEN = {"nano_usd"}  # whose pace is not among the rates that a run shows

Estimate = Callable[[], Amount]
Wanted = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Admission:
    """What an admitted request counts until its reply says better."""

    lease: int
    amount: Amount
    day: date


class Limiter:
    """Paces requests, input tokens and money by `limits`; `pause` holds back all of the run.

    `cap` is the most that may be in flight, `paced` tells that the limits are the API's own and not only a
    bound; `margin` the share by which windows are counted longer,
    `wall` is the Unix time, which tells the day.
    """

    def __init__(
        self,
        limits: Limits,
        ledger: Ledger,
        *,
        cap: int,
        paced: bool = True,
        margin: float = MARGIN,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.limits = limits
        self.congestion = Congestion(cap, paced=paced and (limits.rpm or limits.tpm) is not None)
        self.in_flight = 0
        self._holdup = Holdup()
        self._room_at = 0.0  # when there is room for the next request, as far as that is known
        self._ledger = ledger
        self._margin = margin
        self._wall = wall
        self._turn = anyio.Lock()
        self._changed: anyio.Event | None = None  # what the one at the head of the line waits for
        self._lease: Lease | None = None
        self._resume = 0.0
        self._shared = float("-inf")
        self._runs = 1
        self._allow(limits)

    async def admit(self, estimate: Estimate, wanted: Wanted = lambda: True) -> Admission | Full | None:
        """Return when a request may leave that counts about `estimate()`; it is in flight from then on.

        The estimate is asked for when it is the request's turn, since it learns while requests wait. Returns
        Full when the day's requests are used up, and None when `wanted` says that it need not leave any more.
        """
        async with self._turn:
            if not wanted():
                return None
            try:
                return await self._admitted(estimate(), wanted)
            finally:
                self._waits_for(None)

    async def _admitted(self, amount: Amount, wanted: Wanted) -> Admission | Full | None:
        """Do what `admit` does once a request is at the head of the line."""
        for bucket in self._buckets:
            self._waits_for(bucket.dimension if bucket.dimension in UNSEEN else None)
            await bucket.take(amount)
        while wanted():
            wait = self._held()
            if wait:
                self._waits_for(None)
            else:
                found = self._room(amount)
                if not isinstance(found, Full) or found.day:
                    return found
                wait = self._short(found)
            self._changed = anyio.Event()
            with anyio.move_on_after(wait):
                await self._changed.wait()
            self._changed = None
        return None

    def _short(self, found: Full) -> float:
        """Take note of what there is no room of; return when to look again, since room may be given back."""
        if found.of is not None:  # or another run has the ledger just now
            self._waits_for(found.of)
            self._room_at = time.monotonic() + found.wait
        return min(POLL_SECONDS, found.wait)

    def _waits_for(self, of: Dimension | None) -> None:
        self._holdup.turn(of, time.monotonic())

    def admit_now(self, amount: Amount) -> Admission | None:
        """Admit a request at once where nobody is in line and nothing has to be waited for; else None."""
        if self._turn.locked() or self._held() or not all(one.has(amount) for one in self._buckets):
            return None
        found = self._room(amount)
        if isinstance(found, Full):
            return None
        for bucket in self._buckets:
            bucket.owe(amount)
        return found

    def end(self, admission: Admission, counted: Amount) -> None:
        """Say that a request has come back, and put what the API counted in the place of the estimate."""
        self.in_flight -= 1
        self.congestion.ended(self.in_flight)
        more = counted - admission.amount
        if more.tokens or more.nano_usd:
            self._ledger.settle(admission.lease, more.tokens, more.nano_usd)
            for bucket in self._buckets:
                bucket.owe(more)
        if self._changed is not None:
            self._changed.set()

    def unsent(self, admission: Admission) -> None:
        """Say that a request never left this machine, so that it is none of its day's."""
        self._ledger.unsent(admission.day)

    def learn(self, failure: Failure) -> None:
        """Keep to the limit that a 429 named, where it is lower than the one known."""
        limits = learned(self.limits, failure)
        if limits != self.limits:
            self._allow(limits)

    def pause(self, seconds: float) -> None:
        """Let nothing leave for `seconds` from now; a longer pause that is running stays."""
        self._resume = max(self._resume, time.monotonic() + seconds)

    @property
    def paused_for(self) -> float:
        """Seconds until the pause ends; 0 when there is none."""
        return max(0.0, max(self._resume, self.congestion.held_until) - time.monotonic())

    @property
    def short_of(self) -> Dimension | None:
        """What has held the run up lately, besides its even pace: a limit that is used up."""
        return self._holdup.named(time.monotonic())

    @property
    def room_in(self) -> float:
        """Seconds until there is room again for the next request; 0 where that is not known."""
        return max(0.0, self._room_at - time.monotonic())

    def close(self) -> None:
        """Give back what was leased and not used."""
        if self._lease is not None and self._lease.left != UNUSED:
            self._ledger.give_back(self._lease)
        self._lease = None

    def _held(self) -> float:
        """Return how long nothing may leave; for an end of a request it is cut short."""
        if self.in_flight >= self.congestion.room:
            return POLL_SECONDS
        return self.paused_for

    def _room(self, amount: Amount) -> Admission | Full:
        """Take room from the lease, or from a new one."""
        now = time.monotonic()
        if self._lease is None or not self._lease.use(amount, now):
            self.close()
            found = self._ledger.lease(
                amount, self._count(amount), self._allowances, rpd=self.limits.rpd, clock=self._moment
            )
            if isinstance(found, Full):
                return found
            self._lease = found
            found.use(amount, found.taken.at)
            self._share(found)
        self.in_flight += 1
        self.congestion.sent(self.in_flight)
        return Admission(self._lease.id, amount, self._lease.taken.day)

    def _moment(self) -> Moment:
        return Moment(time.monotonic(), pacific_day(self._wall()))

    def _count(self, amount: Amount) -> int:
        """Return how many requests like this one leave while a lease holds."""
        rates = [
            allowed.limit / allowed.span / amount.of(allowed.dimension)
            for allowed in self._allowances
            if amount.of(allowed.dimension)
        ]
        return max(1, min(MOST_LEASED, int(min(rates, default=MOST_LEASED) * LEASE_SECONDS)))

    def _allow(self, limits: Limits) -> None:
        self.limits = limits
        self._allowances = list(allowances(limits, self._margin))
        self._buckets = [_Bucket(allowed) for allowed in self._allowances]

    def _share(self, lease: Lease) -> None:
        """Leave to other runs what they used lately."""
        if (lease.runs > 1 or self._runs > 1) and lease.taken.at - self._shared > SHARED_SECONDS:
            self._shared, self._runs = lease.taken.at, lease.runs
            for bucket in self._buckets:
                bucket.share(lease.others, lease.runs)


class _Bucket:
    """The pace of one limit."""

    def __init__(self, allowed: Allowance) -> None:
        self.dimension = allowed.dimension
        self._allowed = allowed
        self._owed = 0.0
        self._used = 0.0
        self._runs = 1
        self._fresh = True
        self._slice = 0.0
        self._set(pace(allowed))

    async def take(self, amount: Amount) -> None:
        """Wait until the pace allows an amount.

        Large ones wait for several bucketfuls. At high rates more is waited for at once, for the next
        ones, since each wait costs as much as all the rest of an admission.
        """
        due = amount.of(self._allowed.dimension) + self._owed
        self._owed = 0.0  # it may change while this waits
        if self._fresh:  # neither a start nor a change of pace is a reason for a burst
            self._fresh = False
            await self._limiter.acquire(max(0.0, self._limiter.max_rate - max(1.0, due)))
        while due > 0:
            part = min(max(due, self._slice), self._limiter.max_rate)
            await self._limiter.acquire(part)
            due -= part
        self._owed += due

    def has(self, amount: Amount) -> bool:
        """Tell whether so much has been waited for already."""
        return self._owed + amount.of(self._allowed.dimension) <= 0

    def owe(self, more: Amount) -> None:
        """Correct the pace: the next request pays."""
        owed = self._owed + more.of(self._allowed.dimension)
        self._owed = max(owed, -self._limiter.max_rate)

    def share(self, others: Amount, runs: int) -> None:
        """Change the pace when other runs that share the limit came, went or changed theirs."""
        used = others.of(self._allowed.dimension) * self._allowed.span / LATELY
        if runs == self._runs and abs(used - self._used) <= NOTICED * self._allowed.limit:
            return
        self._used, self._runs = used, runs
        self._set(pace(self._allowed, used, runs))

    def _set(self, shape: Pace) -> None:
        self._limiter = AsyncLimiter(shape.burst, shape.period)
        self._fresh = True
        self._slice = shape.burst / shape.period * SLICE_SECONDS
