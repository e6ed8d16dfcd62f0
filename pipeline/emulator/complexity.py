"""Which response schemas the API refuses: too deep, too many states, or unknown OpenAPI keywords."""

from collections.abc import Iterator
from typing import Any

from pipeline.emulator.bodies import unknown_name
from pipeline.emulator.wire import Refused, known

_MOST_LEVELS = 12
_MOST_OPTIONS = 1000
_MOST_ITEMS = 960  # cumulative maxItems at which refusals were reported

_OPENAPI = known(
    "type format title description nullable enum items maxItems minItems properties required minProperties"
    " maxProperties minLength maxLength pattern example anyOf propertyOrdering default minimum maximum"
)


def too_complex(schema: dict[str, Any]) -> bool:
    """Tell if the schema, references followed once, passes the ceilings of depth, options or items."""
    options = items = 0
    for node, level in _nodes(schema, schema, 1, ()):
        options += len(node.get("enum") or ())
        most = node.get("maxItems")
        items += most if isinstance(most, int) else 0
        if level > _MOST_LEVELS or options > _MOST_OPTIONS or items > _MOST_ITEMS:
            return True
    return False


def check_openapi(schema: object, at: str) -> None:
    """Refuse a keyword that `responseSchema` does not have; `responseJsonSchema` ignores such keywords."""
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        if name not in _OPENAPI:
            raise Refused(unknown_name(name, at))
        if name == "properties" and isinstance(value, dict):
            for place, child in enumerate(value.values()):
                check_openapi(child, f"{at}.properties[{place}].value")
        elif name == "items":
            check_openapi(value, f"{at}.items")
        elif name in ("anyOf", "any_of") and isinstance(value, list):
            for place, child in enumerate(value):
                check_openapi(child, f"{at}.any_of[{place}]")


def resolve(root: dict[str, Any], reference: str) -> dict[str, Any]:
    """Return what `#/$defs/Name` points to; an empty schema where it points to nothing."""
    node: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if not step:
            continue
        node = node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def _nodes(
    root: dict[str, Any], node: object, level: int, seen: tuple[str, ...]
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield every schema with its depth; a recursive reference is followed once."""
    if not isinstance(node, dict):
        return
    reference = node.get("$ref")
    if isinstance(reference, str):
        if reference not in seen:
            yield from _nodes(root, resolve(root, reference), level, (*seen, reference))
        return
    yield node, level
    if level <= _MOST_LEVELS:
        for child in _children(node):
            yield from _nodes(root, child, level + 1, seen)


def _children(node: dict[str, Any]) -> Iterator[object]:
    properties = node.get("properties")
    yield from properties.values() if isinstance(properties, dict) else ()
    for name in ("anyOf", "oneOf", "allOf", "prefixItems"):
        yield from node.get(name) or ()
    yield node.get("items")
    yield node.get("additionalProperties")
