"""What an emulator has seen and sent; the judge of a client's thrift."""

from collections import Counter
from typing import Any


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

    def answer(self, digest: bytes, prompt_tokens: int, output_tokens: int) -> None:
        """Count an answer of the model to the prompt with this digest; that is what costs money."""
        self.answered += 1
        self.repeated += digest in self._prompts
        self._prompts.add(digest)
        self.prompt_tokens += prompt_tokens
        self.output_tokens += output_tokens

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
        }
