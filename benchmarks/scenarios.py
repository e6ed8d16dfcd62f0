"""The situations in which `quota.py` measures how much of a limit a run uses.

A scenario says what the server enforces, what the run is told, how much work there is, and what
changes at the server meanwhile.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from benchmarks.ground import texts
from benchmarks.lengths import lengthy

PACE = {"latency": 0.3, "jitter": 0.4}
"""Seconds that an answer takes, and up to so many more, unless a scenario says otherwise."""


@dataclass(frozen=True, slots=True)
class Change:
    """Settings of the emulator from a moment on, a share of the work's time; `label` names what follows."""

    at: float
    settings: Mapping[str, object]
    label: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """One situation. `limit` is the server's, in requests or input tokens a minute; `told` is the run's."""

    name: str
    limit: int
    told: int
    by_tokens: bool = False
    minutes: float = 3.0
    runs: int = 1
    korean: bool = False
    changes: tuple[Change, ...] = field(default=())

    @property
    def quota(self) -> str:
        """The name of what is limited, as in the flags of the emulator and of Rowmill."""
        return "tpm" if self.by_tokens else "rpm"

    def rows(self, minutes: float) -> Iterable[tuple[str, str]]:
        """Return the rows of so many minutes of work, for all runs together."""
        amount = round(self.limit * minutes)
        return lengthy(amount, korean=self.korean) if self.by_tokens else texts(amount)


@dataclass(frozen=True, slots=True)
class Crowded:
    """A service that holds so many requests at once and names no limit when it is full, as Vertex AI."""

    name: str
    capacity: int
    minutes: float = 2.5

    @property
    def limit(self) -> int:
        """How many requests a minute fit into the capacity at the mean latency."""
        return round(self.capacity / (PACE["latency"] + PACE["jitter"] / 2) * 60)

    def rows(self, minutes: float) -> Iterable[tuple[str, str]]:
        """Return the rows of so many minutes of work."""
        return texts(round(self.limit * minutes))


def _paced(rpm: int, minutes: float = 3.0) -> Scenario:
    return Scenario(f"rpm-{rpm}", rpm, rpm, minutes=minutes)


def _lower(rpm: int) -> Scenario:
    return Scenario(f"lower-{rpm}", round(rpm * 2 / 3), rpm, minutes=4)


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        _paced(15, minutes=4),
        _paced(300),
        _paced(4_000),
        _paced(30_000),
        Scenario("tpm-250k", 250_000, 250_000, by_tokens=True, korean=True),
        Scenario("tpm-4m", 4_000_000, 4_000_000, by_tokens=True),
        _lower(300),
        _lower(4_000),
        Scenario(
            "latency-jump",
            4_000,
            4_000,
            changes=(
                Change(1 / 3, {"latency": 6.0, "jitter": 0.0}, "6 s"),
                Change(2 / 3, PACE, "after"),
            ),
        ),
        Scenario(
            "overload",
            4_000,
            4_000,
            changes=(
                Change(5 / 12, {"faults": ["503%0.2"]}, "20 % of 503"),
                Change(7 / 12, {"faults": []}, "after"),
            ),
        ),
        Scenario("two-runs", 300, 300, runs=2),
    )
}
"""By name, in the order in which they run."""

CROWDED = {"vertex": Crowded("vertex", 100)}
"""Those that follow, by name."""
