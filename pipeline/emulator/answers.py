"""Answers that conform to a JSON schema and make sense for the text; compiled once per schema.

A compiled schema is a function of a `Subject` and of whether a value must come: where it need not,
the function may return MISSING. Objects keep the order of the schema's properties, or of its
`propertyOrdering`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.emulator.bounds import bounds, form
from pipeline.emulator.complexity import resolve
from pipeline.emulator.elements import item_lines, keywords, of_length, packed_rows
from pipeline.emulator.nodes import MISSING, Fill, Scope, kinds, plain_words
from pipeline.emulator.scalars import fill_boolean, fill_choice, fill_nothing, fill_number, fill_string
from pipeline.emulator.subject import Subject


def compile_schema(schema: dict[str, Any]) -> Fill:
    """Compile a schema, JSON Schema or the OpenAPI subset; keywords that are not known constrain nothing."""
    return _compile(schema, Scope(schema))


def _compile(node: object, scope: Scope) -> Fill:
    if not isinstance(node, dict):
        return fill_string({}, scope)
    reference = node.get("$ref")
    if isinstance(reference, str):
        if reference in scope.seen:
            return fill_nothing
        return _compile(resolve(scope.root, reference), replace(scope, seen=(*scope.seen, reference)))
    for name in ("anyOf", "oneOf", "allOf", "any_of"):
        if node.get(name):
            return _either(node[name], scope, nullable=bool(node.get("nullable")))
    if "const" in node:
        return lambda _subject, _must: node["const"]
    names, nullable = kinds(node)
    inner = fill_choice(node["enum"], scope) if node.get("enum") else _COMPILERS[names[0]](node, scope)
    return _or_null(inner) if nullable else inner


def _null(_node: dict[str, Any], _scope: Scope) -> Fill:
    return lambda _subject, _must: None


def _or_null(inner: Fill) -> Fill:
    def fill(subject: Subject, _must: bool) -> Any:
        value = inner(subject, False)
        return None if value is MISSING else value

    return fill


def _either(nodes: list[Any], scope: Scope, *, nullable: bool) -> Fill:
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


def _object(node: dict[str, Any], scope: Scope) -> Fill:
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


def _array(node: dict[str, Any], scope: Scope) -> Fill:
    fixed = node.get("prefixItems")
    if fixed:
        fills = [_compile(item, scope) for item in fixed]
        return lambda subject, _must: [inner(subject, True) for inner in fills]
    item = node.get("items", {})
    if isinstance(item, dict) and isinstance(item.get("$ref"), str) and item["$ref"] in scope.seen:
        return lambda _subject, _must: []
    elements = of_length(_several(item, scope), _compile(item, scope), bounds(node))
    return lambda subject, _must: elements(subject)


def _several(item: object, scope: Scope) -> Callable[[Subject], list[Any]]:
    """Choose where an array's elements come from: packed rows, line items, options, or words."""
    node = item if isinstance(item, dict) else {}
    node = resolve(scope.root, node["$ref"]) if isinstance(node.get("$ref"), str) else node
    properties = node.get("properties") or {}
    id_name = next((name for name in properties if name in ("id", "row_id", "rowId", "key", "row")), None)
    if id_name is not None:
        return packed_rows(_compile(item, scope), id_name, properties[id_name])
    if properties:
        return item_lines(node, _compile(item, scope))
    if node.get("enum"):
        options = [(option, plain_words(option)) for option in node["enum"]]
        return lambda subject: [option for option, words in options if words & subject.vocabulary]
    if kinds(node)[0][0] == "string" and not form(node):
        limits = bounds(node)
        return lambda subject: [limits.text(word, subject) for word in keywords(subject, scope.name)]
    return lambda subject: []


_COMPILERS: dict[str, Callable[[dict[str, Any], Scope], Fill]] = {
    "object": _object,
    "array": _array,
    "string": fill_string,
    "number": fill_number,
    "integer": fill_number,
    "boolean": fill_boolean,
    "null": _null,
}
