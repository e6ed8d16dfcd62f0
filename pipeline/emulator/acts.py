"""How scripted faults look from outside: the answer of a refusal, and what becomes of a good reply."""

from dataclasses import replace

from pydantic_core import from_json, to_json

from pipeline.emulator import bodies
from pipeline.emulator.bodies import HTML_TYPE, Answer
from pipeline.emulator.faults import Fault
from pipeline.emulator.quota import Dimension, Violation
from pipeline.emulator.replies import Said
from pipeline.emulator.settings import Settings
from pipeline.emulator.wire import Route

_WAIT = 1.31  # seconds that a scripted 429 names where its spec does not
_THOUGHTS = 1024  # tokens spent on thoughts where the request sets no cap
_DIMENSIONS: dict[str, Dimension] = {"429-minute": "requests", "429-tokens": "tokens", "429-day": "day"}

_PLAIN = {
    "429-bare": bodies.exhausted("Resource has been exhausted (e.g. check quota)."),
    "429-vertex": bodies.exhausted(bodies.VERTEX_EXHAUSTED),
    "429-prepay": bodies.exhausted(bodies.PREPAY),
    "429-spendcap": bodies.exhausted(bodies.SPEND_CAP),
    "402": bodies.error(402, "RESOURCE_EXHAUSTED", bodies.PREPAY),
    "400-key": bodies.bad_key(),
    "400-argument": bodies.invalid(bodies.INVALID),
    "400-schema": bodies.invalid(bodies.TOO_MANY_STATES),
    "400-toolong": bodies.invalid(bodies.TOO_LONG),
    "400-location": bodies.error(
        400, "FAILED_PRECONDITION", "User location is not supported for the API use."
    ),
    "408": bodies.error(408, "CANCELLED", "The request timed out."),
    "499": bodies.error(499, "CANCELLED", "The operation was cancelled."),
    "500": bodies.error(
        500,
        "INTERNAL",
        "An internal error has occurred. Please retry or report in"
        " https://developers.generativeai.google/guide/troubleshooting",
    ),
    "502-html": bodies.page(502, "Error 502 (Server Error)!!1"),
    "503": bodies.error(
        503,
        "UNAVAILABLE",
        "This model is currently experiencing high demand. Spikes in demand are usually temporary. Please try"
        " again later.",
    ),
    "504": bodies.error(504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
}

FOREIGN = {
    "html200": Answer(200, b"<!DOCTYPE html>\n<html lang=en>\n<title>Sign in</title>\n</html>\n", HTML_TYPE),
    "garbage200": Answer(200, b"{"),
}
"""Answers with status 200 that something between the model and the client wrote."""


def refusal(kind: str, fault: Fault, where: Route, key: str, settings: Settings) -> Answer:
    """Build the answer of a fault whose kind is one of REFUSAL_KINDS; `key` is the caller's."""
    if kind in _DIMENSIONS:
        return _over_quota(_DIMENSIONS[kind], fault, where, settings)
    if kind == "429-limit0":
        return bodies.no_quota(where.model, _WAIT if fault.seconds is None else fault.seconds, settings.tier)
    if kind == "403-echo":
        return bodies.suspended(key)
    return not_found(where) if kind == "404-model" else _PLAIN[kind]


def not_found(where: Route) -> Answer:
    """Build the 404 for the model of a path."""
    if where.cloud:
        return bodies.publisher_model_not_found(where.name)
    return bodies.model_not_found(where.name, where.version, where.method)


def bend(kind: str, made: Said, limit: int | None) -> Said:
    """Return what an odd kind makes of a good reply; kinds that only change the pace change nothing."""
    text = made.text or ""
    if kind in _TEXTS:
        return replace(made, text=_TEXTS[kind](text))
    if kind.startswith("finish-"):
        return _finished(kind.removeprefix("finish-").upper(), made, text)
    if kind == "thinking":
        return replace(made, text=None, finish="MAX_TOKENS", output=0, thoughts=limit or _THOUGHTS)
    if kind in ("empty", "nocandidates", "blocked"):
        return replace(
            made,
            text=None,
            output=0,
            finish="STOP" if kind == "empty" else None,
            blocked="PROHIBITED_CONTENT" if kind == "blocked" else None,
        )
    return made


def _over_quota(dimension: Dimension, fault: Fault, where: Route, settings: Settings) -> Answer:
    limits = {"requests": settings.rpm, "tokens": settings.tpm, "day": settings.rpd}
    wait = _WAIT if fault.seconds is None else fault.seconds
    return bodies.quota_exceeded(
        [Violation(dimension, limits[dimension] or 15, wait)], where.model, settings.tier
    )


def _finished(reason: str, made: Said, text: str) -> Said:
    if reason == "STOP":
        return made
    if reason == "MAX_TOKENS":
        return replace(made, text=text[: len(text) // 2] or None, finish=reason)
    return replace(made, text=None, output=0, finish=reason)


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


_TEXTS = {"badjson": _broken, "wrongtype": _mistyped, "fenced": lambda text: f"```json\n{text}\n```"}
