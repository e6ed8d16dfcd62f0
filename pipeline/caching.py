"""When an explicit cache of the instruction pays, and what it costs: saved input against rented storage.

A use saves the difference between fresh and cached input for each token of the instruction; storage costs by
token and hour. Both grow with the tokens alike, so whether it pays hangs on uses and time alone. Cached input
costs the same in every service tier, since discounts do not multiply: a use in a cheap tier saves less.
"""

from math import floor
from typing import Final

from pipeline.models import Price

BATCH_HOURS: Final = 24.0  # that a job is taken to need beforehand: what the API aims at
FIRST: Final = 2  # replies after which the pace of a run is known well enough
PICO_PER_TOKEN: Final = 10**6  # picodollars a token for each dollar a million tokens
_HOUR = 3600.0


def break_even(price: Price) -> float | None:
    """Return the uses an hour from which a cache is cheaper; None where it never is, or has no price."""
    saving = price.input - price.cached
    return price.storage / saving if price.storage is not None and saving > 0 else None


def gain_usd(price: Price, tokens: int, uses: float, hours: float, *, already: float = 0.0) -> float:
    """Return what a cache of `tokens` saves over so many uses in so many hours, in USD; negative is a loss.

    `already` tokens of each use are cached by the API of its own accord. Filling the cache is counted as one
    reading at the full price: whether it is billed is not documented for the Developer API.
    """
    if price.storage is None:
        return -tokens * price.input / 1e6
    saved = uses * max(0.0, tokens - already) * (price.input - price.cached)
    return (saved - tokens * (price.storage * hours + price.input)) / 1e6


def uses_to_pay(price: Price, hours: float) -> int | None:
    """Return the fewest uses that a cache pays for which is held so many hours; None where none do."""
    saving = price.input - price.cached
    if price.storage is None or saving <= 0:
        return None
    return floor((price.storage * hours + price.input) / saving) + 1


def storage_pico(price: Price, tokens: int, seconds: float) -> int:
    """Return what it costs to store so many tokens for so long, in whole picodollars; 0 without a price."""
    return round(tokens * (price.storage or 0.0) * PICO_PER_TOKEN * seconds / _HOUR)
