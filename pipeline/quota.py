"""Quota arithmetic: bucket sizes, token estimates and the Pacific day. No clock, no sleep.

A leaky bucket that holds `burst` and leaks `rate` per second lets at most `burst + 60 * rate` through in
any 60 seconds. So that no window anywhere exceeds a limit, `rate` is `(limit - burst) / 60`.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

PACIFIC = ZoneInfo("America/Los_Angeles")
WINDOW = 60.0  # seconds over which RPM and TPM are counted
BURST = 0.01  # of a minute's limit may be sent at once; the price is as much of the rate


@dataclass(frozen=True, slots=True)
class Bucket:
    """Size and period for a leaky bucket: `burst` at once, `burst` more every `period` seconds."""

    burst: float
    period: float


def bucket(limit: int) -> Bucket:
    """Return the bucket that keeps every 60-second window at or below `limit` (at least 1)."""
    burst = max(1.0, float(int(limit * BURST)))
    if limit <= 1:
        return Bucket(1.0, WINDOW)
    return Bucket(burst, burst * WINDOW / (limit - burst))


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

    Starts at one token for four ASCII characters and one for every other character, and then follows
    the ratio of counted to guessed tokens over about the last 200 replies. Instructions and schema are
    sent with each request and are part of the guess.
    """

    def __init__(self, fixed: str) -> None:
        self._fixed = _guess(fixed)
        self._guessed = 0.0
        self._counted = 0.0

    def tokens(self, text: str) -> int:
        """Return the expected count of `text` together with the fixed part, at least 1."""
        factor = self._counted / self._guessed if self._guessed else 1.0
        return max(1, round((self._fixed + _guess(text)) * factor))

    def learn(self, text: str, counted: int) -> None:
        """Take in what the API counted for a request with `text`."""
        fade = 1 - 1 / 200
        self._guessed = self._guessed * fade + self._fixed + _guess(text)
        self._counted = self._counted * fade + counted


def _guess(text: str) -> float:
    """Return a first guess: four ASCII characters to a token, one of any other script."""
    if text.isascii():
        return len(text) / 4
    plain = len(text.encode("ascii", "ignore"))
    return plain / 4 + (len(text) - plain)
