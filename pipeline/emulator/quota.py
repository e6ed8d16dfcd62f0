"""RPM, input TPM and RPD as the server counts them: sliding minutes and the Pacific day.

The invariant: no span of 60 seconds, open at one end, ever holds more admitted requests or tokens
than the limit. Pure arithmetic: the caller brings both clocks.
"""

from collections import deque
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

WINDOW = 60.0
_PACIFIC = ZoneInfo("America/Los_Angeles")

Dimension = Literal["requests", "tokens", "day"]


@dataclass(frozen=True, slots=True)
class Violation:
    """One quota that a request would break, and the seconds that the server says to wait."""

    dimension: Dimension
    limit: int
    wait: float


def next_pacific_midnight(wall: float) -> float:
    """Return the Unix time at which the Pacific day of `wall` ends; days of 23 and 25 hours included."""
    tomorrow = datetime.fromtimestamp(wall, _PACIFIC).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(), _PACIFIC).timestamp()


class Ledger:
    """What one model has admitted: a log of the last minute and a count of the day."""

    def __init__(self, rpm: int | None, tpm: int | None, rpd: int | None) -> None:
        self.limit(rpm, tpm, rpd)
        self._log: deque[tuple[float, int]] = deque()
        self._tokens = 0
        self._today = 0
        self._day_ends = float("-inf")

    def limit(self, rpm: int | None, tpm: int | None, rpd: int | None) -> None:
        """Set the limits; what has been admitted still counts."""
        self._rpm, self._tpm, self._rpd = rpm, tpm, rpd

    def admit(self, now: float, wall: float, tokens: int) -> list[Violation]:
        """Count a request of `tokens` at `now`, or return what it violates and count nothing.

        `now` is monotonic seconds, `wall` is Unix time.
        """
        self._forget(now, wall)
        broken = [v for v in (self._requests(now), self._input(now, tokens), self._day(wall)) if v]
        if not broken:
            self._log.append((now, tokens))
            self._tokens += tokens
            self._today += 1
        return broken

    def _forget(self, now: float, wall: float) -> None:
        log = self._log
        while log and log[0][0] + WINDOW <= now:
            self._tokens -= log.popleft()[1]
        if wall >= self._day_ends:
            self._today, self._day_ends = 0, next_pacific_midnight(wall)

    def _requests(self, now: float) -> Violation | None:
        if self._rpm is None or len(self._log) < self._rpm:
            return None
        place = len(self._log) - self._rpm
        wait = self._log[place][0] + WINDOW - now if self._rpm else WINDOW
        return Violation("requests", self._rpm, wait)

    def _input(self, now: float, tokens: int) -> Violation | None:
        if self._tpm is None or self._tokens + tokens <= self._tpm:
            return None
        excess = self._tokens + tokens - self._tpm
        leaves = now
        for admitted, size in self._log:
            leaves, excess = admitted, excess - size
            if excess <= 0:
                break
        # More than the whole bucket never fits, yet the server names a wait like for any other.
        return Violation("tokens", self._tpm, leaves + WINDOW - now)

    def _day(self, wall: float) -> Violation | None:
        if self._rpd is None or self._today < self._rpd:
            return None
        # Recorded daily refusals carry a delay within the minute: waiting it out does not help.
        return Violation("day", self._rpd, WINDOW - wall % WINDOW)
