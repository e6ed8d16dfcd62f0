"""Answers that conform to a JSON schema and make sense for the text; compiled once per schema.

A compiled schema is a function of a `Subject` and of whether a value must come: where it need not,
the function may return MISSING. Objects keep the order of the schema's properties, or of its
`propertyOrdering`.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from pipeline.emulator.complexity import resolve
from pipeline.emulator.finders import finder, name_words, number, told
from pipeline.emulator.items import Item
from pipeline.emulator.subject import Subject

Fill = Callable[[Subject, bool], Any]

MISSING: Any = object()
"""What a Fill returns for a value that the text does not hold and nobody insists on."""

_SCORES = frozenset("confidence score probability certainty likelihood polarity sentiment".split())
_RATINGS = frozenset("rating stars grade satisfaction".split())
_GROUPS = {
    "positive": "positive positiv positif positivo positiva pos good favorable 긍정",
    "negative": "negative negativ négatif negatif negativo negativa neg bad unfavorable 부정",
    "neutral": "neutral neutre neutro none 중립 unclear",
    "mixed": "mixed gemischt mixte mixto both ambivalent 혼합",
}
_SIDES = {word: side for side, words in _GROUPS.items() for word in words.split()}
_HINTS = {
    "card": "visa mastercard amex debit kreditkarte carte tarjeta",
    "transfer": "iban bic wire sepa überweisung virement transferencia bank banküberweisung",
    "cash": "bar barzahlung espèces efectivo",
    "debit": "lastschrift prélèvement sepa mandate",
    "paypal": "paypal",
}


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where in a schema a node stands: the whole, the nearest field's name, the references being followed."""

    root: dict[str, Any]
    name: str = ""
    seen: tuple[str, ...] = ()


def compile_schema(schema: dict[str, Any]) -> Fill:
    """Compile a schema, JSON Schema or the OpenAPI subset; keywords that are not known constrain nothing."""
    return _compile(schema, _Scope(schema))


def _compile(node: object, scope: _Scope) -> Fill:
    if not isinstance(node, dict):
        return _string({}, scope)
    reference = node.get("$ref")
    if isinstance(reference, str):
        if reference in scope.seen:
            return _nothing
        return _compile(resolve(scope.root, reference), replace(scope, seen=(*scope.seen, reference)))
    for name in ("anyOf", "oneOf", "allOf", "any_of"):
        if node.get(name):
            return _either(node[name], scope, nullable=bool(node.get("nullable")))
    if "const" in node:
        return lambda _subject, _must: node["const"]
    kinds, nullable = _kinds(node)
    inner = _choice(node["enum"], scope) if node.get("enum") else _COMPILERS[kinds[0]](node, scope)
    return _or_null(inner) if nullable else inner


def _kinds(node: dict[str, Any]) -> tuple[list[str], bool]:
    """Return the types of a node other than null, and whether null is allowed."""
    said = node.get("type")
    if said is None:
        said = "object" if "properties" in node else "array" if "items" in node else "string"
    kinds = [str(kind).lower() for kind in (said if isinstance(said, list) else [said])]
    nullable = "null" in kinds or bool(node.get("nullable")) or None in (node.get("enum") or ())
    return [kind for kind in kinds if kind in _COMPILERS and kind != "null"] or ["null"], nullable


def _nothing(_subject: Subject, must: bool) -> Any:
    """Stand for a schema that contains itself: absent wherever it may be."""
    return None if must else MISSING


def _null(_node: dict[str, Any], _scope: _Scope) -> Fill:
    return lambda _subject, _must: None


def _or_null(inner: Fill) -> Fill:
    def fill(subject: Subject, _must: bool) -> Any:
        value = inner(subject, False)
        return None if value is MISSING else value

    return fill


def _either(nodes: list[Any], scope: _Scope, *, nullable: bool) -> Fill:
    """Take the first alternative for which the text has a value, else null if allowed, else the first."""
    real = [node for node in nodes if not (isinstance(node, dict) and _only_null(node))]
    fills = [_compile(node, scope) for node in real]
    if not fills or nullable or len(real) < len(nodes):
        return _or_null(_first_of(fills))
    return _first_of(fills)


def _only_null(node: dict[str, Any]) -> bool:
    return node.get("type") in ("null", ["null"], "NULL") or node.get("enum") == [None]


def _first_of(fills: list[Fill]) -> Fill:
    if len(fills) == 1:
        return fills[0]

    def fill(subject: Subject, must: bool) -> Any:
        found = (inner(subject, False) for inner in fills)
        value = next((value for value in found if value is not MISSING), MISSING)
        return fills[0](subject, True) if value is MISSING and must and fills else value

    return fill


