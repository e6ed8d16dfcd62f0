"""What tokens cost, in whole picodollars: so the costs of all rows add up to the cost of the run exactly."""

from typing import NamedTuple

from pipeline.flow import Usage
from pipeline.models import Price

PICO = 10**12  # picodollars in a dollar; a price per million tokens is a millionth of them per token


def cost_usd(usage: Usage, price: Price, *, stored: int = 0) -> float:
    """Return the cost in USD; `stored` are picodollars of cache storage.

    Thoughts are output, cached input and audio have prices of their own.
    """
    return rates(price).usd(usage, stored)


class Rates(NamedTuple):
    """Picodollars for a token of each kind."""

    text: int
    cached_text: int
    audio: int
    cached_audio: int
    output: int

    def usd(self, usage: Usage, stored: int) -> float:
        """Return the cost of a reply in USD; `stored` are picodollars of cache storage."""
        text, cached_text, audio, cached_audio = usage.kinds
        return (
            text * self.text
            + cached_text * self.cached_text
            + audio * self.audio
            + cached_audio * self.cached_audio
            + (usage.output + usage.thoughts) * self.output
            + stored
        ) / PICO


def rates(price: Price) -> Rates:
    """Return a price in whole picodollars."""
    audio = price.input if price.audio is None else price.audio
    cached_audio = price.cached if price.cached_audio is None else price.cached_audio
    each = (price.input, price.cached, audio, cached_audio, price.output)
    return Rates(*(round(usd_per_million * 10**6) for usd_per_million in each))


def dollars(limit: float) -> str:
    """Return a limit in USD as people write it: `$0.05`, with all its places."""
    return f"${limit:,.12f}".rstrip("0").removesuffix(".")
