"""How many requests may be in flight, by what the service answers. Takes `now`, never reads a clock.

Slow start, additive increase, multiplicative decrease. Where a rate is known, it alone decides how many are
in flight (rate × latency), until the service objects. Then the number is cut once in a round trip, grows
again by one a round trip, and doubles once the trouble is over. How deep the cut is depends on what was met:

- A 429 without any detail says that too many of *ours* are in flight. The cut is half of the share that met
  it, as in data-centre TCP (RFC 8257). It comes back at once, far sooner than an answer; so its place stays
  taken until the round ends, or the same place would be refused again and again, and the share be no
  measure of what is too many. Nothing grows in such a round.
- 503, 504 and no connection say that the service is in trouble, mostly with others' load, and fewer of ours
  mend little. The cut is the cube of the share: a fifth costs hardly anything, nine tenths nearly all.

When a whole round trip failed, everything is held back.
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
    sent: int = 0
    good: int = 0
    exhausted: int = 0
    overloaded: int = 0
    most: int = 0  # in flight at once, and places that are still taken

    @property
    def bad(self) -> int:
        return self.exhausted + self.overloaded

    @property
    def all_failed(self) -> bool:
        """Whether what came back was bad, and so much of it that it tells of the whole service."""
        return not self.good and 2 * self.bad >= self.sent


class Congestion:
    """The number that may be in flight, at most `cap`; `paced` tells that a known rate bounds it as well."""

    def __init__(self, cap: int, *, paced: bool) -> None:
        self.limit = float(cap if paced else min(cap, FIRST))
        self._cap = cap
        self._threshold = float(cap)  # below it the limit doubles
        self._trip: float | None = None
        self._flying = 0
        self._round = _Round(0.0)
        self._trouble = float("-inf")
        self._failed_rounds = 0
        self.held_until = 0.0

    def sent(self, in_flight: int) -> None:
        """Take note of a request that left; `in_flight` includes it."""
        self._flying = in_flight
        self._round.sent += 1
        self._round.most = max(self._round.most, in_flight + self._round.exhausted)

    def ended(self, in_flight: int) -> None:
        """Take note of a request that came back, whatever came of it; `in_flight` is without it."""
        self._flying = in_flight

    @property
    def room(self) -> int:
        """How many may be in flight now: at least one, and none in a place that was refused in this round."""
        return max(1, int(self.limit) - self._round.exhausted)

    def answered(self, seconds: float, now: float) -> None:
        """Take in a sign that the service works: a reply, and how many seconds it took."""
        self._trip = seconds if self._trip is None else self._trip + (seconds - self._trip) / 10
        self._round.good += 1
        self._failed_rounds = 0
        self.held_until = 0.0
        used = self._round.most >= 0.8 * int(self.limit)  # otherwise nobody knows whether more would do
        if used and not self._round.exhausted:
            doubling = self.limit < self._threshold or now - self._trouble > CALM
            step = 1.0 if doubling and not self._round.bad else 1.0 / self.limit
            self.limit = min(self._cap, self.limit + step)
        self._close(now)

    def forgive(self) -> None:
        """Hold nothing back for what has failed so far, where the few that are left wait by themselves."""
        self._failed_rounds = 0
        self.held_until = 0.0

    def exhausted(self, now: float) -> None:
        """Take in a sign that too many of our requests are in flight."""
        self._trouble = now
        if now >= self.held_until:  # otherwise it left before the hold
            self._round.exhausted += 1
            self._close(now)

    def overloaded(self, now: float) -> None:
        """Take in a sign that the service is overloaded or gone."""
        self._trouble = now
        if now >= self.held_until:
            self._round.overloaded += 1
            self._close(now)

    def _close(self, now: float) -> None:
        """At the end of a round trip, cut the limit by what was met in it."""
        done = self._round
        whole = done.all_failed and done.bad >= FEWEST_FAILED  # need not wait for what will not come
        if now - done.began < max(SHORTEST, 0.0 if whole else self._trip or 0.0):
            return
        self._round = _Round(now, most=self._flying)
        if not done.bad:
            return
        every = max(done.good + done.bad, done.sent)  # where latency grew, answers are still to come
        kept = (1 - done.exhausted / every / 2) * (1 - (done.overloaded / every) ** 3)
        self.limit = max(1.0, min(self.limit, float(max(1, done.most))) * kept)
        self._threshold = self.limit
        if done.all_failed and (done.bad >= FEWEST_FAILED or self._failed_rounds or self.limit < 2):
            self.limit = 1.0
            self.held_until = now + min(LONGEST_HOLD, 2.0 ** min(self._failed_rounds, 6))
            self._failed_rounds += 1
