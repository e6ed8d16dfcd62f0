"""Shares of few rows: the interval in which each may lie, and how much of one may be lost in another."""

import math
from dataclasses import dataclass

Z = 1.959964  # 95 %, two-sided


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `rows` agree; a mean of several trials of the same rows may have half a hit."""

    hits: float
    rows: int

    @property
    def value(self) -> float:
        """The share; 0 without rows."""
        return self.hits / self.rows if self.rows else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of 95 % (Wilson 1927, JASA 22:209)."""
        if not self.rows:
            return 0.0, 1.0
        share, weight = self.value, Z * Z / self.rows
        middle = (share + weight / 2) / (1 + weight)
        spread = Z / (1 + weight) * math.sqrt(share * (1 - share) / self.rows + weight / 4 / self.rows)
        return max(0.0, middle - spread), min(1.0, middle + spread)


@dataclass(frozen=True, slots=True)
class Loss:
    """The ends of the interval of what was lost from one share to another; below 0 something was won."""

    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Paired:
    """How many rows did well before and after, only before, only after, neither; means of several trials."""

    both: float
    before: float
    after: float
    neither: float

    @property
    def rows(self) -> int:
        """All of them."""
        return round(self.both + self.before + self.after + self.neither)

    @property
    def shares(self) -> tuple[Share, Share]:
        """The share that did well before, and after."""
        return Share(self.both + self.before, self.rows), Share(self.both + self.after, self.rows)

    @property
    def correlation(self) -> float:
        """Phi, made smaller for few rows as Newcombe does; 0 where all rows did alike."""
        margins = (self.both + self.before) * (self.after + self.neither)
        margins *= (self.both + self.after) * (self.before + self.neither)
        product = self.both * self.neither - self.before * self.after
        if not margins:
            return 0.0
        return (max(0.0, product - self.rows / 2) if product > 0 else product) / math.sqrt(margins)


def loss(pairs: Paired) -> Loss:
    """Return the interval of 95 % of what was lost, for pairs.

    Newcombe 1998, Statistics in Medicine 17:2635, method 10.
    """
    before, after = pairs.shares
    seen, phi = before.value - after.value, pairs.correlation

    def within(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))

    (low, high), (low_after, high_after) = before.interval, after.interval
    return Loss(
        seen - within(before.value - low, high_after - after.value),
        seen + within(high - before.value, after.value - low_after),
    )


def rows_needed(tolerance: float) -> int:
    """Return how many rows a sample needs for a size with perfect agreement to be called safe."""
    return math.ceil(Z * Z * (1 / tolerance - 1))
