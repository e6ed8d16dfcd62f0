"""How many tokens a request will count, and what it will cost, learned from the replies of the run.

Tokens are a sum over the text's characters, each script at a weight of its own, and a constant for whatever
else is sent. The weights start at rules of thumb and are fitted, by least squares, to what the API counted.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.flow import Reply, Usage
from pipeline.models import Model, Price
from pipeline.quota import NANO, Amount

# Tokens for a character of ASCII, of other alphabets, and of CJK and whatever else takes three bytes.
FIRST = (0.25, 0.5, 1.0)
# How much is to be seen before a weight is given up: of the constant in replies, of the others in characters.
BELIEF = (0.05, 100.0, 50.0, 50.0)
FADE = 1 - 1 / 200  # a reply counts for the next few hundred
FITTED = 3  # after so many replies the weights tell something
EAGER = 50  # after so many replies the fit is renewed with every twelfth only
SETTLED = 200  # after so many replies every fourth is enough
DOUBT = 0.3  # by which share an estimate is off while nothing has been seen
TYPICAL_OUTPUT = 60.0  # output tokens of an answer while none has been seen


CACHE_TOKENS = 1_024  # the least that a cache takes, for models of which that is not known


class TokenEstimate:
    """Estimates input tokens; `fixed` is what is sent with every request."""

    def __init__(self, fixed: str) -> None:
        constant = sum(weight * count for weight, count in zip(FIRST, _scripts(fixed), strict=True))
        self._prior = np.array([constant, *FIRST])
        self._belief = np.diag(np.square(BELIEF))
        self._weights: list[float] = self._prior.tolist()
        self._squares = np.zeros((4, 4))
        self._products = np.zeros(4)
        self._seen = 0
        self._variance = DOUBT * DOUBT  # of the share by which estimates are off

    def tokens(self, text: str) -> int:
        """Return the expected count of a request with `text`, at least 1."""
        return max(1, round(self._expected(text)))

    def least(self, text: str) -> int:
        """Return what the count will hardly stay below: the expected count less twice its error."""
        return max(1, round(self._expected(text) * (1 - 2 * math.sqrt(self._variance))))

    def most(self, text: str) -> int:
        """Return what is to be reserved until the reply says better: the expected count and its error."""
        return max(1, math.ceil(self._expected(text) * (1 + math.sqrt(self._variance))))

    def added(self, text: str) -> int:
        """Return what `text` may add to the count of a request that holds others, too; at least 1."""
        alone = max(0.0, self._expected(text) - self._weights[0])
        return max(1, math.ceil(alone * (1 + math.sqrt(self._variance))))

    def learn(self, text: str, counted: int) -> None:
        """Take in what the API counted for a request with `text`."""
        self._seen += 1
        if self._seen > FITTED:  # before that an error is of the first guess
            error = min(1.0, abs(counted / self.tokens(text) - 1))
            self._variance += (error * error - self._variance) / min(50, self._seen)
        if self._seen > SETTLED and self._seen % 4:
            return
        counts = np.array([1.0, *_scripts(text)])
        self._squares = self._squares * FADE + np.outer(counts, counts)
        self._products = self._products * FADE + counts * counted
        if self._seen <= EAGER or self._seen % 12 == 0:
            fitted = np.linalg.solve(
                self._squares + self._belief, self._products + self._belief @ self._prior
            )
            self._weights = np.maximum(fitted, 0.0).tolist()

    def _expected(self, text: str) -> float:
        scripts = _scripts(text)
        weights = self._weights
        return weights[0] + weights[1] * scripts[0] + weights[2] * scripts[1] + weights[3] * scripts[2]


@dataclass(slots=True)
class CostEstimate:
    """Estimates what a request costs: its input tokens and the output of a typical answer.

    `price` is None where tokens cost nothing or nobody counts them.
    """

    price: Price | None
    output: float = TYPICAL_OUTPUT
    seen: int = 0  # replies

    def amount(self, tokens: int, rows: int) -> Amount:
        """Return what a request of so many input tokens about so many rows will count."""
        if self.price is None:
            return Amount(1, tokens)
        micro_usd = tokens * self.price.input + rows * self.output * self.price.output
        return Amount(1, tokens, round(micro_usd * NANO / 1e6))

    def learn(self, usage: Usage, rows: int) -> None:
        """Take in how long the answers to so many rows were; a reply without any tells nothing."""
        if not usage.output + usage.thoughts:
            return
        self.seen += 1
        self.output += ((usage.output + usage.thoughts) / rows - self.output) / min(20, self.seen)


@dataclass(frozen=True, slots=True)
class Costing:
    """What requests will count and what replies did: `usd` is the cost of a reply."""

    tokens: TokenEstimate
    cost: CostEstimate
    usd: Callable[[Reply], float]

    def amount(self, text: str, rows: int = 1) -> Amount:
        """Return what is reserved for a request with `text`, which asks about `rows`."""
        return self.cost.amount(self.tokens.most(text), rows)

    def expected_usd(self, text: str, rows: int, price: Price | None) -> float:
        """Return what a request with `text` about `rows` may cost in USD at this price; nothing without one.

        The fewer answers have been seen, the longer the others may be.
        """
        if price is None:
            return 0.0
        output = rows * self.cost.output * (1 + 1 / math.sqrt(1 + self.cost.seen))
        return (self.tokens.most(text) * price.input + output * price.output) / 1e6

    def learn(self, text: str, reply: Reply, rows: int = 1) -> None:
        """Take in what a request with `text` did count."""
        self.tokens.learn(text, reply.usage.prompt)
        self.cost.learn(reply.usage, rows)


def _scripts(text: str) -> tuple[int, int, int]:
    """Count the characters of ASCII, of other alphabets (two bytes in UTF-8), and of all others."""
    if text.isascii():
        return len(text), 0, 0
    plain = len(text.encode("ascii", "ignore"))
    foreign = len(text) - plain
    spread = len(text.encode("utf-8", "surrogatepass")) - plain - 2 * foreign  # 0, 1 or 2 for each of them
    wide = min(foreign, spread)
    return plain, foreign - wide, wide


def may_be_cached(system: str, model: Model) -> bool:
    """Tell whether an instruction may have the tokens that a cache takes; the API has the last word."""
    return TokenEstimate(system).tokens("") >= (1 - DOUBT) * (model.cache_tokens or CACHE_TOKENS)
