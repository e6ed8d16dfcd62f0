"""What an emulator has seen and sent; the judge of a client's thrift."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

BATCH = "batch"
"""The tier of lines of batches in `billed`."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What an answer took; `cached` is part of `prompt`, thoughts are part of `output`."""

    prompt: int
    output: int
    cached: int = 0


class Counts:
    """Counters since the start or the last reset."""

    def __init__(self) -> None:
        self.most_in_flight = 0
        self._in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Start again from zero; requests in flight stay counted as such."""
        self.requests = self.answered = self.repeated = 0
        self.prompt_tokens = self.output_tokens = 0
        self._billed: dict[str, Counter[str]] = {}
        self._held: Counter[str] = Counter()
        self._operations: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()
        self.most_in_flight = self._in_flight
        self._statuses: Counter[int] = Counter()
        self._prompts: set[bytes] = set()

    def arrive(self) -> int:
        """Count a request in and return its number, from 1."""
        self.requests += 1
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        return self.requests

    def leave(self) -> None:
        """Count a request out, however it ended."""
        self._in_flight -= 1

    def sent(self, status: int) -> None:
        """Count an HTTP status."""
        self._statuses[status] += 1

    def operation(self, kind: str) -> None:
        """Count a request for an operation other than generateContent."""
        self._operations[kind] += 1

    def hold(self, what: str) -> None:
        """Count a request that a fault such as `batch-create/hang` keeps waiting or without its answer."""
        self._held[what] += 1

    def answer(self, digest: bytes, tokens: "Tokens", tier: str) -> None:
        """Count an answer of the model to the prompt with this digest; that is what costs money.

        `tier` is the price that it has: a service tier, or `batch`. Totals without a tier are of online
        requests.
        """
        self.repeated += digest in self._prompts
        self._prompts.add(digest)
        bill = self._billed.setdefault(tier, Counter())
        bill["answered"] += 1
        bill["prompt_tokens"] += tokens.prompt
        bill["cached_tokens"] += tokens.cached
        bill["output_tokens"] += tokens.output
        if tier != BATCH:
            self.answered += 1
            self.prompt_tokens += tokens.prompt
            self.output_tokens += tokens.output

    def as_json(self) -> dict[str, Any]:
        """Return all counters by name."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "distinct": len(self._prompts),
            "repeated": self.repeated,
            "rate_limited": self._statuses[429],
            "by_status": {str(status): count for status, count in sorted(self._statuses.items()) if count},
            "prompt_tokens": self.prompt_tokens,
            "output_tokens": self.output_tokens,
            "in_flight": self._in_flight,
            "most_in_flight": self.most_in_flight,
            "billed": {tier: dict(bill) for tier, bill in sorted(self._billed.items())},
            "operations": dict(sorted(self._operations.items())),
            "held": dict(sorted(self._held.items())),
        }
