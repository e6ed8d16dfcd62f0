"""What a quota server saw, read from the emulator's log: the independent judge of a client's pacing.

All figures are of arrivals at the server's gate, on its clock. A request uses up quota unless it was
answered with 429.
"""

import csv
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

WINDOW = 60.0
_ROUNDING = 2e-6  # the log has microseconds: two lines may be that much closer than their requests were
_REFUSED = 429


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request at the gate: when, what became of it, and its input tokens."""

    seconds: float
    status: int
    tokens: int


def read(log: Path) -> list[Arrival]:
    """Read a log of the emulator, which is in order of time."""
    with log.open(newline="") as file:
        return [
            Arrival(float(line["seconds"]), int(line["status"]), int(line["tokens"]))
            for line in csv.DictReader(file)
        ]


class Traffic:
    """The arrivals of one run and the limit per minute that bound it; `by_tokens` tells of what."""

    def __init__(self, arrivals: Sequence[Arrival], limit: int, *, by_tokens: bool = False) -> None:
        if not arrivals:
            raise ValueError("no request came to the server")
        self.limit, self.arrivals = limit, arrivals
        admitted = [a for a in arrivals if a.status != _REFUSED]
        self._times = [a.seconds for a in admitted]
        self._sums = [0, *accumulate(a.tokens if by_tokens else 1 for a in admitted)]
        self.start = arrivals[0].seconds
        self.end = self._times[-1] if self._times else self.start
        mean = self._sums[-1] / max(1, len(admitted))
        self.span = max(10.0, 5 * mean * WINDOW / limit)
        """Seconds over which a rate is taken: ten, or those of five requests where they are rarer."""

    @property
    def admitted(self) -> int:
        """How many requests used up quota."""
        return len(self._times)

    def taken(self, begin: float, end: float) -> int:
        """Return the requests or tokens that were admitted from `begin` to before `end`."""
        return self._sums[bisect_left(self._times, end)] - self._sums[bisect_left(self._times, begin)]

    def most(self) -> int:
        """Return the most that any 60 seconds held."""
        ends = (time + WINDOW - _ROUNDING for time in self._times)
        return max((self.taken(time, end) for time, end in zip(self._times, ends, strict=True)), default=0)

    def used(self, after: float) -> float | None:
        """Return the share of the limit that was used, from a time after the start to the last request.

        None where the run was over by then.
        """
        begin = self.start + after
        if self.end <= begin:
            return None
        return self.taken(begin, self.end) / (self.limit / WINDOW * (self.end - begin))

    def reached(self, share: float = 0.95, since: float | None = None) -> float | None:
        """Return the seconds until a request from which on a span held so much of the limit.

        Counted from the start, or from `since` on the clock of the log; None where there was none.
        """
        begin = self.start if since is None else since
        enough = share * self.limit * self.span / WINDOW
        first = bisect_left(self._times, begin)
        found = (t for t in self._times[first:] if self.taken(t, t + self.span) >= enough)
        time = next(found, None)
        return None if time is None else time - begin

    def refused(self, begin: float = 0.0, end: float = float("inf")) -> tuple[int, float]:
        """Return how many requests got a 429 between two moments of the run, and their share of all."""
        seen = [a.status for a in self.arrivals if begin <= a.seconds - self.start < end]
        count = seen.count(_REFUSED)
        return count, count / len(seen) if seen else 0.0

    def rate(self, begin: float, end: float) -> float:
        """Return what was admitted per second between two moments on the clock of the log."""
        return self.taken(begin, end) / (end - begin) if end > begin else 0.0


def answered(arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Return the arrivals that were answered, for rates that failed requests do not count in."""
    return [a for a in arrivals if a.status == 200]


def steps(arrivals: Sequence[Arrival], width: float, *, refused: bool = False) -> list[int]:
    """Count admitted or refused requests in each step of `width` seconds from the first arrival on."""
    start, end = arrivals[0].seconds, arrivals[-1].seconds
    counts = Counter(int((a.seconds - start) // width) for a in arrivals if (a.status == _REFUSED) is refused)
    return [counts[place] for place in range(int((end - start) // width) + 1)]