def _choice(options: list[Any], scope: _Scope) -> Fill:
    options = [option for option in options if option is not None]
    if not options:
        return lambda _subject, _must: None
    sides = {_SIDES[word]: option for option in options for word in _plain_words(option) if word in _SIDES}
    if {"positive", "negative"} <= sides.keys():
        return lambda subject, _must: _leaning(subject, sides)
    if all(isinstance(option, int) for option in options):
        ordered = sorted(options)
        return lambda subject, _must: ordered[round((subject.mood.polarity + 1) / 2 * (len(ordered) - 1))]
    hints = [(option, _plain_words(option)) for option in options]
    hints = [
        (option, words | {h for w in words for h in _HINTS.get(w, "").split()}) for option, words in hints
    ]
    currency = finder("currency", "", "") if "currency" in name_words(scope.name) else None

    def fill(subject: Subject, must: bool) -> Any:
        said = currency(subject) if currency is not None else None
        if said is not None and said in options:
            return said
        best = max(hints, key=lambda pair: len(pair[1] & subject.vocabulary))
        if best[1] & subject.vocabulary:
            return best[0]
        return options[subject.chance(scope.name, len(options))] if must else MISSING

    return fill


def _plain_words(option: object) -> frozenset[str]:
    return frozenset(word for word in re.split(r"[\W_]+", str(option).lower()) if word)


def _leaning(subject: Subject, sides: dict[str, Any]) -> Any:
    feeling = subject.mood
    if feeling.mixed and "mixed" in sides:
        return sides["mixed"]
    if abs(feeling.polarity) < 0.08 and ("neutral" in sides or "mixed" in sides):
        return sides.get("neutral", sides.get("mixed"))
    if feeling.polarity == 0:
        return sides[("positive", "negative")[subject.chance("side", 2)]]
    return sides["positive" if feeling.polarity > 0 else "negative"]


def _string(node: dict[str, Any], scope: _Scope) -> Fill:
    form = str(node.get("format") or "")
    find = finder(scope.name, form, str(node.get("description") or ""))
    spare = {
        "date": "2026-01-01",
        "date-time": "2026-01-01T00:00:00Z",
        "time": "00:00:00",
        "email": "n@example.org",
    }

    def fill(subject: Subject, must: bool) -> Any:
        value = find(subject)
        if value is not None:
            return value
        return (spare.get(form) or subject.quote()) if must else MISSING

    return fill


def _number(node: dict[str, Any], scope: _Scope) -> Fill:
    words = name_words(scope.name)
    low, high = node.get("minimum"), node.get("maximum")
    whole = str(node.get("type")).lower().strip("[]'").startswith("integer")
    if words & _RATINGS:
        low, high = (1 if low is None else low), (5 if high is None else high)
        scale: Callable[[Subject], float] | None = lambda subject: (subject.mood.polarity + 1) / 2  # noqa: E731
    elif words & _SCORES:
        low, high = (0 if low is None else low), (1 if high is None else high)
        scale = _certainty
    else:
        scale = None

    def fill(subject: Subject, must: bool) -> Any:
        if scale is not None:
            return _rounded(low + scale(subject) * (high - low), whole)
        value = number(subject, words)
        if value is None and not must:
            return MISSING
        fallback = Decimal(subject.chance(scope.name, 10))
        return _clamped(fallback if value is None else value, low, high, whole)

    return fill


def _certainty(subject: Subject) -> float:
    """Be surer of strong feelings, never wholly."""
    return min(0.99, 0.5 + abs(subject.mood.polarity) * 0.45 + subject.chance("certainty", 5) / 100)


def _rounded(value: float, whole: bool) -> float | int:
    return round(value) if whole else round(value, 2)


def _clamped(value: Decimal, low: float | None, high: float | None, whole: bool) -> float | int:
    plain = float(value)
    plain = plain if low is None else max(low, plain)
    plain = plain if high is None else min(high, plain)
    return round(plain) if whole else (int(plain) if plain.is_integer() else plain)


def _boolean(_node: dict[str, Any], scope: _Scope) -> Fill:
    words = name_words(scope.name) - {"is", "has", "was", "are", "the"}
    feels = words & (_SIDES.keys() | {"recommend", "recommends", "recommended", "satisfied", "happy"})
    bad = "negative" in {_SIDES.get(word) for word in words}

    def fill(subject: Subject, must: bool) -> Any:
        if feels:
            return (subject.mood.polarity < 0) if bad else (subject.mood.polarity > 0)
        said = bool(words & subject.vocabulary)
        return said if said or must else MISSING

    return fill


