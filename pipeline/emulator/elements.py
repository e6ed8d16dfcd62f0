"""Where the elements of an array come from: packed rows, line items, or words of the text."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pipeline.emulator.finders import finder, name_words
from pipeline.emulator.nodes import Fill
from pipeline.emulator.subject import Subject


def packed_rows(inner: Fill, id_name: str, id_node: object) -> Callable[[Subject], list[Any]]:
    """Answer each row of a packed prompt under its own id."""
    whole = isinstance(id_node, dict) and id_node.get("type") == "integer"

    def rows(subject: Subject) -> list[Any]:
        found = []
        for key, text in subject.rows:
            value = inner(Subject(text, subject.seed), True)
            found.append(value | {id_name: int(key) if whole and key.isdigit() else key})
        return found

    return rows


def item_lines(node: dict[str, Any], inner: Fill) -> Callable[[Subject], list[Any]]:
    """Map each line item onto the fields of an element; other fields are looked for in the text's line."""
    plan = []
    required = frozenset(node.get("required") or ())
    for name, child in node["properties"].items():
        attribute = _item_attribute(name_words(name))
        if attribute is not None:
            plan.append((name, attribute, _writer(child)))
    if len({attribute for _, attribute, _ in plan}) < 2 or not required <= set(node["properties"]):
        return lambda subject: [inner(subject, True)]

    def elements(subject: Subject) -> list[Any]:
        found = []
        for item in subject.items:
            said = {name: write(getattr(item, attribute)) for name, attribute, write in plan}
            rest = inner(Subject(item.description, subject.seed), True)
            found.append(
                {
                    name: said.get(name, rest.get(name))
                    for name in node["properties"]
                    if name in said or name in rest
                }
            )
        return found

    return elements


def _item_attribute(words: frozenset[str]) -> str | None:
    """Name the part of an Item that a field means."""
    if "quantity" in words:
        return "quantity"
    if "price" in words:
        return "unit_price"
    if words & {"amount", "total"}:
        return "amount"
    return "description" if words & {"description"} else None


def _writer(node: object) -> Callable[[Any], Any]:
    """Return how to write a part of an Item in the type that the schema wants."""
    text = json.dumps(node)
    if '"integer"' in text.lower():
        return lambda value: round(value) if isinstance(value, Decimal) else 1
    if '"number"' in text.lower():
        return lambda value: float(value) if isinstance(value, Decimal) else 0.0
    return lambda value: f"{value:f}" if isinstance(value, Decimal) else value


def keywords(subject: Subject, name: str) -> list[Any]:
    """List what a label lists, else the longest words in their order."""
    listed = finder(name, "", "")(subject) if name_words(name) & {"tags", "topics", "keywords"} else None
    if listed:
        return [part.strip() for part in listed.split(",") if part.strip()]
    longest = set(sorted(subject.vocabulary, key=lambda word: (-len(word), word))[:3])
    return [word for word in dict.fromkeys(subject.words) if word in longest]
