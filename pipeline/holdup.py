"""Which limit holds a run up: the one that its requests have lately waited for, not the one of this moment.

Requests wait for one limit after the other, so what is waited for just now changes many times a second.
"""

import math

from pipeline.quota import Dimension

FADE = 3.0  # seconds over which waits are forgotten
MUCH = 0.3  # of that time spent on one limit holds a run up: after a second, and until four after it
CLEAR = 1.5  # times as much as the one named before, and another is named


class Holdup:
    """Shares of the last seconds that were spent waiting. Takes `now`, never reads a clock."""

    def __init__(self) -> None:
        self._shares: dict[Dimension, float] = {}
        self._of: Dimension | None = None  # what is waited for since `_seen`
        self._seen = 0.0
        self._named: Dimension | None = None

    def turn(self, of: Dimension | None, now: float) -> None:
        """Say what the next request waits for from now on; None is nothing that holds the run up."""
        if of != self._of:
            self._pass(now)
            self._of = of

    def named(self, now: float) -> Dimension | None:
        """Return which limit holds the run up; None where none does."""
        self._pass(now)
        most = max(self._shares, key=self._shares.__getitem__, default=None)
        if most is None or self._shares[most] < MUCH:
            self._named = None
        elif self._named is None or self._shares[most] > CLEAR * self._shares[self._named]:
            self._named = most
        return self._named

    def _pass(self, now: float) -> None:
        kept = math.exp((self._seen - now) / FADE)
        self._shares = {of: share * kept for of, share in self._shares.items()}
        if self._of is not None:
            self._shares[self._of] = self._shares.get(self._of, 0.0) + 1 - kept
        self._seen = now
