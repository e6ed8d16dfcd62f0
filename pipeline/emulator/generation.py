"""Reads `generationConfig`: checks it as the API does and compiles the schema, once per distinct value."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic_core import from_json, to_json

from pipeline.emulator.answers import compile_schema
from pipeline.emulator.bodies import INVALID, TOO_MANY_STATES, Answer, invalid
from pipeline.emulator.complexity import check_openapi, too_complex
from pipeline.emulator.nodes import Fill
from pipeline.emulator.wire import Refused, fields, known

_MOST_OUTPUT = 65_536
_CONFIG = known(
    "candidateCount stopSequences maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty"
    " responseLogprobs logprobs responseMimeType responseSchema responseJsonSchema responseFormat"
    " responseModalities thinkingConfig speechConfig mediaResolution imageConfig audioTimestamp"
    " enableEnhancedCivicAnswers"
) | {"_responseJsonSchema": "responseJsonSchema"}
_THINKING = known("thinkingBudget thinkingLevel includeThoughts")
_FORMAT = known("text")
_TEXT_FORMAT = known("mimeType schema")
_THOUGHTS = {"MINIMAL": 0, "LOW": 40, "MEDIUM": 160, "HIGH": 640}


@dataclass(frozen=True, slots=True)
class Generation:
    """How to answer: `fill` makes the JSON (None: plain text), `limit` caps output and thoughts together.

    Where `refusal` is set, the configuration is refused and the rest means nothing.
    """

    fill: Fill | None = None
    limit: int | None = None
    seed: int = 0
    thoughts: int = 0
    refusal: Answer | None = None


def read_generation(config: object, model: str) -> tuple[Generation, bytes]:
    """Return how to answer, and the configuration as bytes for digests."""
    raw = to_json(config)
    return _read(raw, model), raw


@lru_cache(maxsize=256)
def _read(raw: bytes, model: str) -> Generation:
    try:
        config = fields(from_json(raw), _CONFIG, "generation_config")
        _check_sampling(config, model)
        return Generation(
            fill=_fill(config),
            limit=_limit(config),
            seed=_integer(config, "seed") or 0,
            thoughts=_thoughts(config, model),
        )
    except Refused as refused:
        return Generation(refusal=refused.answer)


def _check_sampling(config: Mapping[str, Any], model: str) -> None:
    for name, most in (("temperature", 2.0), ("topP", 1.0)):
        value = config.get(name)
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= most):
            field = f"GenerateContentRequest.generation_config.{name}"
            raise Refused(invalid(f"* {field}: {name} must be in the range [0.0, {most}].\n"))
    if config.get("presencePenalty") or config.get("frequencyPenalty"):
        raise Refused(invalid(f"Penalty is not enabled for models/{model}"))


def _integer(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise Refused(invalid(f"Invalid value at 'generation_config.{name}' (TYPE_INT32), {value!r}"))
    return value


def _limit(config: Mapping[str, Any]) -> int | None:
    limit = _integer(config, "maxOutputTokens")
    if limit is not None and not 1 <= limit <= _MOST_OUTPUT:
        raise Refused(
            invalid(
                f"Unable to submit request because it has a maxOutputTokens value of {limit} but the"
                f" supported range is from 1 (inclusive) to {_MOST_OUTPUT + 1} (exclusive). Update the value"
                " and try again."
            )
        )
    return limit


def _thoughts(config: Mapping[str, Any], model: str) -> int:
    thinking = fields(config.get("thinkingConfig") or {}, _THINKING, "generation_config.thinking_config")
    level, budget = thinking.get("thinkingLevel"), _integer(thinking, "thinkingBudget")
    if level is not None and budget is not None:
        raise Refused(invalid("You can only set only one of thinking budget and thinking level."))
    if model.startswith("gemini-2"):
        if level is not None:
            raise Refused(invalid("Thinking level is not supported for this model."))
        return min(budget or 0, 512) if (budget or 0) > 0 else 0
    if budget == 0 and model.startswith("gemini-3.5"):
        raise Refused(invalid(INVALID))
    name = str(level or "MINIMAL").upper()
    if name not in _THOUGHTS:
        raise Refused(
            invalid(f"Invalid value at 'generation_config.thinking_config.thinking_level', \"{level}\"")
        )
    return min(budget, 512) if budget is not None and budget > 0 else _THOUGHTS[name]


def _fill(config: Mapping[str, Any]) -> Fill | None:
    """Find the schema in any of its three places, check it and compile it."""
    form = fields(config.get("responseFormat") or {}, _FORMAT, "generation_config.response_format")
    text = fields(form.get("text") or {}, _TEXT_FORMAT, "generation_config.response_format.text")
    schemas = [config.get("responseSchema"), config.get("responseJsonSchema"), text.get("schema")]
    mime = text.get("mimeType") or config.get("responseMimeType") or "text/plain"
    given = [schema for schema in schemas if schema is not None]
    if not given:
        return compile_schema({"type": "object"}) if mime == "application/json" else None
    if len(given) > 1 or mime not in ("application/json", "text/x.enum") or not isinstance(given[0], dict):
        raise Refused(invalid(INVALID))
    if schemas[0] is not None:
        check_openapi(given[0], "generation_config.response_schema")
    if too_complex(given[0]):
        raise Refused(invalid(TOO_MANY_STATES))
    return compile_schema(given[0])
