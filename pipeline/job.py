"""The job file: what to ask, of which rows, with which model and limits, and where the answers go.

Only what changes the answers is a job's identity; limits, time limits, paths and prices are not.
"""

import codecs
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from pipeline import models
from pipeline.errors import JobError
from pipeline.schema_file import load_schema, nearest, one_line

MOST_ROWS = 200  # of one request

Format = Literal["csv", "tsv", "parquet", "ndjson", "ipc"]
Level = Literal["minimal", "low", "medium", "high"]
Threshold = Literal["off", "block_none", "block_only_high", "block_medium_and_above", "block_low_and_above"]
Tier = Literal["free", "1", "2", "3"]
ServiceTier = Literal["flex", "standard", "priority"]
Mode = Literal["online", "batch"]
Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]

TIMEOUT = 120.0
FLEX_TIMEOUT = 900.0  # the optimisation page names 1 to 15 minutes as the target of the flex tier


class Section(BaseModel):
    """A table of the job file: unknown keys are refused, and so are values of the wrong type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _known_encoding(name: str) -> str:
    try:
        codecs.getincrementaldecoder(name)
        b"a".decode(name)
    except UnicodeError:  # what one byte does not make a text of
        return name
    except (LookupError, ValueError) as exc:
        raise PydanticCustomError("encoding", "an encoding of text such as `cp1252` or `utf-16`") from exc
    return name


class InputSection(Section):
    """`[input]`: a file, a glob or a folder; `key` names the columns that identify a row.

    `encoding` is a codec of Python for text files that are not UTF-8.
    """

    path: Text
    key: tuple[Text, ...] = Field(default=(), strict=False)  # TOML knows lists only
    format: Format | None = None
    encoding: Annotated[str, AfterValidator(_known_encoding)] | None = None
    encoding_errors: Literal["strict", "replace"] = "strict"


class PromptSection(Section):
    """`[prompt]`: the system instruction and the template that is rendered for each row."""

    system: str = ""
    row: Text


class SafetySection(Section):
    """`[model] safety`: the threshold of each category; what is not named is not sent."""

    harassment: Threshold | None = None
    hate_speech: Threshold | None = None
    sexually_explicit: Threshold | None = None
    dangerous_content: Threshold | None = None


class PriceSection(Section):
    """`[model] price`: USD per million tokens; cached input costs as much as any other where it is absent.

    `storage` is of a million tokens in a cache for an hour, `priority` a factor on input and output.
    """

    input: Money
    output: Money
    cached: Money | None = None
    storage: Money | None = None
    priority: Money | None = None

    def period(self) -> models.PricePeriod:
        """Return it as a price that always holds."""
        return models.PricePeriod(
            self.input, self.output, self.cached, storage=self.storage, priority=self.priority
        )


class ModelSection(Section):
    """`[model]`: the model, its generation parameters and how it is served, which is no identity.

    `timeout` is seconds for one request, `context_cache` whether a long instruction is cached where it pays.
    """

    id: Text
    thinking: Level | None = None
    max_output_tokens: Count | None = None
    seed: int = Field(default=0, ge=-(2**31), lt=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    service_tier: ServiceTier = "standard"
    context_cache: Literal["auto", "off"] = "auto"
    safety: SafetySection = SafetySection()
    price: PriceSection | None = None

    @property
    def deadline(self) -> float:
        """Seconds for one request: `timeout`, or what the service tier needs."""
        return self.timeout or (FLEX_TIMEOUT if self.service_tier == "flex" else TIMEOUT)


class LimitsSection(Section):
    """`[limits]`: the usage tier, and numbers that replace those of the tier; `concurrency` is a cap.

    `spend_10min_usd` is USD in any ten minutes, `margin` the share by which all windows are counted longer,
    `project` a name for what shares these limits, where several keys do, `max_cost` the USD of one run.
    """

    tier: Annotated[Tier, BeforeValidator(lambda tier: str(tier) if type(tier) is int else tier)] = "free"
    rpm: Count | None = None
    tpm: Count | None = None
    rpd: Count | None = None
    concurrency: Count | None = None
    spend_10min_usd: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    margin: float = Field(default=models.MARGIN, ge=0, le=0.5, allow_inf_nan=False)
    project: Text | None = None
    max_cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @property
    def free(self) -> bool:
        """Whether the run is on the free tier, where tokens cost nothing."""
        return self.tier == "free"


def _pack_rows(rows: object) -> object:
    if rows == "auto" or (type(rows) is int and 1 <= rows <= MOST_ROWS):
        return rows
    raise PydanticCustomError("rows", "a whole number from 1 to {most}, or `auto`", {"most": MOST_ROWS})


class PackingSection(Section):
    """`[packing]`: how many rows share a request at most, and how many tokens of prompts and of answers.

    `rows` is `auto` for what `rowmill calibrate` has found, which only a plan knows.
    """

    rows: Annotated[int | Literal["auto"], PlainValidator(_pack_rows)] = 1
    prompt_tokens: Count = 8_000
    output_tokens: Count = 8_000


class CacheSection(Section):
    """`[cache]`: whether answers are shared by all jobs of the project, and how many MB they may take."""

    enabled: bool = True
    max_mb: Count = 1_024


def _duration(text: str) -> str:
    found = re.fullmatch(r"(\d{1,4})([smhd])", text)
    if found is None or not int(found[1]):
        raise PydanticCustomError(
            "duration", "a number of minutes, hours or days such as `90m`, `6h` or `2d`"
        )
    return text


class BatchSection(Section):
    """`[batch]`: how many requests a job of the Batch API holds at most, and how old it may get.

    What a job older than `spill` has not answered is asked one by one.
    """

    requests: int = Field(default=5_000, ge=1, le=100_000)
    spill: Annotated[str, AfterValidator(_duration)] = "24h"

    @property
    def spill_seconds(self) -> float:
        """The age in seconds."""
        return float(self.spill[:-1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[self.spill[-1]]


class OutputSection(Section):
    """`[output]`: the file of answers, its format by its ending; `prefix` begins the names of its columns.

    `escape_formulas` lets no cell of a CSV be run by a spreadsheet.
    """

    path: str = Field(pattern=r"(?i)[^/\\]\.(parquet|csv|ndjson|jsonl)$")
    prefix: str = ""
    escape_formulas: bool = False


class Job(Section):
    """A whole job file. `name` becomes a folder's name; `schema_path` is key `schema`: `file.py:Class`.

    `gold` names the column of the input that holds the right value of a field, for `rowmill calibrate`.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    schema_path: str = Field(alias="schema", pattern=r"^.+\.py:[^\W\d]\w*$")
    input: InputSection
    prompt: PromptSection
    model: ModelSection
    limits: LimitsSection = LimitsSection()
    packing: PackingSection = PackingSection()
    cache: CacheSection = CacheSection()
    gold: Mapping[str, Text] = {}
    mode: Mode = "online"
    batch: BatchSection = BatchSection()
    output: OutputSection


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A job, its file, its project (the folder that its relative paths start from) and its schema class."""

    job: Job
    path: Path
    project: Path
    schema: type[BaseModel]


def load_job(path: Path, overrides: Mapping[str, object] | None = None) -> LoadedJob:
    """Read, merge and validate a job file and load its schema.

    `overrides` replaces keys section by section; None leaves a key as the file has it. Raises JobError.
    """
    merged = _merge(_read(path), overrides or {})
    try:
        job = Job.model_validate(merged)
    except ValidationError as exc:
        raise _explain(exc.errors(), path) from exc
    full = Path(os.path.abspath(path))
    project = project_of(full)
    return LoadedJob(job, full, project, load_schema(project, job.schema_path))


def project_of(path: Path) -> Path:
    """Return the project of a job file, the folder that its relative paths start from."""
    return path.parent.parent if path.parent.name == "jobs" else path.parent


def resolve(project: Path, path: str) -> Path:
    """Return a path of a job file as an absolute one; a relative path starts from the project."""
    return project / os.path.expanduser(path)


def identity(loaded: LoadedJob, json_schema: Mapping[str, object], endpoint: str) -> dict[str, object]:
    """Return everything that changes the answers, as JSON values; aliases of a model count as the model."""
    prompt, model = loaded.job.prompt, loaded.job.model
    return {
        "system": prompt.system,
        "row": prompt.row,
        "json_schema": json.dumps(json_schema, ensure_ascii=False),  # as text: the order of fields counts
        "model": models.canonical_id(model.id),
        "thinking": model.thinking,
        "max_output_tokens": model.max_output_tokens,
        "seed": model.seed,
        "temperature": model.temperature,
        "safety": model.safety.model_dump(exclude_none=True),
        "endpoint": endpoint,
    }


def asked(identity: Mapping[str, object], settings: models.Settings) -> dict[str, object]:
    """Return everything that changes the answer to a text, as JSON values: what all requests of a job share.

    That is the identity without the row's template, since a rendered text says all of it, and with the
    settings as they are sent, since a later version may spell a thinking level in another way.
    """
    sent = {"thinking_level": settings.thinking_level, "thinking_budget": settings.thinking_budget}
    return {name: value for name, value in identity.items() if name != "row"} | sent


def job_model(section: ModelSection, today: date) -> models.Model:
    """Return the model that `[model]` names, at the price that it gives; raises as `find_model` does."""
    return models.find_model(section.id, today, price=section.price.period() if section.price else None)


def job_price(section: ModelSection, served_model: str, on: date, tier: str) -> models.Price | None:
    """Return what an answer costs: at the job's own price, unless another known model has served it."""
    if section.price is not None and models.is_same_model(served_model, section.id):
        return section.price.period().at(tier)
    return models.price_of(served_model, on, tier)


