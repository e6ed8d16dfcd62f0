"""How the answer to a pack of rows is damaged; the answer to one row stays as it is, but for a cut."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from pydantic_core import from_json, to_json

_Element = dict[str, Any]


def _of_elements(damage: Callable[[list[_Element]], list[_Element]]) -> Callable[[str], str]:
    """Apply a damage to the elements of an answer to several rows; any other answer stays whole."""

    def apply(text: str) -> str:
        try:
            value = from_json(text)
        except ValueError:  # its cap has cut it before
            return text
        if not isinstance(value, list) or not value or not all(isinstance(one, dict) for one in value):
            return text
        return to_json(damage(value)).decode()

    return apply


def _missing(elements: list[_Element]) -> list[_Element]:
    """Leave out every third row."""
    return [one for n, one in enumerate(elements) if n % 3]


def _doubled(elements: list[_Element]) -> list[_Element]:
    """Answer some rows once more, with the words of their neighbours."""
    return elements + [{**after, **_id_of(before)} for before, after in pairwise(elements[::4])]


def _twice(elements: list[_Element]) -> list[_Element]:
    """Answer some rows once more, with the same words."""
    return elements + elements[::4]


def _foreign(elements: list[_Element]) -> list[_Element]:
    """Give some rows ids that nobody asked about."""
    return [one if n % 4 else {**one, **dict.fromkeys(_id_of(one), "zzzz")} for n, one in enumerate(elements)]


def _swapped(elements: list[_Element]) -> list[_Element]:
    """Give the two first rows each other's ids, which only a hash of the row can show."""
    if len(elements) < 2:
        return elements
    first, second, *rest = elements
    return [{**first, **_id_of(second)}, {**second, **_id_of(first)}, *rest]


def _shuffled(elements: list[_Element]) -> list[_Element]:
    """Answer in another order, each row under its own id."""
    return elements[1::2] + elements[::2][::-1]


def _broken(text: str) -> str:
    """Drop a token that JSON needs, in the middle."""
    head, colon, tail = text[: len(text) // 2], '":', text[len(text) // 2 :]
    return head + tail.replace(colon, '"', 1) if colon in tail else text + "]"


def _id_of(element: _Element) -> _Element:
    """Return the first field, which is the id."""
    name = next(iter(element))
    return {name: element[name]}


def _said(text: str) -> str:
    """Return prose in place of an array."""
    return "Here are the answers to your rows." if text.startswith("[") else text


DAMAGE: dict[str, Callable[[str], str]] = {
    "pack-missing": _of_elements(_missing),
    "pack-doubled": _of_elements(_doubled),
    "pack-twice": _of_elements(_twice),
    "pack-foreign": _of_elements(_foreign),
    "pack-swapped": _of_elements(_swapped),
    "pack-shuffled": _of_elements(_shuffled),
    "pack-empty": _of_elements(lambda _elements: []),
    "pack-text": _said,
    "pack-badjson": lambda text: _broken(text) if text.startswith("[") else text,
    "pack-cut": lambda text: text[: len(text) * 2 // 3],
}
"""What becomes of an answer's text, by the kind of fault."""
