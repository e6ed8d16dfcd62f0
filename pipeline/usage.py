"""The live counters of a run, and what limits hold up what is left of it."""

import math
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.flow import Failure, FailureKind, Outcome, Usage
from pipeline.models import Limits
from pipeline.rates import PICO

_MINUTE = 60.0
_TEN_MINUTES = 600.0
_SILENT = 20.0  # seconds without an answer that are no part of a rate
_LEAST = 10.0  # seconds below which no rate is made of a count
ENOUGH = 10  # requests that have come back, and as many packs of rows: fewer say little of the rest
_DAY = 86_400.0
UNHEARD = (FailureKind.TIMEOUT, FailureKind.CONNECTION)  # nobody knows whether these are billed


@dataclass(frozen=True, slots=True)
class Today:
    """Requests that were sent on this Pacific day, by all runs, and the seconds until the next."""

    sent: int
    resets_in: float


@dataclass(frozen=True, slots=True)
class Need:
    """What is still to be sent: requests, their input tokens, and their cost in USD; 0 is not known yet."""

    requests: float
    tokens: float = 0.0
    usd: float = 0.0

    def __mul__(self, share: float) -> "Need":
        """Return a share of it."""
        return Need(self.requests * share, self.tokens * share, self.usd * share)


def seconds_by_limit(need: Need, limits: Limits, today: Today) -> dict[str, float]:
    """Return for how many seconds each limit that matters holds a need up, by the limit's name in `Limits`.

    What the rest of today has no room for waits for the reset, and a whole day for each one after it.
    """
    late = 0.0 if limits.rpd is None else need.requests - max(0, limits.rpd - today.sent)
    spend = limits.spend_10min_usd
    reasons = {
        "rpm": need.requests / limits.rpm * _MINUTE if limits.rpm else 0.0,
        "tpm": need.tokens / limits.tpm * _MINUTE if limits.tpm else 0.0,
        "spend_10min_usd": need.usd / spend * _TEN_MINUTES if spend else 0.0,
        "rpd": _until(late, limits.rpd, today) if limits.rpd else 0.0,
    }
    return {name: seconds for name, seconds in reasons.items() if seconds}


def _until(late: float, rpd: int, today: Today) -> float:
    """Return the seconds until requests that today has no room for may have left."""
    return today.resets_in + (math.ceil(late / rpd) - 1) * _DAY if late > 0 else 0.0


class Enqueued(NamedTuple):
    """Batch jobs that are open: how many with how many requests, what they may cost, and their states.

    `oldest` is when the oldest was planned, `due` when one is looked at next (Unix times); `beside` says that
    rows are asked online meanwhile. No jobs at all are still to be made.
    """

    jobs: int
    requests: int
    usd: float
    states: tuple[tuple[str, int], ...]
    oldest: float
    due: float
    beside: bool = False


class Stalled(NamedTuple):
    """A call that nobody answers: since when, and when it is made again, on the clock of the tally."""

    since: float
    next: float


class _Mark(NamedTuple):
    """The counters at one moment."""

    at: float
    asked: int = 0
    requests: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Saved:
    """What a run did not have to ask: rows that shared a request of the job, and those out of the cache.

    `cost_usd` is what their replies would have cost; `emulated` is set where one came from the emulator.
    """

    shared: int = 0
    cached: int = 0
    cost_usd: float = 0.0
    emulated: bool = False


@dataclass(slots=True)
class Shipped:
    """What a run has put into batch jobs, and what it took in from jobs that earlier runs have created.

    `numbers` are the jobs that it has created, with their `requests` and the `rows` in these; a row that is
    asked again in another job counts each time. `tried` rows were asked online before the first job was
    created. The rest is of jobs of earlier runs: rows that were answered, their tokens and their cost.
    """

    numbers: set[int] = field(default_factory=set)
    requests: int = 0
    rows: int = 0
    tried: int = 0
    earlier_rows: int = 0
    earlier_usage: Usage = field(default_factory=Usage)
    _pico: int = 0

    def created(self, number: int, requests: int, rows: int) -> None:
        """Count a job that was created."""
        self.numbers.add(number)
        self.requests += requests
        self.rows += rows

    def answered(self, number: int, rows: int, usage: Usage, cost_usd: float) -> None:
        """Count a reply to a line of a job, unless this run has created that."""
        if number not in self.numbers:
            self.earlier_rows += rows
            self.earlier_usage += usage
            self._pico += round(cost_usd * PICO)

    @property
    def earlier_usd(self) -> float:
        """What the replies of earlier runs' jobs cost in USD."""
        return self._pico / PICO


