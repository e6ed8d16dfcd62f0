"""What a schema bounds, by keywords or by the words of a description, and values brought within.

A client may leave keywords out that the API does not enforce, and write them behind the description:
`The share (at least 0; at most 1)`. Patterns are not read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from math import ceil, floor
from typing import Any

from pipeline.emulator.subject import Subject

_NOTE = re.compile(
    r"(?:^|[(;])\s*(at least|more than|at most|less than|a multiple of) (-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
    r"( decimal places| characters| items)?(?=[;)]|$)",
    re.IGNORECASE,
)
_KEYWORDS = {
    "at least": "minimum",
    "more than": "exclusiveMinimum",
    "at most": "maximum",
    "less than": "exclusiveMaximum",
    "a multiple of": "multipleOf",
    "at most decimal places": "decimalPlaces",
    "at least characters": "minLength",
    "at most characters": "maxLength",
    "at least items": "minItems",
    "at most items": "maxItems",
}
_FORM = re.compile(
    r"(?:^|[(;])\s*(iso 8601 date and time|iso 8601 date|iso 8601 time|iso 8601 duration|uuid|url"
    r"|e-mail address|decimal number as text)(?=[;)]|$)",
    re.IGNORECASE,
)
_FORMS = {
    "iso 8601 date and time": "date-time",
    "iso 8601 date": "date",
    "iso 8601 time": "time",
    "iso 8601 duration": "duration",
    "uuid": "uuid",
    "url": "uri",
    "e-mail address": "email",
    "decimal number as text": "decimal",
}
MOST_TEXT = 300_000  # characters that a text is made longer to: more than the tokens of an answer hold
_ONCE = re.compile(r"(?:^|[(;])\s*each only once(?=[;)]|$)")


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of a node; None where there is none. `above` and `below` are not reached themselves."""

    low: Decimal | None = None
    high: Decimal | None = None
    above: Decimal | None = None
    below: Decimal | None = None
    step: Decimal | None = None
    shortest: int = 0
    longest: int | None = None
    fewest: int = 0
    most: int | None = None
    unique: bool = False

    @property
    def ends(self) -> tuple[Decimal | None, Decimal | None]:
        """The lower and the upper end of a number, reached or not."""
        low = max((end for end in (self.low, self.above) if end is not None), default=None)
        return low, min((end for end in (self.high, self.below) if end is not None), default=None)

    def number(self, value: Decimal, *, whole: bool = False) -> Decimal:
        """Return the number nearest to a value that is allowed, or one inside where an end is not reached."""
        low, high = self.ends
        value = value if low is None else max(low, value)
        value = value if high is None else min(high, value)
        if value in (self.above, self.below):
            value = _inside(value, low, high)
        grain = self.step or (Decimal(1) if whole else None)
        return self._grained(value, grain) if grain else value

    def _grained(self, value: Decimal, grain: Decimal) -> Decimal:
        """Return the nearest multiple that is allowed."""
        low, high = self.ends
        times = round(value / grain)
        if low is not None:
            times = max(times, floor(low / grain) + 1 if low == self.above else ceil(low / grain))
        if high is not None:
            times = min(times, ceil(high / grain) - 1 if high == self.below else floor(high / grain))
        return times * grain

    def text(self, value: str, subject: Subject) -> str:
        """Return a text that is long enough, with more words of the subject, and not too long."""
        wanted = min(self.shortest, MOST_TEXT)
        if len(value) < wanted:
            more = subject.quote() or "text"
            value = value or more
            value = " ".join([value, *[more] * ceil((wanted - len(value)) / (len(more) + 1))])
        if self.longest is None or len(value) <= self.longest:
            return value
        cut = value[: self.longest + 1].rpartition(" ")[0].rstrip()
        if len(cut) >= max(1, self.shortest):
            return cut
        cut = value[: self.longest]
        return cut if cut == cut.strip() else cut.strip().ljust(len(cut), ".")


def bounds(node: Mapping[str, Any]) -> Bounds:
    """Read the bounds of a node; its keywords count more than its words."""
    told = _told(node)
    low, high = _decimal(told.get("minimum")), _decimal(told.get("maximum"))
    above, below = told.get("exclusiveMinimum"), told.get("exclusiveMaximum")
    places = told.get("decimalPlaces")
    return Bounds(
        low=None if above is True else low,
        high=None if below is True else high,
        above=low if above is True else _decimal(above),  # as OpenAPI 3.0 says it
        below=high if below is True else _decimal(below),
        step=_decimal(told.get("multipleOf"))
        or (None if places is None else Decimal(1).scaleb(-int(places))),
        shortest=_count(told.get("minLength")) or 0,
        longest=_count(told.get("maxLength")),
        fewest=_count(told.get("minItems")) or 0,
        most=_count(told.get("maxItems")),
        unique=bool(node.get("uniqueItems") or _ONCE.search(str(node.get("description") or ""))),
    )


def form(node: Mapping[str, Any]) -> str:
    """Return the format of a string, or what its description says in place of one."""
    if node.get("format"):
        return str(node["format"])
    said = _FORM.search(str(node.get("description") or ""))
    if said:
        return _FORMS[said[1].lower()]
    return "decimal" if "decimalPlaces" in _told(node) else ""


def plain(value: Decimal, limits: Bounds) -> str:
    """Write a number within bounds, with its own decimal places where it stays as it is."""
    fitting = limits.number(value)
    return f"{value:f}" if fitting == value else f"{fitting.normalize():f}"


def _told(node: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for words, number, unit in _NOTE.findall(str(node.get("description") or "")):
        found.setdefault(_KEYWORDS.get(f"{words}{unit}".lower(), ""), number)
    return found | {name: node[name] for name in _KEYWORDS.values() if node.get(name) is not None}


def _inside(end: Decimal, low: Decimal | None, high: Decimal | None) -> Decimal:
    """Return a number beyond an end that is not reached itself."""
    if low is not None and high is not None:
        return (low + high) / 2
    return end + 1 if end == low else end - 1


def _decimal(value: object) -> Decimal | None:
    return None if value is None or isinstance(value, bool) else Decimal(str(value))


def _count(value: object) -> int | None:
    return None if value is None else int(Decimal(str(value)))
