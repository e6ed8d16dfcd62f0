"""The error bodies that the API sends, byte for byte in its shapes; wording as of autumn 2026."""

from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from pipeline.emulator.quota import Dimension, Violation
from pipeline.emulator.settings import Tier

JSON_TYPE = b"application/json; charset=UTF-8"
HTML_TYPE = b"text/html; charset=UTF-8"

_LIMITS_PAGE = "https://ai.google.dev/gemini-api/docs/rate-limits"
_QUOTA_PROSE = (
    "You exceeded your current quota, please check your plan and billing details. For more information on"
    f" this error, head to: {_LIMITS_PAGE}. To monitor your current usage, head to:"
    " https://ai.dev/rate-limit. "
)
_SERVICE = "generativelanguage.googleapis.com"
_TYPE = "type.googleapis.com/google.rpc."
_HELP = {
    "@type": _TYPE + "Help",
    "links": [{"description": "Learn more about Gemini API quotas", "url": _LIMITS_PAGE}],
}

_QUOTA_NAMES: dict[Tier, dict[Dimension, tuple[str, str]]] = {
    "free": {
        "requests": (
            "generate_content_free_tier_requests",
            "GenerateRequestsPerMinutePerProjectPerModel-FreeTier",
        ),
        "tokens": (
            "generate_content_free_tier_input_token_count",
            "GenerateContentInputTokensPerModelPerMinute-FreeTier",
        ),
        "day": ("generate_content_free_tier_requests", "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    },
    "paid": {
        "requests": ("generate_requests_per_model", "GenerateRequestsPerMinutePerProjectPerModel"),
        "tokens": (
            "generate_content_paid_tier_input_token_count",
            "GenerateContentPaidTierInputTokensPerModelPerMinute",
        ),
        "day": ("generate_requests_per_model_per_day", "GenerateRequestsPerDayPerProjectPerModel"),
    },
}

TOO_MANY_STATES = (
    "The specified schema produces a constraint that has too many states for serving.  Typical causes of this"
    " error are schemas with lots of text (for example, very long property or enum names), schemas with long"
    " array length limits (especially when nested), or schemas using complex value matchers (for example,"
    " integers or numbers with minimum/maximum bounds or strings with complex formats like date-time)"
)
INVALID = "Request contains an invalid argument."
UNREGISTERED = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use API Key or"
    " other form of API consumer identity to call this API."
)
TOO_LONG = "The input token count exceeds the maximum number of tokens allowed 1048576."
VERTEX_EXHAUSTED = (
    "Resource exhausted. Please try again later. Please refer to"
    " https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details."
)
PREPAY = (
    "Your prepayment credits are depleted. Please go to AI Studio at https://ai.studio/projects to manage"
    " your project and billing."
)
SPEND_CAP = (
    "Your project has exceeded its monthly spending cap. Please go to AI Studio at https://ai.studio/spend to"
    " manage your project spend cap."
)
# Documented as 429 RESOURCE_EXHAUSTED; nobody has published the body, so the wording is ours.
SPEND_LIMIT = (
    "You exceeded the spend limit that your usage tier has for any ten minutes. Please try again later."
)
CACHE_AND_SYSTEM = (
    "CachedContent can not be used with GenerateContent request setting system_instruction, tools or"
    " tool_config.\n\nProposed fix: move those values to CachedContent from GenerateContent request."
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer: status, body, its content type, and headers besides."""

    status: int
    body: bytes
    content_type: bytes = JSON_TYPE
    headers: tuple[tuple[bytes, bytes], ...] = ()


def error(status: int, name: str, message: str, *details: dict[str, Any]) -> Answer:
    """Build the usual envelope; `name` is the gRPC status, `details` are typed messages."""
    inner: dict[str, Any] = {"code": status, "message": message, "status": name}
    if details:
        inner["details"] = list(details)
    return Answer(status, to_json({"error": inner}))


def invalid(message: str) -> Answer:
    """Build a plain 400 INVALID_ARGUMENT."""
    return error(400, "INVALID_ARGUMENT", message)


def unknown_name(name: str, at: str) -> Answer:
    """Build the 400 for a field that the request message does not have; `at` is empty at the top."""
    place = f" at '{at}'" if at else ""
    message = f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.'
    violation = {"description": message} | ({"field": at} if at else {})
    return error(
        400, "INVALID_ARGUMENT", message, {"@type": _TYPE + "BadRequest", "fieldViolations": [violation]}
    )


def bad_key() -> Answer:
    """Build the 400 for an API key that does not exist."""
    message = "API key not valid. Please pass a valid API key."
    return error(
        400,
        "INVALID_ARGUMENT",
        message,
        _error_info("API_KEY_INVALID"),
        {"@type": _TYPE + "LocalizedMessage", "locale": "en-US", "message": message},
    )


def suspended(key: str) -> Answer:
    """Build the 403 that repeats the caller's key in its text, as the real one does."""
    consumer = f"api_key:{key}"
    info = _error_info("CONSUMER_SUSPENDED", consumer="projects/000000000000", containerInfo=consumer)
    return error(
        403, "PERMISSION_DENIED", f"Permission denied: Consumer '{consumer}' has been suspended.", info
    )


def no_bearer() -> Answer:
    """Build the 401 of the cloud path without an access token."""
    message = (
        "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie"
        " or other valid authentication credential."
    )
    info = {
        "@type": _TYPE + "ErrorInfo",
        "reason": "CREDENTIALS_MISSING",
        "domain": "googleapis.com",
        "metadata": {"service": "aiplatform.googleapis.com"},
    }
    return error(401, "UNAUTHENTICATED", message, info)


def quota_exceeded(violations: list[Violation], model: str, tier: Tier) -> Answer:
    """Build the 429 that lists each violated quota: the exact delay in the prose, its floor beside."""
    if tier == "paid" and [v.dimension for v in violations] == ["day"]:
        return _paid_day()
    wait = max(v.wait for v in violations)
    lines, entries = [], []
    for violation in violations:
        metric, quota_id = _QUOTA_NAMES[tier][violation.dimension]
        lines.append(
            f"\n* Quota exceeded for metric: {_SERVICE}/{metric}, limit: {violation.limit}, model: {model}"
        )
        entries.append(
            {
                "quotaMetric": f"{_SERVICE}/{metric}",
                "quotaId": quota_id,
                "quotaDimensions": {"location": "global", "model": model},
                "quotaValue": str(violation.limit),
            }
        )
    return _exhausted("".join(lines), entries, wait)


def no_quota(model: str, wait: float, tier: Tier) -> Answer:
    """Build the 429 of a model for which the tier has no quota: several violations, none with a value."""
    lines, entries = [], []
    for dimension in ("tokens", "requests", "day"):
        metric, quota_id = _QUOTA_NAMES[tier][dimension]
        lines.append(f"\n* Quota exceeded for metric: {_SERVICE}/{metric}, limit: 0, model: {model}")
        entries.append(
            {
                "quotaMetric": f"{_SERVICE}/{metric}",
                "quotaId": quota_id,
                "quotaDimensions": {"model": model, "location": "global"},
            }
        )
    return _exhausted("".join(lines), entries, wait)


def exhausted(message: str) -> Answer:
    """Build a 429 without any detail."""
    return error(429, "RESOURCE_EXHAUSTED", message)


def exhausted_with_help() -> Answer:
    """Build the 429 of batches and storage: a sentence that names no quota, and a link."""
    return error(429, "RESOURCE_EXHAUSTED", _QUOTA_PROSE, _HELP)


def no_file(name: str) -> Answer:
    """Build the 403 of a file that is not there; the API does not say if it is anybody's."""
    message = (
        f"You do not have permission to access the File {name.removeprefix('files/')} or it may not exist."
    )
    return error(403, "PERMISSION_DENIED", message)


def not_there() -> Answer:
    """Build the 404 of a resource that does not exist."""
    return error(404, "NOT_FOUND", "Requested entity was not found.")


def no_cache() -> Answer:
    """Build the 403 of a context cache that is not there or has expired."""
    return error(403, "PERMISSION_DENIED", "CachedContent not found (or permission denied)")


def no_cache_on_free_tier(model: str, tokens: int) -> Answer:
    """Build the 429 for any context cache on the free tier."""
    message = (
        f"TotalCachedContentStorageTokensPerModelFreeTier limit exceeded for model {model}: limit=0,"
        f" requested={tokens}"
    )
    return error(429, "RESOURCE_EXHAUSTED", message)


def cache_too_small(tokens: int, least: int) -> Answer:
    """Build the 400 for a context cache below its minimum."""
    return invalid(f"Cached content is too small. total_token_count={tokens}, min_total_token_count={least}")


def other_model(asked: str, kept: str) -> str:
    """Return what is said where a context cache belongs to another model."""
    return (
        f"Model used by GenerateContent request (models/{asked}) and CachedContent (models/{kept}) has to be"
        " the same."
    )


def too_large(limit: int) -> Answer:
    """Build the 400 for a body or a file above so many bytes."""
    return invalid(f"Request payload size exceeds the limit: {limit} bytes.")


def model_not_found(path: str, version: str, method: str) -> Answer:
    """Build the 404 of a model id that the API does not serve; `path` is `models/ID`."""
    message = (
        f"{path} is not found for API version {version}, or is not supported for {method}. Call"
        " ModelService.ListModels to see the list of available models and their supported methods."
    )
    return error(404, "NOT_FOUND", message)


def publisher_model_not_found(path: str) -> Answer:
    """Build the 404 of the cloud path."""
    message = (
        f"Publisher Model `{path}` was not found or your project does not have access to it. Please ensure"
        " you are using a valid model version."
    )
    return error(404, "NOT_FOUND", message)


def page(status: int, title: str) -> Answer:
    """Build the HTML page of a front end or proxy."""
    text = (
        f"<!DOCTYPE html>\n<html lang=en>\n<title>{title}</title>\n"
        f"<p><b>{status}.</b> <ins>{title}</ins>\n</html>\n"
    )
    return Answer(status, text.encode(), HTML_TYPE)


def duration(seconds: float) -> str:
    """Write seconds as the prose of a 429 does: `38.29s`, `1m5.5s`, `10h17m5.72s`, `373.8ms`."""
    if seconds < 1:
        return f"{_short(f'{seconds * 1000:.6f}')}ms"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{_short(f'{rest:.9f}')}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _short(number: str) -> str:
    return number.rstrip("0").rstrip(".")


def _exhausted(lines: str, entries: list[dict[str, Any]], wait: float) -> Answer:
    return error(
        429,
        "RESOURCE_EXHAUSTED",
        f"{_QUOTA_PROSE}{lines}\nPlease retry in {duration(wait)}.",
        _HELP,
        {"@type": _TYPE + "QuotaFailure", "violations": entries},
        {"@type": _TYPE + "RetryInfo", "retryDelay": f"{int(wait)}s"},
    )


def _paid_day() -> Answer:
    """Build the daily 429 of a paid tier: recorded with a limit of 0, no value and no delay."""
    metric, quota_id = _QUOTA_NAMES["paid"]["day"]
    return error(
        429,
        "RESOURCE_EXHAUSTED",
        f"{_QUOTA_PROSE}\n* Quota exceeded for metric: {_SERVICE}/{metric}, limit: 0",
        _HELP,
        {
            "@type": _TYPE + "QuotaFailure",
            "violations": [{"quotaMetric": f"{_SERVICE}/{metric}", "quotaId": quota_id}],
        },
    )


def _error_info(reason: str, **metadata: str) -> dict[str, Any]:
    return {
        "@type": _TYPE + "ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {"service": _SERVICE} | metadata,
    }
