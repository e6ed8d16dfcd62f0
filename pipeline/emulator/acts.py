"""What becomes of a good reply under an odd fault: status 200, but not what was asked for."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

from pydantic_core import from_json, to_json

from pipeline.emulator.bodies import HTML_TYPE, Answer
from pipeline.emulator.replies import Said

_THOUGHTS = 1024  # tokens spent on thoughts where the request sets no cap

FOREIGN = {
    "html200": Answer(200, b"<!DOCTYPE html>\n<html lang=en>\n<title>Sign in</title>\n</html>\n", HTML_TYPE),
    "garbage200": Answer(200, b"{"),
}
"""Answers with status 200 that something between the model and the client wrote."""


def bend(kind: str, made: Said, limit: int | None) -> Said:
    """Return what an odd kind makes of a good reply; kinds that only change the pace change nothing."""
    if kind in _TEXTS:
        return replace(made, text=_TEXTS[kind](made.text or ""))
    if kind.startswith("finish-"):
        return _finished(kind.removeprefix("finish-").upper(), made)
    match kind:
        case "pack-loop":
            made = _looped(made, limit)
        case "thinking":
            made = replace(made, text=None, finish="MAX_TOKENS", output=0, thoughts=limit or _THOUGHTS)
        case "empty":
            made = replace(made, text=None, output=0)
        case "nocandidates" | "blocked":
            blocked = "PROHIBITED_CONTENT" if kind == "blocked" else None
            made = replace(made, text=None, finish=None, output=0, thoughts=0, blocked=blocked)
    return made


def _finished(reason: str, made: Said) -> Said:
    """End with a reason: whole after STOP, half after MAX_TOKENS, nothing after any other."""
    if reason == "STOP":
        return made
    if reason == "MAX_TOKENS":
        text = made.text or ""
        return replace(made, text=text[: len(text) // 2] or None, output=made.output // 2, finish=reason)
    return replace(made, text=None, output=0, finish=reason)


def _looped(made: Said, limit: int | None) -> Said:
    """Say the first half again and again until the cap."""
    text = made.text or ""
    half = text[: len(text) // 2]
    cap = limit or _THOUGHTS
    times = 2 * cap // max(1, made.output)
    return replace(made, text=half + half[len(half) // 2 :] * times, finish="MAX_TOKENS", output=cap)


def _broken(text: str) -> str:
    """Drop a token that JSON needs."""
    return text.replace('":', '"', 1) if '":' in text else text + "]"


def _mistyped(text: str) -> str:
    """Return JSON whose values are of other types than they were."""
    try:
        value = from_json(text)
    except ValueError:
        return "[]"
    if isinstance(value, dict):
        return to_json({name: {"value": child} for name, child in value.items()}).decode()
    return to_json({"value": value}).decode()


def _elements(text: str) -> list[Any]:
    """Return the elements of an answer to several rows; none of any other answer."""
    value = from_json(text)
    return value if isinstance(value, list) and all(isinstance(one, dict) for one in value) else []


def _missing(text: str) -> str:
    """Leave out every third row."""
    elements = _elements(text)
    return to_json([one for n, one in enumerate(elements) if n % 3]).decode() if elements else text


def _doubled(text: str) -> str:
    """Answer some rows once more, with the words of their neighbours."""
    elements = _elements(text)
    again = [{**after, **_id_of(before)} for before, after in pairwise(elements[::4])]
    return to_json(elements + again).decode() if elements else text


def _foreign(text: str) -> str:
    """Give some rows ids that nobody asked about."""
    elements = _elements(text)
    wrong = [
        one if n % 4 else {**one, **dict.fromkeys(_id_of(one), "zzzz")} for n, one in enumerate(elements)
    ]
    return to_json(wrong).decode() if elements else text


def _id_of(element: dict[str, Any]) -> dict[str, Any]:
    """Return the first field, which is the id."""
    name = next(iter(element))
    return {name: element[name]}


_TEXTS: dict[str, Callable[[str], str]] = {
    "badjson": _broken,
    "wrongtype": _mistyped,
    "fenced": lambda text: f"```json\n{text}\n```",
    "pack-missing": _missing,
    "pack-doubled": _doubled,
    "pack-foreign": _foreign,
    "pack-cut": lambda text: text[: len(text) * 2 // 3],
}