def _object(node: dict[str, Any], scope: _Scope) -> Fill:
    properties: dict[str, Any] = node.get("properties") or {}
    extra = node.get("additionalProperties", node.get("additional_properties"))
    if not properties and isinstance(extra, dict):
        return _mapping(_compile(extra, scope))
    required = frozenset(node.get("required") or ())
    order = node.get("propertyOrdering") or node.get("property_ordering") or list(properties)
    names = [name for name in order if name in properties] + [
        name for name in properties if name not in order
    ]
    plan = [(name, _compile(properties[name], replace(scope, name=name)), name in required) for name in names]

    def fill(subject: Subject, _must: bool) -> Any:
        found = ((name, inner(subject, must)) for name, inner, must in plan)
        return {name: value for name, value in found if value is not MISSING}

    return fill


def _mapping(inner: Fill) -> Fill:
    """Fill a map of free keys with the labelled lines of the text."""

    def fill(subject: Subject, _must: bool) -> Any:
        lines = subject.labels[:8]
        pairs = ((line.label, inner(Subject(line.value, subject.seed), True)) for line in lines)
        return dict(pairs)

    return fill


def _array(node: dict[str, Any], scope: _Scope) -> Fill:
    fixed = node.get("prefixItems")
    if fixed:
        fills = [_compile(item, scope) for item in fixed]
        return lambda subject, _must: [inner(subject, True) for inner in fills]
    low, high = int(node.get("minItems") or 0), node.get("maxItems")
    item = node.get("items", {})
    if isinstance(item, dict) and isinstance(item.get("$ref"), str) and item["$ref"] in scope.seen:
        return lambda _subject, _must: []
    several = _several(item, scope)
    one = _compile(item, scope)

    def fill(subject: Subject, _must: bool) -> Any:
        found = several(subject)
        found += [one(subject, True) for _ in range(low - len(found))]
        return found if high is None else found[: int(high)]

    return fill


def _several(item: object, scope: _Scope) -> Callable[[Subject], list[Any]]:
    """Choose where an array's elements come from: packed rows, line items, options, or words."""
    node = item if isinstance(item, dict) else {}
    node = resolve(scope.root, node["$ref"]) if isinstance(node.get("$ref"), str) else node
    properties = node.get("properties") or {}
    id_name = next((name for name in properties if name in ("id", "row_id", "rowId", "key", "row")), None)
    if id_name is not None:
        return _packed(_compile(item, scope), id_name, properties[id_name])
    if properties:
        return _lines(node, _compile(item, scope))
    if node.get("enum"):
        options = [(option, _plain_words(option)) for option in node["enum"]]
        return lambda subject: [option for option, words in options if words & subject.vocabulary]
    if _kinds(node)[0][0] == "string":
        return lambda subject: _keywords(subject, scope.name)
    return lambda subject: []


def _packed(inner: Fill, id_name: str, id_node: object) -> Callable[[Subject], list[Any]]:
    """Answer each row of a packed prompt under its own id."""
    whole = isinstance(id_node, dict) and id_node.get("type") == "integer"

    def rows(subject: Subject) -> list[Any]:
        found = []
        for key, text in subject.rows:
            value = inner(Subject(text, subject.seed), True)
            found.append(value | {id_name: int(key) if whole and key.isdigit() else key})
        return found

    return rows


def _lines(node: dict[str, Any], inner: Fill) -> Callable[[Subject], list[Any]]:
    """Map each line item onto the fields of an element; other fields are looked for in the text's line."""
    plan = []
    required = frozenset(node.get("required") or ())
    for name, child in node["properties"].items():
        attribute = _item_attribute(name_words(name))
        if attribute is not None:
            plan.append((name, attribute, _writer(child, node)))
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
    if words & {"quantity"}:
        return "quantity"
    if words & {"price", "unit"} and not words & {"total"}:
        return "unit_price"
    if words & {"amount", "total"}:
        return "amount"
    return "description" if words & {"description"} else None


def _writer(node: object, _parent: dict[str, Any]) -> Callable[[Any], Any]:
    """Return how to write a part of an Item in the type that the schema wants."""
    text = json.dumps(node)
    if '"integer"' in text.lower():
        return lambda value: round(value) if isinstance(value, Decimal) else 1
    if '"number"' in text.lower():
        return lambda value: float(value) if isinstance(value, Decimal) else 0.0
    return lambda value: f"{value:f}" if isinstance(value, Decimal) else value


def _keywords(subject: Subject, name: str) -> list[Any]:
    """List what a label lists, else the longest words in their order."""
    listed = finder(name, "", "")(subject) if name_words(name) & {"tags", "topics", "keywords"} else None
    if listed:
        return [part.strip() for part in listed.split(",") if part.strip()]
    longest = set(sorted(subject.vocabulary, key=lambda word: (-len(word), word))[:3])
    return [word for word in dict.fromkeys(subject.words) if word in longest]


_COMPILERS: dict[str, Callable[[dict[str, Any], _Scope], Fill]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "number": _number,
    "integer": _number,
    "boolean": _boolean,
    "null": _null,
}

__all__ = ["MISSING", "Fill", "Item", "compile_schema", "told"]
