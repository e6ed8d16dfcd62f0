"""Pydantic model → the JSON schema that the API accepts; an answer's text → a valid model, or a Failure."""

import json
import re
import traceback
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from pipeline.errors import JobError
from pipeline.flow import Failure, FailureKind
from pipeline.shape import DECIMAL_PLACES, shape_of

LONGEST_MESSAGE = 300
SHOWN_PROBLEMS = 4

# What the API's grammar ignores, or refuses as having `too many states`, goes into the description, where
# the model reads it; Pydantic checks it when the answer is there.
NOTES = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "decimalPlaces": "at most {} decimal places",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matching the pattern {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}
# format: (a word that says it, what to say where the description lacks the word)
FORMATS = {
    "decimal": ("decimal", "decimal number as text"),
    "date": ("iso 8601", "ISO 8601 date"),
    "date-time": ("iso 8601", "ISO 8601 date and time"),
    "time": ("iso 8601", "ISO 8601 time"),
    "duration": ("iso 8601", "ISO 8601 duration"),
    "uuid": ("uuid", "UUID"),
    "uri": ("url", "URL"),
    "email": ("e-mail", "e-mail address"),
    "path": ("path", "file path"),
}
SIMPLE = {"type", "description"}
# They would end a line, steer a terminal, or have no UTF-8 form.
UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def json_schema(model: type[BaseModel]) -> dict[str, object]:
    """Return the JSON schema to send for `model`: no `$ref`, and only keywords that the API documents.

    Keys stand in field order. Fields with a default stay optional. Bounds, patterns and formats become
    words of the description. A Decimal is asked for as text, since number literals can loop. Raises
    JobError for a model that the API or a table cannot take; compile once per run.
    """
    shape_of(model)
    try:
        schema = model.model_json_schema(schema_generator=_Generator)
    except (PydanticUserError, PydanticUndefinedAnnotation) as exc:
        raise JobError(
            f"the schema `{model.__name__}` has no JSON form: {one_line(str(exc))}",
            "use types that Pydantic can describe; for a validator that replaces a type, "
            "name its `json_schema_input_type`",
        ) from exc
    return _Cleaner(schema.get("$defs", {})).node(schema, "")


def validate(model: type[BaseModel], text: str) -> BaseModel | Failure:
    """Parse the text of an answer, with or without a code fence around it; never raises.

    A Failure is of kind `invalid`; its message is one line and never the whole text.
    """
    try:
        return model.model_validate_json(_unfenced(text))
    except ValidationError as exc:
        return Failure(FailureKind.INVALID, _problems(exc))
    except Exception as exc:  # noqa: BLE001 - validators are the user's code and may raise anything
        raised = traceback.format_exception_only(exc)[-1]
        return Failure(FailureKind.INVALID, one_line(f"a validator of `{model.__name__}` raised {raised}"))


def one_line(text: str) -> str:
    """Return `text` on one line of at most 300 characters that UTF-8 can write."""
    line = " ".join(UNWRITABLE.sub(" ", text).split())
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"


def _unfenced(text: str) -> str:
    stripped = text.strip()
    if not (stripped.startswith("```") and stripped.endswith("```")):
        return stripped
    inside = stripped[3:].removesuffix("```")
    return inside[4:] if inside[:4].lower() == "json" else inside


def _problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [f"{'.'.join(str(step) for step in one['loc']) or 'answer'}: {one['msg']}" for one in found]
    more = [f"and {len(lines) - SHOWN_PROBLEMS} more"] if len(lines) > SHOWN_PROBLEMS else []
    return one_line("; ".join([*lines[:SHOWN_PROBLEMS], *more]))


