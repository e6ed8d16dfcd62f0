"""Where the elements of an array come from: packed rows, line items, or words of the text."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pipeline.emulator.bounds import Bounds, bounds, plain
from pipeline.emulator.finders import finder, name_words
from pipeline.emulator.nodes import Fill
from pipeline.emulator.subject import Subject

TRIES = 100  # to find elements that are not there yet


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
    """Return how to write a part of an Item in the type that the schema wants, within its bounds."""
    text, limits = json.dumps(node).lower(), bounds(_present(node))
    if '"integer"' in text:
        return lambda value: int(limits.number(_amount(value, 1), whole=True))
    if '"number"' in text:
        return lambda value: float(limits.number(_amount(value, 0)))
    return lambda value: (
        plain(value, limits) if isinstance(value, Decimal) else limits.text(value, Subject(value))
    )


def _amount(value: object, spare: int) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(spare)


def _present(node: object) -> dict[str, Any]:
    """Return what a node is where it is not null."""
    found = node if isinstance(node, dict) else {}
    for name in ("anyOf", "oneOf"):
        found = next((one for one in found.get(name) or () if one.get("type") != "null"), found)
    return found


def keywords(subject: Subject, name: str) -> list[Any]:
    """List what a label lists, else the longest words in their order."""
    listed = finder(name, "", "")(subject) if name_words(name) & {"tags", "topics", "keywords"} else None
    if listed:
        return [part.strip() for part in listed.split(",") if part.strip()]
    longest = set(sorted(subject.vocabulary, key=lambda word: (-len(word), word))[:3])
    return [word for word in dict.fromkeys(subject.words) if word in longest]


def of_length(
    several: Callable[[Subject], list[Any]], one: Fill, limits: Bounds
) -> Callable[[Subject], list[Any]]:
    """Return what fills an array with what was found and, as far as that is too little, with others."""

    def elements(subject: Subject) -> list[Any]:
        found = several(subject)
        found = _once(found) if limits.unique else found
        for number in range(TRIES if limits.unique else limits.fewest):
            if len(found) >= limits.fewest:
                break
            found.append(one(Subject(str(number), number) if limits.unique else subject, True))
            found = _once(found) if limits.unique else found
        return found if limits.most is None else found[: limits.most]

    return elements


def _once(found: list[Any]) -> list[Any]:
    """Return the elements without those that are there already."""
    return [one for place, one in enumerate(found) if one not in found[:place]]
