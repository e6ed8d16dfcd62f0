"""What an emulator is told at its start, and what of it can change while it runs."""

from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

from pipeline.emulator.faults import parse_fault

Tier = Literal["free", "paid"]

LIVE_MODELS = ("gemini-3.1-flash-lite", "gemini-3.5-flash-lite", "gemini-2.5-flash-lite")
"""Flash-Lite ids that the API served in November 2026."""

_LIMITS = ("rpm", "tpm", "rpd", "capacity")
_PACE = ("latency", "jitter")
CHANGEABLE = (*_PACE, "faults", *_LIMITS)
"""What `changed` takes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Models, quotas, pace and scripted faults of one emulator; ValueError for what makes no sense.

    A quota of None is no limit; `capacity` bounds how many requests may be in flight. `tier` chooses the
    names that quotas have in 429 bodies. `latency` is in seconds; `jitter` adds up to that many seconds
    more, the same for the same prompt. `faults` are specs as `pipeline.emulator.faults` reads them; the
    first that applies to a request wins. `log` names a file that `pipeline.emulator.log` describes.
    """

    models: tuple[str, ...] = LIVE_MODELS
    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None
    capacity: int | None = None
    tier: Tier = "free"
    latency: float = 0.0
    jitter: float = 0.0
    faults: tuple[str, ...] = ()
    log: str | None = None

    def __post_init__(self) -> None:
        for name in (*_LIMITS, *_PACE):
            value = getattr(self, name)
            if value is not None and not 0 <= value < inf:
                raise ValueError(f"`{name}` is {value}, not a number from 0")
        if self.tier not in ("free", "paid"):
            raise ValueError(f"`tier` is `{self.tier}`, not `free` or `paid`")
        for spec in self.faults:
            parse_fault(spec)


def changed(settings: Settings, changes: object) -> Settings:
    """Return settings with what a JSON object changes; ValueError says what is wrong with it."""
    match changes:
        case dict():
            return replace(settings, **{name: _checked(name, value) for name, value in changes.items()})
    raise ValueError("settings are not a JSON object")


def _checked(name: str, value: object) -> Any:
    """Return a value in the type that its setting has."""
    if name not in CHANGEABLE:
        raise ValueError(f"`{name}` is no setting that can change: those are {', '.join(CHANGEABLE)}")
    match value:
        case list() if name == "faults" and all(isinstance(spec, str) for spec in value):
            return tuple(value)
        case None | int() if name in _LIMITS and not isinstance(value, bool):
            return value
        case int() | float() if name in _PACE and not isinstance(value, bool):
            return value
    wanted = "a list of texts" if name == "faults" else "an integer" if name in _LIMITS else "a number"
    raise ValueError(f"`{name}` is {value!r}, not {wanted}")
