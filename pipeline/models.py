"""What is known of each model: ids, dates, thinking, prices and limits, each with its source and date.

The facts stand in `models.toml` beside this file and are read once; the API is never asked.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter

from pipeline.errors import JobError

MARGIN = 0.004  # requests may arrive closer together than they left: by 0.24 s in a minute
RATE_LIMIT_PAGE = "https://aistudio.google.com/rate-limit"
_FORBID = ConfigDict(extra="forbid")
_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens; `cached` is input served from a cache, `output` includes thoughts.

    Audio costs as much as text where it has no price of its own. `storage` is USD for a million tokens in an
    explicit cache for an hour, None where it is not known.
    """

    input: float
    output: float
    cached: float
    audio: float | None = None
    cached_audio: float | None = None
    storage: float | None = None


@dataclass(frozen=True, slots=True)
class PricePeriod:
    """A price and the days on which it holds, both ends included; `None` is open.

    `batch`, `flex` and `priority` are factors on input and output. Discounts do not stack, so cached
    input keeps its price. Without `cached` it costs as much as any other input.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    input: float
    output: float
    cached: float | None = None
    since: date | None = None
    until: date | None = None
    batch: float = 0.5
    flex: float = 0.5
    priority: float | None = None
    input_audio: float | None = None
    cached_audio: float | None = None
    storage: float | None = None
    source: str = "the job file"
    as_of: date | None = None

    def covers(self, on: date) -> bool:
        """Whether the price holds on that day."""
        return (self.since is None or self.since <= on) and (self.until is None or on <= self.until)

    def at(self, service: str) -> Price | None:
        """Return the price in a service tier, or None where it is not known.

        `service` is spelled as the API does, `standard` or `SERVICE_TIER_STANDARD`; empty is standard.
        """
        plain = service.lower().removeprefix("service_tier_")
        factors = {"": 1.0, "unspecified": 1.0, "standard": 1.0}
        factors |= {"batch": self.batch, "flex": self.flex, "priority": self.priority or 0.0}
        factor = factors.get(plain)
        if not factor:
            return None
        return Price(
            input=round(self.input * factor, 9),
            output=round(self.output * factor, 9),
            cached=self.input if self.cached is None else self.cached,
            audio=None if self.input_audio is None else round(self.input_audio * factor, 9),
            cached_audio=self.cached_audio,
            storage=self.storage,
        )


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a model is told to think: by a level's name or by a budget of tokens (0 is off)."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    parameter: Literal["level", "budget"]
    levels: Mapping[str, str | int]
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests per minute, input tokens per minute and requests per day of one model; None is not known.

    `spend_10min_usd` is the tier's spend limit in any ten minutes, `batch_tokens` what it may have
    enqueued in the Batch API (0: not offered).
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    rpm: int | None = None
    tpm: int | None = None
    rpd: int | None = None
    batch_tokens: int | None = None
    spend_10min_usd: float | None = None
    source: str = "the job file"
    as_of: date | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """One model and what is known of it.

    `status` is `ga`, `closed` (old projects only), `listed` (seen in a price list), `shutdown` or
    `unlisted` (not in the table). `shutdown` is the day on which it stops; `shutdown_earliest`
    is only the first day on which it may. `sampling` tells whether `temperature` has an effect,
    `cache_tokens` is the least that an explicit cache takes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    status: Literal["ga", "closed", "listed", "shutdown", "unlisted"]
    source: str
    as_of: date | None
    id: str = ""
    released: date | None = None
    shutdown: date | None = None
    shutdown_earliest: date | None = None
    successor: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_tokens: int | None = None
    sampling: Literal["honoured", "ignored"] = "ignored"
    thinking: Thinking | None = None
    prices: tuple[PricePeriod, ...] = ()
    limits: Mapping[str, Limits] = field(default_factory=dict)

    def price(self, on: date, service: str) -> Price | None:
        """Return the price on that day in a service tier, or None where it is not known."""
        return next((period.at(service) for period in self.prices if period.covers(on)), None)


@dataclass(frozen=True, slots=True)
class Settings:
    """Generation parameters as the API takes them; None and empty are not sent.

    At most one of the two for thinking is set (both are refused); `safety` pairs categories with thresholds.
    """

    model: str
    seed: int
    max_output_tokens: int | None = None
    temperature: float | None = None
    thinking_level: str | None = None
    thinking_budget: int | None = None
    safety: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Table:
    __pydantic_config__: ClassVar[ConfigDict] = _FORBID

    vertex: Limits
    aliases: Mapping[str, str]
    tiers: Mapping[str, Limits]
    models: Mapping[str, Model]


@cache
def _table() -> _Table:
    text = resources.files("pipeline").joinpath("models.toml").read_text(encoding="utf-8")
    table = TypeAdapter(_Table).validate_python(tomllib.loads(text))
    return replace(table, models={name: replace(model, id=name) for name, model in table.models.items()})


def known_models() -> tuple[Model, ...]:
    """Return every model of the table, the Flash-Lite line first."""
    return tuple(_table().models.values())


def aliases() -> Mapping[str, str]:
    """Return the friendly names and the one id that each stands for."""
    return _table().aliases


def canonical_id(name: str) -> str:
    """Return the id that a job's model name stands for: no `models/` before it, aliases resolved."""
    plain = name.removeprefix("models/")
    return _table().aliases.get(plain, plain)


