"""Room in the windows of the limits, as the ledger gives it: taken for a moment, used up, or not there."""

from dataclasses import dataclass
from datetime import date

from pipeline.quota import Amount, Dimension


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: `at` on the clock of all processes of this machine that never goes back, and the Pacific day."""

    at: float
    day: date


@dataclass(slots=True)
class Lease:
    """Room that may be used until `until` (seconds of the ledger's clock)."""

    id: int
    left: Amount
    until: float
    taken: Moment
    used: float  # when it was used last
    others: Amount  # what other runs used in the last `LATELY` seconds
    runs: int  # that share the limits, this one included

    def use(self, amount: Amount, now: float) -> bool:
        """Take an amount out of what is left, if it is enough and not too late; say whether."""
        left = self.left
        if now > self.until or amount.requests > left.requests:
            return False
        if amount.tokens > left.tokens or amount.nano_usd > left.nano_usd:
            return False
        self.left, self.used = left - amount, now
        return True


@dataclass(frozen=True, slots=True)
class Full:
    """There is no room `of` something for `wait` seconds or, with `day`, until the daily quota resets.

    There may be room earlier, since others give back what they did not use.
    """

    wait: float
    day: bool = False
    of: Dimension | None = None
