"""What becomes of a good reply under an odd fault: status 200, but not what was asked for."""

from collections.abc import Callable
from dataclasses import replace

from pydantic_core import from_json, to_json

from pipeline.emulator.bodies import HTML_TYPE, Answer
from pipeline.emulator.damage import DAMAGE
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
        case "pack-short":
            text, output = (made.text or "")[: len(made.text or "") * 2 // 3], made.output * 2 // 3
            made = replace(made, text=text or None, output=output, finish="MAX_TOKENS")
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
    """Say the first half of an answer to several rows again and again until the cap."""
    text = made.text or ""
    if not text.startswith("["):
        return made
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


_TEXTS: dict[str, Callable[[str], str]] = {
    "badjson": _broken,
    "wrongtype": _mistyped,
    "fenced": lambda text: f"```json\n{text}\n```",
} | DAMAGE
