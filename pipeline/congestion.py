"""How many requests may be in flight, by what the service answers. Takes `now`, never reads a clock.

Slow start, additive increase, multiplicative decrease. Where a rate is known, it alone decides how many are
in flight (rate × latency), until the service says that it is overloaded: 503, 504, a 429 without any detail,
no connection. Then the number is cut by half of the share of requests that met this, once in a round trip, as
in data-centre TCP (RFC 8257); it grows again by one a round trip, and doubles once the trouble is over. When
a whole round trip failed, everything is held back.
"""

from dataclasses import dataclass

FIRST = 8  # in flight at the start where no rate is known; doubles with each round trip
SHORTEST = 0.2  # seconds of a round at least, so that one reply is not taken for all
CALM = 2.0  # seconds without trouble, after which the number doubles again
LONGEST_HOLD = 60.0
FEWEST_FAILED = 3  # a round in which fewer were sent says nothing about the whole service


@dataclass(slots=True)
class _Round:
    """What came back since `began`."""

    began: float
    good: int = 0
    bad: int = 0
    most: int = 0


class Congestion:
    """The number that may be in flight, at most `cap`; `paced` tells that a known rate bounds it as well."""

    def __init__(self, cap: int, *, paced: bool) -> None:
        self.limit = float(cap if paced else min(cap, FIRST))
        self._cap = cap
        self._threshold = float(cap)  # below it the limit doubles
        self._trip = SHORTEST
        self._round = _Round(0.0)
        self._trouble = float("-inf")
        self._failed_rounds = 0
        self.held_until = 0.0

    def sent(self, in_flight: int) -> None:
        """Take note of a request that left; `in_flight` includes it."""
        self._round.most = max(self._round.most, in_flight)

    def answered(self, seconds: float, now: float) -> None:
        """Take in a sign that the service works: any answer but those of `overloaded`."""
        self._trip += (seconds - self._trip) / 10
        self._round.good += 1
        self._failed_rounds = 0
        self.held_until = 0.0
        if self._round.most >= 0.8 * int(self.limit):  # otherwise nobody knows whether more would do
            doubling = self.limit < self._threshold or now - self._trouble > CALM
            step = 1.0 if doubling and not self._round.bad else 1.0 / self.limit
            self.limit = min(self._cap, self.limit + step)
        self._close(now)

    def overloaded(self, now: float) -> None:
        """Take in a sign that the service is overloaded or gone."""
        self._trouble = now
        if now < self.held_until:
            return  # it left before the hold
        self._round.bad += 1
        self._close(now)

    def _close(self, now: float) -> None:
        """At the end of a round trip, cut the limit by what was met in it."""
        done = self._round
        if now - done.began < max(SHORTEST, min(self._trip, CALM)):
            return
        self._round = _Round(now)
        if not done.bad:
            return
        share = done.bad / (done.good + done.bad)
        self.limit = max(1.0, min(self.limit, float(max(1, done.most))) * (1 - share / 2))
        self._threshold = self.limit
        if not done.good and (done.bad >= FEWEST_FAILED or self._failed_rounds or self.limit < 2):
            self.limit = 1.0
            self.held_until = now + min(LONGEST_HOLD, 2.0**self._failed_rounds)
            self._failed_rounds += 1
