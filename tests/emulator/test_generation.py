"""Checking the generation configuration."""

import json
from typing import Any

import pytest

from pipeline.emulator.generation import read_generation

MODEL = "gemini-3.1-flash-lite"


def refused(config: dict[str, Any], model: str = MODEL) -> str:
    """Return why a configuration is refused; empty where it is not."""
    refusal = read_generation(config, model)[0].refusal
    if refusal is None:
        return ""
    message: str = json.loads(refusal.body)["error"]["message"]
    return message


def nested(levels: int) -> dict[str, Any]:
    """Return a schema of objects in objects."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"inner": schema}}
    return schema


JSON: dict[str, Any] = {"responseMimeType": "application/json"}


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"maxTokens": 5}, 'Unknown name "maxTokens"'),
        ({"thinkingConfig": {"thinkingLevel": "LOW", "thinkingBudget": 5}}, "only one of thinking"),
        ({"thinkingConfig": {"thinking_level": "ultra"}}, "thinking_level"),
        ({"temperature": 5}, "temperature must be in the range"),
        ({"maxOutputTokens": 70_000}, "supported range"),
        ({"maxOutputTokens": "many"}, "max"),
        ({"presencePenalty": 0.5}, "Penalty is not enabled"),
        (JSON | {"responseSchema": {"type": "OBJECT", "$defs": {}}}, 'Unknown name "$defs"'),
        (JSON | {"responseJsonSchema": nested(40)}, "too many states"),
        (
            JSON | {"responseJsonSchema": {"type": "array", "maxItems": 2000, "items": {"type": "string"}}},
            "too many states",
        ),
        (JSON | {"responseJsonSchema": {}, "responseSchema": {}}, "invalid argument"),
        ({"responseJsonSchema": {"type": "object"}}, "invalid argument"),
    ],
)
def test_what_the_api_refuses_is_refused(config: dict[str, Any], complaint: str) -> None:
    """A 400 says why."""
    assert complaint in refused(config)


def test_the_model_decides_about_thinking() -> None:
    """A budget of zero is refused by 3.5, a level by 2.5, and neither by the others."""
    off, low = {"thinkingConfig": {"thinkingBudget": 0}}, {"thinkingConfig": {"thinkingLevel": "low"}}
    assert refused(off, "gemini-3.5-flash-lite")
    assert not refused(off, "gemini-2.5-flash-lite")
    assert refused(low, "gemini-2.5-flash-lite")
    assert not refused(low, "gemini-3.5-flash-lite")


@pytest.mark.parametrize(
    "config",
    [
        JSON | {"responseSchema": {"type": "STRING", "propertyOrdering": []}},
        JSON | {"response_json_schema": {"type": "string", "pattern": "^a"}},
        {"responseFormat": {"text": {"mimeType": "application/json", "schema": {"type": "string"}}}},
    ],
)
def test_a_schema_may_stand_in_three_places(config: dict[str, Any]) -> None:
    """All three spellings that the API has compile."""
    generation, _ = read_generation(config, MODEL)
    assert generation.refusal is None
    assert generation.fill is not None


def test_a_recursive_schema_is_accepted() -> None:
    """References that come back to themselves end."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    assert not refused(JSON | {"responseJsonSchema": {"$defs": {"Node": node}, "$ref": "#/$defs/Node"}})