class _Generator(GenerateJsonSchema):
    """Pydantic's own, but a Decimal is text, and a default that JSON cannot write is no matter."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - as in the parent

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> dict[str, Any]:
        """Keep the bounds that Pydantic puts beside `number`."""
        number = super().decimal_schema(schema)
        bounds = number.get("anyOf", [number])[0]
        places = schema.get("decimal_places", DECIMAL_PLACES)
        return {**bounds, "type": "string", "format": "decimal", "decimalPlaces": places}


class _Cleaner:
    """Rewrites Pydantic's JSON schema with the API's keywords only."""

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions

    def node(self, raw: Mapping[str, Any], path: str) -> dict[str, object]:
        """Return the clean form of one sub-schema; `path` names it in an error."""
        raw = self._inlined(raw)
        choices = _choices(raw)
        if choices:
            return self._choice(raw, [self._inlined(choice) for choice in choices], path)
        values = _values(raw)
        if None in values and len(values) > 1:
            return _or_null(
                self.node({**raw, "enum": [value for value in values if value is not None]}, path)
            )
        clean = {
            "type": raw.get("type") or _type_of(values),
            "description": _description(raw),
            "enum": [value for value in values if not isinstance(value, bool)],  # documented: texts, numbers
        }
        if not clean["type"]:
            raise JobError(
                f"the schema's field `{path}` has no JSON type",
                "where a validator replaces the type, name what the model shall answer as its "
                "`json_schema_input_type`",
            )
        return {
            key: value
            for key, value in {**clean, **self._inside(raw, path)}.items()
            if value or value is False
        }

    def _inlined(self, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in raw:
            siblings = {key: value for key, value in raw.items() if key != "$ref"}
            raw = {**self._definitions[raw["$ref"].removeprefix("#/$defs/")], **siblings}
        return raw

    def _choice(
        self, raw: Mapping[str, Any], choices: list[Mapping[str, Any]], path: str
    ) -> dict[str, object]:
        """Allow one shape and null; integers beside floats are numbers."""
        around = {key: value for key, value in raw.items() if key not in {"anyOf", "oneOf"}}
        if isinstance(raw.get("type"), list):
            del around["type"]
        present = [choice for choice in choices if choice.get("type") != "null"]
        number = {"type": "number"} if len(present) > 1 else {}
        if number and any(choice.get("type") not in {"integer", "number"} for choice in present):
            raise JobError(
                f"the schema's field `{path}` may be one of several types",
                "keep one type and `None`, or write one model with a field for each case",
            )
        merged: dict[str, Any] = {}
        for choice in present:
            merged |= choice
        clean = self.node({**merged, **around, **number}, path)
        return clean if len(present) == len(choices) else _or_null(clean)

    def _inside(self, raw: Mapping[str, Any], path: str) -> dict[str, object]:
        inside: dict[str, object] = {}
        if raw.get("type") == "array":
            inside["items"] = self.node(raw.get("items") or raw.get("prefixItems", [{}])[0], f"{path}[]")
        if "properties" in raw:
            dot = f"{path}." if path else ""
            inside["properties"] = {
                name: self.node(field, dot + name) for name, field in raw["properties"].items()
            }
            inside["required"] = raw.get("required", [])
        # a dict whose keys must match a pattern names its values behind that pattern
        others = next(iter(raw.get("patternProperties", {}).values()), raw.get("additionalProperties"))
        if others is False:  # extra="forbid"
            inside["additionalProperties"] = False
        elif isinstance(others, dict):
            inside["additionalProperties"] = self.node(others, f"{path}.*")
        return inside


def _choices(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if isinstance(raw.get("type"), list):  # from the user's own hand
        return [{"type": name} for name in raw["type"]]
    return list(raw.get("anyOf") or raw.get("oneOf") or [])


def _values(raw: Mapping[str, Any]) -> list[Any]:
    return [raw["const"]] if "const" in raw else list(raw.get("enum", []))


def _type_of(values: list[Any]) -> str:
    names = {str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(values[0]), "") if values else ""


def _or_null(schema: dict[str, object]) -> dict[str, object]:
    if "anyOf" in schema or isinstance(schema["type"], list):
        return schema  # which nothing but null makes so
    if schema.keys() <= SIMPLE:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _description(raw: Mapping[str, Any]) -> str:
    said = str(raw.get("description", ""))
    word, note = FORMATS.get(raw.get("format", ""), ("", ""))
    notes = [note] if note and word not in said.lower() else []
    notes += [text.format(_literal(raw[key])) for key, text in NOTES.items() if key in raw]
    notes += ["each only once"] if raw.get("uniqueItems") else []
    flags = [value for value in _values(raw) if isinstance(value, bool)]
    notes += [f"always {_literal(flags[0])}"] if len(flags) == 1 else []
    added = "; ".join(notes)
    return f"{said} ({added})" if said and added else said or added


def _literal(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
