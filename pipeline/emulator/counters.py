"""What an emulator has seen so far, as `GET /emulator/stats` tells it."""

from collections import Counter
from typing import Any


class Counters:
    """The numbers of one emulator; `restart` sets all but what is in flight back to nothing."""

    def __init__(self) -> None:
        self._in_flight = 0
        self.restart()

    def restart(self) -> None:
        """Forget everything but the requests that are in flight."""
        self.requests = 0
        self._answered = self._prompt_tokens = self._output_tokens = 0
        self._by_status: Counter[int] = Counter()
        self._seen: set[bytes] = set()
        self._most_in_flight = self._in_flight

    def enter(self) -> None:
        """Count a generateContent request."""
        self.requests += 1
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)

    def leave(self) -> None:
        """Note that a request is over, however it ended."""
        self._in_flight -= 1

    def sent(self, status: int) -> None:
        """Count the answer to a generateContent request by its HTTP status."""
        self._by_status[status] += 1

    def answered(self, digest: bytes, prompt: int, output: int) -> None:
        """Count what the model did for the request of `digest`; `output` tokens include thoughts."""
        self._answered += 1
        self._seen.add(digest)
        self._prompt_tokens += prompt
        self._output_tokens += output

    def stats(self) -> dict[str, Any]:
        """Return all numbers; `repeated` are answers beyond the first to an equal request."""
        return {
            "requests": self.requests,
            "answered": self._answered,
            "by_status": {str(status): count for status, count in sorted(self._by_status.items())},
            "prompt_tokens": self._prompt_tokens,
            "output_tokens": self._output_tokens,
            "distinct": len(self._seen),
            "repeated": self._answered - len(self._seen),
            "most_in_flight": self._most_in_flight,
            "rate_limited": self._by_status[429],
        }
