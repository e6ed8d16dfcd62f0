"""The right values of a field, as a column of the input holds them: which are known, which answers match."""

import json
import math
from collections.abc import Mapping

from pipeline.shape import Choice, Group, Kind, Many, Named, Shape, Single

NUMBERS = {Kind.INTEGER, Kind.NUMBER, Kind.DECIMAL}


def is_known(shape: Shape, right: object) -> bool:
    """Tell whether a cell holds a right value: not null or NaN, nor blank text unless that is a choice.

    Where only a part of the rows has labels, a CSV file has empty cells in the others, quoted or not.
    """
    if right is None or (isinstance(right, float) and math.isnan(right)):
        return False
    return bool(_plain(right)) or (isinstance(shape, Choice) and any(not _plain(one) for one in shape.values))


def is_right(shape: Shape, answer: object, right: object) -> bool:
    """Tell whether an answer is the right value: as numbers where both are, else as text in any case.

    Lists and models stand in a cell as such, or as JSON text. A set has no order.
    """
    right = _unwritten(shape, right)
    match shape:
        case Many(each, ordered):
            return isinstance(answer, list) and isinstance(right, list) and _all(each, answer, right, ordered)
        case Named(each):
            return (
                isinstance(answer, Mapping)
                and isinstance(right, Mapping)
                and answer.keys() == right.keys()
                and (all(is_right(each, answer[name], value) for name, value in right.items()))
            )
        case Group(fields):
            return (
                isinstance(answer, Mapping)
                and isinstance(right, Mapping)
                and (all(is_right(inner, answer.get(name), right.get(name)) for name, inner in fields))
            )
        case _:
            return _equal(answer, right)


def is_possible(shape: Shape, right: object) -> bool:
    """Tell whether any answer of a field could be this value; where not, each would be called wrong."""
    right = _unwritten(shape, right)
    match shape:
        case Many(each, _):
            return isinstance(right, list) and all(is_possible(each, one) for one in right)
        case Named(each):
            return isinstance(right, Mapping) and all(is_possible(each, one) for one in right.values())
        case Group(fields):
            names = dict(fields)
            return (
                isinstance(right, Mapping)
                and right.keys() <= names.keys()
                and (all(one is None or is_possible(names[name], one) for name, one in right.items()))
            )
        case Choice(_, values):
            return any(_equal(value, right) for value in values)
        case Single(kind):
            return (
                _plain(right) in ("true", "false")
                if kind is Kind.BOOLEAN
                else (kind not in NUMBERS or _number(right) is not None)
            )


def form(shape: Shape) -> str:
    """Say how right values of a field are written, for a hint."""
    match shape:
        case Many():
            return 'lists as JSON text, such as `["a", "b"]`'
        case Named() | Group():
            return 'objects as JSON text, such as `{"a": 1}`'
        case Choice(_, values):
            return "one of " + ", ".join(f"`{value}`" for value in values)
        case Single(kind):
            return "`true` or `false`" if kind is Kind.BOOLEAN else "numbers"


def _unwritten(shape: Shape, right: object) -> object:
    """Read the JSON text of what has parts; what is none stays as it is."""
    if not isinstance(shape, Many | Named | Group) or not isinstance(right, str):
        return right
    try:
        return json.loads(right)
    except ValueError:
        return right


def _all(each: Shape, answer: list[object], right: list[object], ordered: bool) -> bool:
    if len(answer) != len(right):
        return False
    if ordered:
        return all(is_right(each, said, value) for said, value in zip(answer, right, strict=True))
    return all(any(is_right(each, said, value) for value in right) for said in answer)


def _equal(answer: object, right: object) -> bool:
    if _plain(answer) == _plain(right):
        return True
    said, value = _number(answer), _number(right)
    return said is not None and value is not None and math.isclose(said, value, rel_tol=1e-9)


def _number(value: object) -> float | None:
    try:
        return float(_plain(value))
    except ValueError:
        return None


def _plain(value: object) -> str:
    return str(value).strip().casefold()
