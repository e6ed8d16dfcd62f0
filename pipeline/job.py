"""The job file: what to ask, of which rows, with which model and limits, and where the answers go.

Only what changes the answers is a job's identity; limits, time limits, paths and prices are not.
"""

import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline import models
from pipeline.errors import JobError
from pipeline.schema_file import load_schema, nearest, nearest_file, one_line
from pipeline.sections import Job, LimitsSection, ModelSection, Section


@dataclass(frozen=True, slots=True)
class LoadedJob:
    """A job, its file, its project (the folder that its relative paths start from) and its schema class.

    `given` is the file's path as it was named, `replaced` what flags have replaced, as table and key.
    """

    job: Job
    path: Path
    project: Path
    schema: type[BaseModel]
    given: Path
    replaced: frozenset[tuple[str, str]]


def load_job(path: Path, overrides: Mapping[str, object] | None = None) -> LoadedJob:
    """Read, merge and validate a job file and load its schema.

    `overrides` replaces keys section by section; None leaves a key as the file has it. Raises JobError.
    """
    merged = _merge(_read(path), overrides or {})
    try:
        job = Job.model_validate(merged)
    except ValidationError as exc:
        raise _explain(exc.errors(), path, overrides or {}) from exc
    full = Path(os.path.abspath(path))
    project = project_of(full)
    schema = load_schema(project, job.schema_path)
    return LoadedJob(job, full, project, schema, path, frozenset(_replaced(overrides or {})))


def _replaced(overrides: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for table, keys in overrides.items():
        if isinstance(keys, Mapping):
            yield from ((table, str(key)) for key, value in keys.items() if value is not None)


def place_of(loaded: LoadedJob, table: str, key: str) -> str:
    """Name what has set a key that a flag may replace: the flag, or the key in its table of the job file."""
    if (table, key) in loaded.replaced:
        return f"`{_FLAGS[f'{table}.{key}']}`"
    return f"`{key}` under [{table}] in `{loaded.given}`"


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
        said = f"job file `{path}` cannot be read: {(exc.strerror or str(exc)).lower()}"
        raise JobError(said, "check the path and the right to read it") from exc
    except UnicodeDecodeError as exc:
        raise JobError(f"job file `{path}` is not UTF-8 text", "save it with the encoding UTF-8") from exc
    except tomllib.TOMLDecodeError as exc:
        cause = one_line(exc)
        raise JobError(
            f"job file `{path}` is not TOML: {cause[0].lower()}{cause[1:]}", "correct that line"
        ) from exc


def _nearby_jobs(path: Path) -> str:
    names = [file.name for file in path.parent.glob("*.toml")]
    return nearest_file(path, names) or "name a TOML file, for example `jobs/sentiment.toml`"


def _merge(table: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for key, value in given.items():
        if isinstance(value, Mapping):
            old = merged.get(key, {})  # what is no table stays, for the validation to name it
            merged[key] = _merge(old, value) if isinstance(old, dict) else old
        elif value is not None:
            merged[key] = value
    return merged


def _explain(errors: list[ErrorDetails], path: Path, given: Mapping[str, object]) -> JobError:
    # A mistyped key also makes the right one missing: tell the cause.
    error = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
    loc = error["loc"]
    dotted = ".".join(str(part) for part in loc)
    if error["type"] == "extra_forbidden":
        known = _keys(loc[:-1])
        hint = nearest(str(loc[-1]), known) or _elsewhere(str(loc[-1]))
        hint = hint or "known keys: " + ", ".join(f"`{key}`" for key in known)
        return JobError(f"unknown key `{loc[-1]}` in {_table_name(loc[:-1], path)}", hint)
    if error["type"] == "missing":
        return JobError(f"`{dotted}` is missing", f"add `{loc[-1]}` to {_table_name(loc[:-1], path)}")
    value = one_line(json.dumps(error["input"], default=str, ensure_ascii=False))
    shown = value if len(value) <= 60 else value[:59] + "…"
    wanted = _PATTERNS[dotted] if error["type"] == "string_pattern_mismatch" else _wanted(error)
    if dotted == "batch" and isinstance(error["input"], bool):
        return JobError(f"`batch` must be a table, not `{shown}`", BATCH_MODE)
    if (flag := _FLAGS.get(dotted)) is not None and _is_given(given, loc):
        return JobError(f"`{flag}` must be {wanted}, not `{shown}`", f"correct `{flag}`")
    return JobError(f"`{dotted}` must be {wanted}, not `{shown}`", f"correct `{dotted}` in `{path}`")


def _is_given(given: object, loc: tuple[int | str, ...]) -> bool:
    """Tell whether a flag has replaced what the job file says, so that it is the flag that is wrong."""
    for part in loc:
        given = given.get(str(part)) if isinstance(given, Mapping) else None
    return given is not None


def _elsewhere(key: str) -> str:
    """Return a hint where a key belongs into another table, or above all of them."""
    top = _keys(())
    if key in top:
        table = f"is a table of its own, [{key}]" if _keys((key,)) else TOP
        return f"`{key}` {table}"
    tables = [f"[{name}]" for name in top if key in _keys((name,))]
    return f"`{key}` belongs into {' or '.join(tables)}" if tables else ""


TOP = "stands at the top, before the first [table]"
BATCH_MODE = '`mode = "batch"`, above all tables, asks by batches; the table [batch] says how'
_FLAGS = {
    "input.path": "--input",
    "output.path": "--output",
    "model.id": "--model",
    "packing.rows": "--pack",
    "limits.max_cost": "--max-cost",
}  # those whose values the command line does not check itself
_WANTED = {
    "bool_type": "`true` or `false`",
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
        fields = {field.alias or name: field for name, field in section.model_fields.items()}
        hint = fields[str(part)].annotation
        kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type)]
        tables = [kind for kind in kinds if issubclass(kind, Section)]
        if not tables:  # a key that is no table
            return []
        section = tables[0]
    return [field.alias or name for name, field in section.model_fields.items()]