def find_model(name: str, today: date, *, price: PricePeriod | None = None) -> Model:
    """Return the model of that id or alias; `price` replaces the known one.

    Raises JobError for an id that is retired today, for Google's moving `-latest` names, and, unless
    `price` is given, for an id that is not in the table or has no price there.
    """
    plain = canonical_id(name)
    if plain.endswith("-latest"):
        raise _moving(plain)
    model = _table().models.get(plain) or _unlisted(plain)
    if model.shutdown is not None and model.shutdown <= today:
        raise _retired(model)
    if price is not None:
        return replace(model, prices=(price,))
    if model.status == "unlisted":
        raise _unknown(plain)
    if not model.prices:
        raise JobError(f"no price is known for model `{plain}`", _PRICE_HINT)
    return model


def price_of(served_model: str, on: date, tier: str) -> Price | None:
    """Return what the model that answered costs on that day in the service tier that it answered in.

    `served_model` and `tier` are taken as the API reports them (`models/` before the id, a version such
    as `-001` behind it, `standard`, `batch`, empty). None where no price is known.
    """
    model = _served(served_model)
    return None if model is None else model.price(on, tier)


def is_same_model(served_model: str, name: str) -> bool:
    """Whether the model that answered is the one asked for, or one that the table does not know."""
    model = _served(served_model)
    return model is None or model.id == canonical_id(name)


def known_limits(tier: str, model: Model) -> Limits:
    """Return what is known of a model in usage tier `free`, `1`, `2` or `3`; each number may be None."""
    own = model.limits.get(tier, Limits(source="not published"))
    shared = _table().tiers[tier]
    return replace(own, batch_tokens=shared.batch_tokens, spend_10min_usd=shared.spend_10min_usd)


def tier_limits(tier: str, model: Model) -> Limits:
    """Return the limits of a model in a usage tier; raises JobError where none is known."""
    limits = known_limits(tier, model)
    if (limits.rpm, limits.tpm, limits.rpd) == (None, None, None):
        raise JobError(
            f"the limits of model `{model.id}` in tier `{tier}` are not known",
            f"copy rpm, tpm and rpd from {RATE_LIMIT_PAGE} into [limits], or give `--rpm`, `--tpm` and "
            "`--rpd`",
        )
    return limits


def vertex_limits() -> Limits:
    """Return what holds on Vertex AI for every model and region; tokens are bounded by no fixed number."""
    return _table().vertex


def settings_for(
    model: Model,
    *,
    seed: int,
    thinking: str | None,
    max_output_tokens: int | None,
    temperature: float | None,
    safety: Mapping[str, str],
) -> Settings:
    """Return generation parameters as the API spells them; raises JobError for what it does not take."""
    if temperature is not None and model.sampling == "ignored":
        raise JobError(
            f"model `{model.id}` ignores `temperature`",
            "leave `model.temperature` out; `model.seed` is what makes answers repeatable",
        )
    most = model.output_tokens
    if most is not None and max_output_tokens is not None and max_output_tokens > most:
        raise JobError(
            f"`model.max_output_tokens` is {max_output_tokens}, more than `{model.id}` can write",
            f"set it to {most} or less, or leave it out",
        )
    value = None if thinking is None else _thinking(model, thinking)
    return Settings(
        model=model.id,
        seed=seed,
        max_output_tokens=max_output_tokens,
        temperature=temperature,
        thinking_level=value if isinstance(value, str) else None,
        thinking_budget=value if isinstance(value, int) else None,
        safety=tuple((f"HARM_CATEGORY_{name}".upper(), safety[name].upper()) for name in sorted(safety)),
    )


def _thinking(model: Model, level: str) -> str | int:
    levels = model.thinking.levels if model.thinking else {}
    if level not in levels:
        known = ", ".join(f"`{name}`" for name in levels)
        raise JobError(
            f"model `{model.id}` has no thinking level `{level}` that is known",
            f"use one of {known}, or leave `model.thinking` out" if known else "leave `model.thinking` out",
        )
    return levels[level]


_PRICE_HINT = "give its price: `price = { input = 0.25, output = 1.5 }` in [model], USD per million tokens"


def _served(reported: str) -> Model | None:
    plain = canonical_id(reported).split("@")[0]
    models = _table().models
    return models.get(plain) or models.get(re.sub(r"-\d{3}$", "", plain))


def _unlisted(plain: str) -> Model:
    # Nothing is known, so everything a job asks for is passed on and the API judges it.
    return Model("unlisted", "", None, id=plain, sampling="honoured", thinking=Thinking("level", _LEVELS))


def _unknown(plain: str) -> JobError:
    usable = [model.id for model in known_models() if model.prices]
    near = get_close_matches(plain.lower(), [*usable, *aliases()], n=1)
    mean = f"did you mean `{near[0]}`? " if near else ""
    known = ", ".join(f"`{name}`" for name in usable)
    return JobError(f"model `{plain}` is not known", f"{mean}known: {known}; for another one {_PRICE_HINT}")


def _retired(model: Model) -> JobError:
    instead = model.successor or canonical_id("flash-lite")
    hint = f"use its successor `{instead}`" if model.successor else f"use `{instead}`"
    return JobError(f"model `{model.id}` was shut down on {model.shutdown}", hint)


def _moving(plain: str) -> JobError:
    instead = canonical_id("flash-lite")
    return JobError(
        f"model `{plain}` is an alias that Google moves from model to model",
        f"name one model, for example `{instead}`: the answers of a run must come from the same one",
    )