_NUMBERS = ("rpm", "tpm", "rpd", "spend_10min_usd")


def job_limits(section: LimitsSection, model: models.Model, *, vertex: bool = False) -> models.Limits:
    """Return the limits of the run: those of the tier, replaced by what `[limits]` gives.

    On Vertex AI there are no tiers. Raises JobError where the tier's numbers are not known and `rpm` and
    `tpm` are not both given.
    """
    given = {name: value for name in _NUMBERS if (value := getattr(section, name)) is not None}
    if vertex:
        return replace(models.vertex_limits(), **given)
    enough = {"rpm", "tpm"} <= given.keys()
    limits = models.known_limits(section.tier, model) if enough else models.tier_limits(section.tier, model)
    return replace(limits, **given)


def model_settings(section: ModelSection, model: models.Model) -> models.Settings:
    """Return the generation parameters of `[model]`; raises JobError for what the model ignores."""
    return models.settings_for(
        model,
        seed=section.seed,
        thinking=section.thinking,
        max_output_tokens=section.max_output_tokens,
        temperature=section.temperature,
        safety=section.safety.model_dump(exclude_none=True),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as exc:
        raise JobError(f"job file `{path}` does not exist", _nearby_jobs(path)) from exc
    except OSError as exc:
        raise JobError(f"job file `{path}` cannot be read: {exc.strerror}", "name a readable file") from exc
    except UnicodeDecodeError as exc:
        raise JobError(f"job file `{path}` is not UTF-8 text", "save it with the encoding UTF-8") from exc
    except tomllib.TOMLDecodeError as exc:
        cause = one_line(exc)
        raise JobError(
            f"job file `{path}` is not TOML: {cause[0].lower()}{cause[1:]}", "correct that line"
        ) from exc


def _nearby_jobs(path: Path) -> str:
    names = [file.name for file in path.parent.glob("*.toml")]
    return nearest(path.name, names) or "name a TOML file, for example `jobs/sentiment.toml`"


def _merge(table: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for key, value in given.items():
        if isinstance(value, Mapping):
            old = merged.get(key, {})  # what is no table stays, for the validation to name it
            merged[key] = _merge(old, value) if isinstance(old, dict) else old
        elif value is not None:
            merged[key] = value
    return merged


def _explain(errors: list[ErrorDetails], path: Path) -> JobError:
    # A mistyped key also makes the right one missing: tell the cause.
    error = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    loc = error["loc"]
    dotted = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        known = _keys(loc[:-1])
        hint = nearest(str(loc[-1]), known) or "known keys: " + ", ".join(f"`{key}`" for key in known)
        return JobError(f"unknown key `{loc[-1]}` in {_table_name(loc[:-1], path)}", hint)
    if error["type"] == "missing":
        return JobError(f"`{dotted}` is missing", f"add `{loc[-1]}` to {_table_name(loc[:-1], path)}")
    value = one_line(json.dumps(error["input"], default=str, ensure_ascii=False))
    shown = value if len(value) <= 60 else value[:59] + "…"
    wanted = _PATTERNS[dotted] if error["type"] == "string_pattern_mismatch" else _wanted(error)
    return JobError(f"`{dotted}` must be {wanted}, not `{shown}`", f"correct `{dotted}` in `{path}`")


_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "tuple_type": "a list",
    "model_type": "a table",
    "dict_type": "a table",
    "mapping_type": "a table",
    "greater_than": "more than {gt:.15g}",
    "greater_than_equal": "at least {ge:.15g}",
    "less_than": "less than {lt:.15g}",
    "less_than_equal": "at most {le:.15g}",
    "literal_error": "{expected}",
}
_PATTERNS = {
    "name": "1 to 64 letters, digits, `-` or `_`, the first a letter or digit",
    "schema": "a file and a class, as in `schemas/sentiment.py:Sentiment`",
    "output.path": "a path that ends in `.parquet`, `.csv`, `.ndjson` or `.jsonl`",
}


def _wanted(error: ErrorDetails) -> str:
    words = _WANTED.get(error["type"])
    return error["msg"] if words is None else words.format(**error.get("ctx", {})).replace("'", "`")


def _table_name(loc: tuple[int | str, ...], path: Path) -> str:
    return f"[{'.'.join(str(part) for part in loc)}]" if loc else f"`{path}`"


def _keys(loc: Iterable[int | str]) -> list[str]:
    section: type[BaseModel] = Job
    for part in loc:
        hint = section.model_fields[str(part)].annotation
        section = next(
            kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and issubclass(kind, Section)
        )
    return [field.alias or name for name, field in section.model_fields.items()]
