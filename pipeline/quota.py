"""Quota arithmetic: exact sliding windows, paces, token estimates and the Pacific day. No clock, no sleep.

The invariant: no 60 seconds anywhere hold more than the limit. A `Window` keeps it exactly, on what really
left; a `Pace` in front of it spreads the requests evenly, so that a minute is not sent in its first second.
"""

from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

PACIFIC = ZoneInfo("America/Los_Angeles")
MINUTE = 60.0  # seconds over which RPM and TPM are counted
SLACK = 0.3  # seconds by which requests may arrive closer together than they left; costs 0.5 % of the rate
PRIOR = 100.0  # how much spread of lengths it takes to believe in another slope than 1
BURST = 1 / 60  # of a minute: what a second holds may leave at once, to make up for waits at another limit


@dataclass(frozen=True, slots=True)
class Pace:
    """A leaky bucket that lets `burst` through at once and as much again every `period` seconds."""

    burst: float
    period: float


def pace(limit: int) -> Pace:
    """Return the pace that spreads `limit` evenly over a minute."""
    burst = max(1.0, limit * BURST)
    return Pace(burst, burst * MINUTE / limit)


@dataclass(slots=True)
class Entry:
    """What one request counts in a window, and when it left."""

    at: float
    amount: int


class Window:
    """What left within the last minute: the sum of it never exceeds `limit` in any 60 seconds.

    Entries are kept for a minute and `SLACK`, since two requests can arrive closer together than they
    left. `now` is seconds of a clock that never goes back.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: deque[Entry] = deque()
        self._sum = 0

    def wait(self, amount: int, now: float) -> float:
        """Return the seconds until `amount` fits; what is larger than the limit waits for an empty window."""
        self._forget(now)
        excess = self._sum + min(amount, self._limit) - self._limit
        if excess <= 0:
            return 0.0
        for entry in self._entries:
            excess -= entry.amount
            if excess <= 0:
                return max(0.0, entry.at + MINUTE + SLACK - now)
        return 0.0  # only what was settled below its estimate stood in the way

    def take(self, amount: int, now: float) -> Entry:
        """Count `amount` as leaving now."""
        entry = Entry(now, amount)
        self._entries.append(entry)
        self._sum += amount
        return entry

    def settle(self, entry: Entry, amount: int, now: float) -> None:
        """Correct what an entry counts, up or down, if it still counts."""
        self._forget(now)
        if self._entries and entry.at >= self._entries[0].at:
            self._sum += amount - entry.amount
            entry.amount = amount

    def _forget(self, now: float) -> None:
        while self._entries and self._entries[0].at + MINUTE + SLACK <= now:
            self._sum -= self._entries.popleft().amount


def pacific_day(now: float) -> date:
    """Return the day that daily quotas count at the Unix time `now` (they reset at Pacific midnight)."""
    return datetime.fromtimestamp(now, PACIFIC).date()


def day_reset(now: float) -> datetime:
    """Return when the daily quota resets after the Unix time `now`, in UTC.

    Right on the days when the clocks change, which have 23 or 25 hours.
    """
    midnight = datetime.combine(pacific_day(now) + timedelta(days=1), datetime.min.time(), PACIFIC)
    return midnight.astimezone(UTC)


class Estimate:
    """How many input tokens a prompt will count, learned from what earlier prompts counted.

    A first guess is one token for four ASCII characters and one for every other character. What the API
    counts is a line over that guess: instructions and whatever else is sent with each request lift it, the
    script tilts it. The line is fitted to about the last 200 replies and starts with slope 1.
    """

    def __init__(self, fixed: str) -> None:
        self._fixed = _guess(fixed)
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def tokens(self, text: str) -> int:
        """Return the expected count of a request with `text`, at least 1."""
        guess = _guess(text)
        if not self._weight:
            return max(1, round(self._fixed + guess))
        x, y = self._x / self._weight, self._y / self._weight
        spread = self._xx - self._x * x
        slope = (self._xy - self._x * y + PRIOR) / (spread + PRIOR)
        return max(1, round(y + min(4.0, max(0.2, slope)) * (guess - x)))

    def learn(self, text: str, counted: int) -> None:
        """Take in what the API counted for a request with `text`."""
        guess, fade = _guess(text), 1 - 1 / 200
        self._weight = self._weight * fade + 1
        self._x = self._x * fade + guess
        self._y = self._y * fade + counted
        self._xx = self._xx * fade + guess * guess
        self._xy = self._xy * fade + guess * counted


def _guess(text: str) -> float:
    """Return a first guess: four ASCII characters to a token, one of any other script."""
    if text.isascii():
        return len(text) / 4
    plain = len(text.encode("ascii", "ignore"))
    return plain / 4 + (len(text) - plain)
