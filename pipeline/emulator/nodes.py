"""What a compiled schema is made of."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.emulator.subject import Subject

Fill = Callable[[Subject, bool], Any]
"""Makes a value for a subject. The flag says that one must come; otherwise MISSING may."""

MISSING: Any = object()
"""What a Fill returns for a value that the text does not hold and nobody insists on."""

_KINDS = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})


@dataclass(frozen=True, slots=True)
class Scope:
    """Where in a schema a node stands: the whole, the nearest field's name, the references being followed."""

    root: dict[str, Any]
    name: str = ""
    seen: tuple[str, ...] = ()


def kinds(node: dict[str, Any]) -> tuple[list[str], bool]:
    """Return the types of a node other than null, and whether null is allowed."""
    said = node.get("type")
    if said is None:
        said = "object" if "properties" in node else "array" if "items" in node else "string"
    names = [str(kind).lower() for kind in (said if isinstance(said, list) else [said])]
    nullable = "null" in names or bool(node.get("nullable")) or None in (node.get("enum") or ())
    return [name for name in names if name in _KINDS and name != "null"] or ["null"], nullable


def plain_words(option: object) -> frozenset[str]:
    """Return the words of an option in lower case: `BANK_TRANSFER` is `bank` and `transfer`."""
    return frozenset(word for word in re.split(r"[\W_]+", str(option).lower()) if word)
