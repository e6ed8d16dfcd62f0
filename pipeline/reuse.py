"""What caches of the instruction will save: a run's own, and those that the API makes by itself.

A run online makes a cache when its first requests have been answered; what has left by then carries the
instruction. So how much is saved hangs on the pace, and is given with both its ends.
"""

from dataclasses import dataclass
from math import ceil

from pipeline.caching import BATCH_HOURS, FIRST, gain_usd, uses_to_pay
from pipeline.models import Price

MAKING = 2.0  # seconds until a cache is there, once it is known to pay
MAKING_AT_MOST = 30.0
LATE = 2.0  # times as long as expected a run may take
SPARE_HOURS = 1 / 12  # that a cache may last beyond its last use
BATCH_HOURS_AT_MOST = 49.0  # the API gives up a job after 48


@dataclass(frozen=True, slots=True)
class Pace:
    """How a run goes: its `uses` of the instruction, how many leave in a second, and the seconds of a call.

    `in_flight` is the most at once, `hours` are those in which it asks; `day` uses are all that a day has,
    None where there is no limit.
    """

    uses: float
    rate: float
    call: float
    in_flight: int
    hours: float
    day: int | None = None


@dataclass(frozen=True, slots=True)
class Saving:
    """USD that are saved, as expected and between which ends, and the tokens that are read from a cache."""

    expected: float = 0.0
    most: float = 0.0
    least: float = 0.0
    tokens: float = 0.0


def by_itself(price: Price, tokens: float) -> float:
    """Return what is saved at most by tokens that may be read from a cache: all are, and storage is free."""
    return max(0.0, tokens * (price.input - price.cached) / 1e6)


def in_batch(price: Price, tokens: float, pace: Pace) -> Saving:
    """Return what a cache for batches saves; a job may take a moment or two days, one day is expected."""
    uses = pace.uses
    need = uses_to_pay(price, BATCH_HOURS)
    most = by_itself(price, tokens * uses)
    if need is None or uses < need or price.storage is None:
        return Saving(most=most)
    an_hour = tokens * price.storage / 1e6
    return Saving(
        most - an_hour * BATCH_HOURS, most, most - an_hour * BATCH_HOURS_AT_MOST, tokens=tokens * uses
    )


def online(price: Price, tokens: float, pace: Pace) -> Saving:
    """Return what the cache of a run saves that asks one request after the other."""
    most = by_itself(price, tokens * pace.uses)
    expected, read = _online(price, tokens, pace, making=MAKING, hours=pace.hours)
    least, _ = _online(price, tokens, pace, making=MAKING_AT_MOST, hours=LATE * pace.hours + SPARE_HOURS)
    return Saving(min(expected, most), most, min(least, expected), tokens=read)


def _online(price: Price, tokens: float, pace: Pace, *, making: float, hours: float) -> tuple[float, float]:
    """Return what is saved where a cache takes so long to be made, and the tokens that are read there."""
    days = ceil(pace.uses / pace.day) if pace.day else 1
    before = FIRST + min(pace.in_flight, pace.rate * pace.call) + pace.rate * making
    uses = days * max(0.0, pace.uses / max(1, days) - before)
    if uses <= 0 or gain_usd(price, round(tokens), uses, hours) <= 0:
        return 0.0, 0.0
    return gain_usd(price, round(tokens), uses, hours), tokens * uses
