"""What an emulator is told at its start, and what of it can change while it runs."""

from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

from pipeline.emulator.faults import parse_fault

Tier = Literal["free", "paid"]

LIVE_MODELS = ("gemini-3.1-flash-lite", "gemini-3.5-flash-lite", "gemini-2.5-flash-lite")
"""Flash-Lite ids that the API served in November 2026."""

_LIMITS = ("rpm", "tpm", "rpd", "capacity", "batch_jobs", "batch_tokens", "storage", "implicit_cache")
_PACE = ("latency", "jitter", "batch_wait", "batch_work", "batch_expiry", "batch_lag")
_SWITCHES = ("cancel_keeps",)
CHANGEABLE = (*_PACE, "faults", *_LIMITS, *_SWITCHES)
"""What `changed` takes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Models, quotas, pace and scripted faults of one emulator; ValueError for what makes no sense.

    A quota of None is no limit; `capacity` bounds how many requests may be in flight. `tier` chooses the
    names that quotas have in 429 bodies. `latency` is in seconds; `jitter` adds up to that many seconds
    more, the same for the same prompt. `faults` are specs as `pipeline.emulator.faults` reads them; the
    first that applies to a request wins, and `seed` draws which requests a share is.

    A batch is pending for `batch_wait` seconds and runs for at least `batch_work`; where it is not done
    after `batch_expiry` it has expired; the list has it after `batch_lag`. `batch_jobs` bounds the
    unfinished jobs, `batch_tokens` their input tokens for each model; `storage` is in bytes of files. A
    cancelled job keeps what was answered where `cancel_keeps`. From `implicit_cache` tokens on, the start
    of a prompt that another one had counts as cached. `log` names a file that `pipeline.emulator.log`
    describes.
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
    seed: int = 0
    log: str | None = None
    batch_wait: float = 0.0
    batch_work: float = 0.0
    batch_expiry: float = 48 * 3600.0
    batch_lag: float = 0.0
    batch_jobs: int | None = 100
    batch_tokens: int | None = None
    storage: int | None = 20 * 2**30
    implicit_cache: int | None = None
    cancel_keeps: bool = True

    def __post_init__(self) -> None:
        for name in (*_LIMITS, *_PACE):
            value = getattr(self, name)
            if value is not None and not 0 <= value < inf:
                raise ValueError(f"`{name}` is {value}, not a number from 0")
        if self.tier not in ("free", "paid"):
            raise ValueError(f"`tier` is `{self.tier}`, not `free` or `paid`")
        for spec in self.faults:
            parse_fault(spec)


_WANTED = {"faults": "a list of texts"} | dict.fromkeys(_SWITCHES, "true or false")


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
        case bool() if name in _SWITCHES:
            return value
    wanted = _WANTED.get(name, "an integer" if name in _LIMITS else "a number")
    raise ValueError(f"`{name}` is {value!r}, not {wanted}")
