"""An answer as it might look, written from the schema alone: all there is at the very beginning."""

import json
from collections.abc import Mapping
from typing import Any

SENTENCE = "The text says so in plain words, and nothing in it says otherwise."
WORD = "a word or two"
ITEMS = 3  # of a list
WIDE = 2.0  # by which factor a true answer may be longer or shorter
_DEPTH = 8
_SCALARS: Mapping[str, object] = {"integer": 12, "number": 0.85, "boolean": True, "null": None}
_MARKS = {  # words of a description that say what a text holds
    "date and time": "2026-11-28T12:30:00Z",
    "iso 8601 date": "2026-11-28",
    "decimal number": "1234.50",
    "uuid": "7d444840-9dc0-11d1-b245-5ffdce74fad2",
    "url": "https://www.example.com/page",
    "sentence": SENTENCE,
    "reason": SENTENCE,
    "summar": f"{SENTENCE} {SENTENCE}",
    "explain": f"{SENTENCE} {SENTENCE}",
}


def example(schema: Mapping[str, Any]) -> str:
    """Return the JSON text of an answer to a schema, with texts of usual lengths; it need not be valid."""
    return json.dumps(_value(schema, "", 0), ensure_ascii=False)


def _value(node: Mapping[str, Any], name: str, depth: int) -> object:
    if branches := node.get("anyOf"):
        return _value(next((one for one in branches if one.get("type") != "null"), {}), name, depth)
    kind = node.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    match kind if depth < _DEPTH else "null":
        case "object":
            fields = node.get("properties", {}).items()
            return {field: _value(inner, field, depth + 1) for field, inner in fields}
        case "array":
            return [_value(node.get("items", {}), name, depth + 1)] * ITEMS
        case "string":
            return _text(node, f"{name} {node.get('description', '')}".lower())
    return _SCALARS.get(str(kind))


def _text(node: Mapping[str, Any], words: str) -> str:
    if options := node.get("enum"):
        return str(sorted(options, key=len)[len(options) // 2])  # of middle length
    return next((text for mark, text in _MARKS.items() if mark in words), WORD)
