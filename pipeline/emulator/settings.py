"""What an emulator is told at its start."""

from dataclasses import dataclass
from typing import Literal

from pipeline.emulator.faults import parse_fault

Tier = Literal["free", "paid"]

LIVE_MODELS = ("gemini-3.1-flash-lite", "gemini-3.5-flash-lite", "gemini-2.5-flash-lite")
"""Flash-Lite ids that the API served in November 2026."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Models, quotas, pace and scripted faults of one emulator; ValueError for what makes no sense.

    A quota of None is no limit. `tier` chooses the names that quotas have in 429 bodies. `latency` is
    in seconds; `jitter` adds up to that many seconds more, the same for the same prompt. `faults` are
    specs as `pipeline.emulator.faults` reads them; the first that applies to a request wins.
    """

    models: tuple[str, ...] = LIVE_MODELS
    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None
    tier: Tier = "free"
    latency: float = 0.0
    jitter: float = 0.0
    faults: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("rpm", "tpm", "rpd", "latency", "jitter"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"`{name}` is {value}, below 0")
        if self.tier not in ("free", "paid"):
            raise ValueError(f"`tier` is `{self.tier}`, not `free` or `paid`")
        for spec in self.faults:
            parse_fault(spec)
