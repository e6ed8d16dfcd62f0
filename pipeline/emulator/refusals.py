"""The answers of scripted faults that refuse: 4xx, 5xx and each kind of 429."""

from collections.abc import Callable

from pipeline.emulator.bodies import (
    CACHE_AND_SYSTEM,
    INVALID,
    PREPAY,
    SPEND_CAP,
    SPEND_LIMIT,
    TOO_LONG,
    TOO_MANY_STATES,
    VERTEX_EXHAUSTED,
    Answer,
    bad_key,
    error,
    exhausted,
    invalid,
    no_cache,
    no_quota,
    page,
    quota_exceeded,
    suspended,
)
from pipeline.emulator.faults import Fault
from pipeline.emulator.quota import Dimension, Violation
from pipeline.emulator.settings import Settings
from pipeline.emulator.wire import Route

_WAIT = 1.310482916  # seconds, where a fault does not say; the server's own are anywhere below a minute
_LIMITS: dict[str, dict[Dimension, int]] = {
    "free": {"requests": 15, "tokens": 250_000, "day": 500},
    "paid": {"requests": 4_000, "tokens": 4_000_000, "day": 150_000},
}
_DIMENSIONS: dict[str, Dimension] = {"429-minute": "requests", "429-tokens": "tokens", "429-day": "day"}
_OVERLOADED = (
    "This model is currently experiencing high demand. Spikes in demand are usually temporary. Please try"
    " again later."
)
_INTERNAL = (
    "An internal error has occurred. Please retry or report in"
    " https://developers.generativeai.google/guide/troubleshooting"
)

_PLAIN: dict[str, Callable[[], Answer]] = {
    "429-bare": lambda: exhausted("Resource has been exhausted (e.g. check quota)."),
    "429-vertex": lambda: exhausted(VERTEX_EXHAUSTED),
    "429-prepay": lambda: exhausted(PREPAY),
    "429-spendcap": lambda: exhausted(SPEND_CAP),
    "429-spend": lambda: exhausted(SPEND_LIMIT),
    "402": lambda: error(402, "PAYMENT_REQUIRED", PREPAY),
    "400-key": bad_key,
    "400-argument": lambda: invalid(INVALID),
    "400-schema": lambda: invalid(TOO_MANY_STATES),
    "400-toolong": lambda: invalid(TOO_LONG),
    "400-location": lambda: error(
        400, "FAILED_PRECONDITION", "User location is not supported for the API use."
    ),
    "400-cache": lambda: invalid(CACHE_AND_SYSTEM),
    "403-cache": no_cache,
    "404-html": lambda: page(404, "Error 404 (Not Found)"),
    "408": lambda: page(408, "Error 408 (Request Timeout)"),
    "499": lambda: error(499, "CANCELLED", "The operation was cancelled."),
    "500": lambda: error(500, "INTERNAL", _INTERNAL),
    "502-html": lambda: page(502, "Error 502 (Server Error)"),
    "503": lambda: error(503, "UNAVAILABLE", _OVERLOADED),
    "503-shed": lambda: error(503, "UNAVAILABLE", _OVERLOADED),
    "504": lambda: error(504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
}


def refusal(fault: Fault, route: Route, key: str, settings: Settings) -> Answer:
    """Build the answer of a fault whose kind is in `REFUSAL_KINDS`; `key` is what the caller sent."""
    if fault.kind in _PLAIN:
        return _PLAIN[fault.kind]()
    if fault.kind == "403-echo":
        return suspended(key)
    if fault.kind == "404-model":
        return _closed(route)
    wait = _WAIT if fault.seconds is None else fault.seconds
    if fault.kind == "429-limit0":
        return no_quota(route.model, wait, settings.tier)
    dimension = _DIMENSIONS[fault.kind]
    limit = {"requests": settings.rpm, "tokens": settings.tpm, "day": settings.rpd}[dimension]
    usual = _LIMITS[settings.tier][dimension]
    return quota_exceeded([Violation(dimension, limit or usual, wait)], route.model, settings.tier)


def _closed(route: Route) -> Answer:
    message = (
        f"This model {route.name} is no longer available to new users. Please update your code to use a newer"
        " model for the latest features and improvements."
    )
    return error(404, "NOT_FOUND", message)
