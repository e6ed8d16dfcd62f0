"""Quota arithmetic: what a request counts, how limits are spread over time, and the Pacific day.

The invariant: no 60 seconds anywhere hold more requests or input tokens than the limit, and no ten minutes
more dollars. `pipeline.ledger` keeps it exactly, on what may really leave; a `Pace` in front of it spreads
the requests evenly, so that a minute is not sent in its first second. No clock, no sleep.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from pipeline.flow import Failure
from pipeline.models import Limits

PACIFIC = ZoneInfo("America/Los_Angeles")
MINUTE = 60.0  # seconds over which RPM and TPM are counted
TEN_MINUTES = 600.0  # seconds over which the spend limit of a tier is counted
EASE = 0.999  # the pace is that much slower than a window allows: then hardly a request waits for room in it
BURST = 1 / 60  # of a limit: what a second holds may leave at once, to make up for waits at another limit
NANO = 10**9  # nanodollars in a dollar

Dimension = Literal["requests", "tokens", "nano_usd"]


@dataclass(frozen=True, slots=True)
class Amount:
    """What requests count: their number, their input tokens, and their cost in nanodollars."""

    requests: int = 1
    tokens: int = 0
    nano_usd: int = 0

    def __sub__(self, other: "Amount") -> "Amount":
        """Subtract in each dimension."""
        return Amount(
            self.requests - other.requests, self.tokens - other.tokens, self.nano_usd - other.nano_usd
        )

    def __mul__(self, count: int) -> "Amount":
        """Return what so many of it count."""
        return Amount(self.requests * count, self.tokens * count, self.nano_usd * count)

    def of(self, dimension: Dimension) -> int:
        """Return what it counts in one dimension."""
        value: int = getattr(self, dimension)
        return value


@dataclass(frozen=True, slots=True)
class Allowance:
    """One limit: how much of a dimension may leave within any `span` seconds."""

    dimension: Dimension
    limit: int
    span: float


def allowances(limits: Limits, margin: float) -> Iterator[Allowance]:
    """Yield what holds within windows; the margin is in their spans, which are longer by that share."""
    stretch = 1 + margin
    if limits.rpm is not None:
        yield Allowance("requests", limits.rpm, MINUTE * stretch)
    if limits.tpm is not None:
        yield Allowance("tokens", limits.tpm, MINUTE * stretch)
    if limits.spend_10min_usd is not None:
        yield Allowance("nano_usd", max(1, round(limits.spend_10min_usd * NANO)), TEN_MINUTES * stretch)


@dataclass(frozen=True, slots=True)
class Pace:
    """A leaky bucket that lets `burst` through at once and as much again every `period` seconds."""

    burst: float
    period: float


def pace(allowance: Allowance, others: float = 0.0, runs: int = 1) -> Pace:
    """Return the pace that spreads an allowance evenly over its span.

    Where `runs` share it, a run leaves to the others what they used lately (`others` per span), but
    takes at least its even share.
    """
    share = max(allowance.limit / runs, allowance.limit - others)
    burst = max(1.0, share * BURST)
    return Pace(burst, burst * allowance.span / (share * EASE))


def learned(limits: Limits, failure: Failure) -> Limits:
    """Return the limits after a 429 that named one of a minute: the lower one of both is kept to.

    Input tokens and requests are told apart by the quota's id; ids are never compared whole, since they
    differ between tiers.
    """
    name, value = (failure.quota_id or "").lower(), failure.quota_value
    if not value or "perminute" not in name:
        return limits
    if "token" in name:
        return replace(limits, tpm=min(value, limits.tpm or value))
    return replace(limits, rpm=min(value, limits.rpm or value))


def pacific_day(now: float) -> date:
    """Return the day that daily quotas count at the Unix time `now` (they reset at Pacific midnight)."""
    return datetime.fromtimestamp(now, PACIFIC).date()


def day_reset(now: float) -> datetime:
    """Return when the daily quota resets after the Unix time `now`, in UTC.

    Right on the days when the clocks change, which have 23 or 25 hours.
    """
    midnight = datetime.combine(pacific_day(now) + timedelta(days=1), datetime.min.time(), PACIFIC)
    return midnight.astimezone(UTC)


def day_began(now: float) -> float:
    """Return the seconds since the last reset of the daily quota."""
    midnight = datetime.combine(pacific_day(now), datetime.min.time(), PACIFIC)
    return now - midnight.timestamp()