@dataclass(slots=True)
class Tally:
    """Live counters of one run, changed by one event loop only.

    `total` rows include `earlier`, those that need no request of their own: earlier runs finished them, or
    they are equal to one that is still to be asked (`alike`). For `kept` ones of the others a reply stands in
    the journal; `pack` rows may share a request. `unasked` ones ended without a request of this run.
    `started` and every `now` are seconds of one clock; the tally never reads a clock. `requests` counts every
    call, retries too, of which `unsent` never left this machine, `unheard` left and had no answer in time or
    over a connection that broke, `dropped` those whose answer was not waited for, since the run ended at
    once; `unwritten` replies have arrived and are in no journal yet; `silence` is the seconds without an
    answer that ended it; tokens and cost are those of replies that arrived in this run. Rates are of about
    the last minute where `mark` is called now and then, and since the start otherwise.
    """

    total: int
    started: float
    pack: int = 1
    earlier: int = 0
    alike: int = 0
    kept: int = 0
    unasked: int = 0
    done: int = 0
    failed: int = 0
    requests: int = 0
    unsent: int = 0
    unheard: int = 0
    replies: int = 0
    refusals: int = 0
    overloaded: int = 0  # of these, 503s
    dropped: int = 0
    unwritten: int = 0
    silence: float = 0.0
    before_usd: float = 0.0  # what other runs of this command have spent of what it may spend
    emulated: bool = False  # a reply came from the emulator
    trouble: Failure | None = None  # what the last call met, if it was not answered
    enqueued: Enqueued | None = None  # what the run waits for, where it asks by batches
    stalled: Stalled | None = None  # while a call of the Batch API finds nobody
    usage: Usage = field(default_factory=Usage)
    failures: Counter[FailureKind] = field(default_factory=Counter)
    saved: Saved = field(default_factory=Saved)
    shipped: Shipped = field(default_factory=Shipped)
    tiers: Counter[str] = field(default_factory=Counter)  # of the replies, as served
    _pico: int = 0
    _marks: deque[_Mark] = field(default_factory=deque)
    _idle: _Mark | None = None  # the last one before the first row had ended, or while the API was silent
    _heard: tuple[int, float] = (0, 0.0)  # replies at the last mark that found more of them, and when

    def sent(self) -> None:
        """Count one request on its way."""
        self.requests += 1

    def replied(self, usage: Usage, cost_usd: float, tier: str = "") -> None:
        """Count a reply, what it took and the tier that served it."""
        self.replies += 1
        self.tiers[tier] += 1
        self.trouble = None
        self.usage += usage
        self._pico += round(cost_usd * PICO)

    def refused(self, failure: Failure) -> None:
        """Count a call that was not answered, and remember why."""
        self.refusals += 1
        self.unsent += failure.unsent is not None
        self.unheard += failure.unsent is None and failure.kind in UNHEARD
        self.overloaded += failure.kind is FailureKind.OVERLOADED
        self.trouble = failure

    def mark(self, now: float) -> None:
        """Remember where the counters stand, so that rates are those of the last minute."""
        self._marks.append(_Mark(now, self.asked, self.requests, self.usage.prompt))
        if self.replies != self._heard[0]:
            self._heard = (self.replies, now)
        if not self.asked or self._is_silent(now):
            self._idle = self._marks[-1]
        while len(self._marks) > 1 and self._marks[1].at <= now - _MINUTE:
            self._marks.popleft()

    def _is_silent(self, now: float) -> bool:
        """Tell whether nothing has been answered for some time, though the API did not ask to wait."""
        asked_to_wait = self.trouble is None or self.trouble.retry_after is not None
        return not asked_to_wait and now - self._heard[1] >= _SILENT

    def add(self, outcome: Outcome) -> None:
        """Count a finished row."""
        self.unasked += not outcome.asked
        if isinstance(outcome.answer, Failure):
            self.failed += 1
            self.failures[outcome.answer.kind] += 1
        else:
            self.done += 1

    @property
    def departed(self) -> int:
        """Requests that have left this machine, or may yet."""
        return self.requests - self.unsent

    @property
    def finished(self) -> int:
        """Rows that ended in this run, well or not."""
        return self.done + self.failed

    @property
    def asked(self) -> int:
        """Rows that ended in this run by a request of this run."""
        return self.finished - self.unasked

    @property
    def answered(self) -> int:
        """Rows of the input that have ended; equal ones are taken to end last."""
        return self.earlier + self.finished - (self.alike if self.left else 0)

    @property
    def left(self) -> int:
        """Rows that have not ended yet."""
        return max(0, self.total - self.earlier - self.finished)

    @property
    def cost_usd(self) -> float:
        """What the replies of this run cost in USD."""
        return self._pico / PICO

    @property
    def spent_usd(self) -> float:
        """What the replies of this command cost in USD: of this run and those before it."""
        return self.before_usd + self.cost_usd

    @property
    def committed_usd(self) -> float:
        """What the replies of this command cost and what open batch jobs may yet, in USD."""
        return self.spent_usd + (self.enqueued.usd if self.enqueued else 0.0)

    def rows_per_minute(self, now: float) -> float | None:
        """Return at what rate rows that were asked for end, of the last minute or since the first did.

        None while that is too short a time to tell.
        """
        since = max(self._since, self._begun)
        elapsed = now - since.at
        return (self.asked - since.asked) / elapsed * _MINUTE if elapsed >= _LEAST else None

    def requests_in_minute(self, now: float) -> float:
        """Return requests sent in the last minute, which an RPM limit counts."""
        return self._in_minute(self.requests - self._since.requests, now)

    def tokens_in_minute(self, now: float) -> float:
        """Return input tokens of replies in the last minute: what a TPM limit counts."""
        return self._in_minute(self.usage.prompt - self._since.tokens, now)

    def seconds_left(self, now: float, limits: Limits, today: Today) -> float | None:
        """Return the longest of what the measured rate and each limit allow; None until enough is known.

        What the rest of today has no room for waits for the reset, and a whole day for each one after it.
        """
        if not self.left:
            return 0.0
        by_rate = self._by_rate(now) if self._measured else None
        if by_rate is None:
            return None
        return max([by_rate, *seconds_by_limit(self._need, limits, today).values()])

    @property
    def _measured(self) -> bool:
        """Whether enough has been answered to tell what the rest takes."""
        return self._back >= ENOUGH and self.asked >= ENOUGH * self.pack

    @property
    def _back(self) -> int:
        """Requests that have come back; those in flight belong to rows that have not ended."""
        return self.replies + self.refusals

    @property
    def _need(self) -> Need:
        """What the rows that are left will take, as those before them did."""
        each = self.left / self.asked
        requests = max(self.asked / self.pack, self._back)
        return Need(requests * each, self.usage.prompt * each, self.cost_usd * each)

    @property
    def _since(self) -> _Mark:
        """Where rates are counted from."""
        return self._marks[0] if self._marks else _Mark(self.started)

    @property
    def _begun(self) -> _Mark:
        """The last moment before the first row had ended, or before the API answered again."""
        return self._idle or _Mark(self.started)

    def _in_minute(self, count: int, now: float) -> float:
        """Return how many of these fell into the last minute, where they are of a little more than that."""
        return count * min(1.0, _MINUTE / max(now - self._since.at, _LEAST))

    def _by_rate(self, now: float) -> float | None:
        """Return the seconds that the rest takes at the rate of the last minute.

        Where fewer than enough have ended in it, at that of the whole run, since they waited for something;
        after an outage at that since then, and None where that is too little to tell.
        """
        since = max(self._since, self._begun)
        if self.asked - since.asked < ENOUGH * self.pack:
            since = self._begun
        elapsed, ended = now - since.at, self.asked - since.asked
        enough = elapsed >= _LEAST and ended >= ENOUGH * self.pack
        return self.left * elapsed / ended if enough else None
