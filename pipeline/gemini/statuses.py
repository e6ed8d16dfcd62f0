"""Says what an HTTP error means, as a Failure.

The rules are tables: the first that fits decides. They look at statuses, codes and short phrases,
never at whole messages, whose wording changes several times a year.
"""

import re
from dataclasses import dataclass
from typing import Final

from pipeline.flow import Failure, FailureKind, Unsent
from pipeline.gemini.bodies import Fault, Violation, fault, line

Kind = FailureKind


@dataclass(frozen=True, slots=True)
class _Rule:
    """A phrase that means `kind` when the status is one of `statuses`."""

    kind: Kind
    statuses: frozenset[int]
    phrase: re.Pattern[str]


def _rule(kind: Kind, statuses: set[int], *phrases: str) -> _Rule:
    return _Rule(kind, frozenset(statuses), re.compile("|".join(phrases)))


_RULES: Final = (
    _rule(
        Kind.BILLING,
        {400, 403, 429},
        r"prepa(?:y|id)\w* (?:credit|balance)",
        r"spending cap",
        r"monthly spend",
        r"billing (?:\w+ ){0,4}(?:disabled|not enabled|not active|to be enabled)",
        r"enable billing",
        r"reason:billing_disabled",
        r":payment_required",
    ),
    _rule(
        Kind.KEY,
        {400},
        r"reason:api_key_\w+",
        r"api key (?:not|is not|expired|has expired|is invalid|invalid)",
    ),
    _rule(
        Kind.LOCATION,
        {400, 403},
        r"location is not supported",
        r"not (?:available|supported) in your (?:country|region)",
    ),
    _rule(Kind.CACHE, {403, 404}, r"cached ?content"),
    _rule(Kind.CACHE, {400}, r"cached? ?content.* (?:is|has) expired", r"cached ?content.* not found"),
    _rule(Kind.CONFIG, {400, 429}, r"cached ?content"),
    _rule(
        Kind.TOO_LONG,
        {400},
        r"token count",
        r"(?:number of|input) tokens (?:\w+ )*(?:exceed|allowed)",
        r"payload size exceeds",
    ),
    _rule(Kind.BLOCKED, {400}, r"responsible ai"),
    _rule(Kind.MODEL, {400}, r"unexpected model name"),
    _rule(Kind.SCHEMA, {400}, r"too many states", r"nesting depth", r"(?<!/)schema"),
    _rule(
        Kind.CONFIG,
        {400},
        r"unknown name",
        r"no such field",
        r"missing key",
        r"generation_?config",
        r"is not enabled for",
        r"not supported by (?:the|this) model",
        r"only supports text",
        r"response mime ?type",
        r"supported range",
        r"thinking",
    ),
)

_SPEND = re.compile(r"spend(?:ing)?[ _-](?:based[ _-])?(?:rate[ _-])?limit")

_OF_STATUS: Final = {
    400: Kind.BAD_REQUEST,
    401: Kind.KEY,
    402: Kind.BILLING,
    403: Kind.KEY,
    404: Kind.MODEL,
    407: Kind.CONNECTION,
    413: Kind.TOO_LONG,
    429: Kind.RATE_LIMITED,
    503: Kind.OVERLOADED,
    504: Kind.DEADLINE,
}

_NO_CAPACITY = re.compile(r"no capacity|out of capacity|capacity_exhausted")
_ZERO = re.compile(r"\blimit ?[:=] ?0(?![\d.])")
_METRIC = re.compile(r"metric: (\S+?),")
_PROSE_DAY = re.compile(r"per_day|code:quota_exceeded")


def failure_of_status(status: int, body: str, *, secrets: tuple[str, ...] = ()) -> Failure:
    """Classify an HTTP error by its status and its body, whatever shape the body has; never raises."""
    said = fault(body)
    kind, quota = _kind(status, said)
    words = said.message or "no message"
    return Failure(
        kind,
        line(f"HTTP {status}: {words}", secrets),
        retry_after=said.delay,
        quota_id=quota.quota_id if quota else None,
        quota_value=quota.value if quota else None,
        unsent=Unsent.PROXY if status == 407 else None,
    )


def _kind(status: int, said: Fault) -> tuple[Kind, Violation | None]:
    for rule in _RULES:
        if status in rule.statuses and rule.phrase.search(said.prose):
            return rule.kind, None
    if status == 429:
        return _quota(said)
    return _OF_STATUS.get(status, Kind.SERVER), None


def _quota(said: Fault) -> tuple[Kind, Violation | None]:
    """Tell which quota is used up. Decided by quota ids: a day's violation asks for a short wait, too.

    A limit of 0 means that the tier has no quota for the model. But a used-up *paid* day prints `limit: 0`
    as well, with its PerDay id alone and no value, where a tier without quota lists several ids.
    """
    days = [v for v in said.violations if "perday" in v.quota_id.lower()]
    first = next(iter(days or said.violations), None)
    zero = next((v for v in said.violations if v.value == 0), None)
    only_days = len(days) == len(said.violations) if said.violations else _all_metrics_daily(said.prose)
    if zero or (_ZERO.search(said.prose) and not only_days):
        return Kind.NO_QUOTA, zero or first
    if days or (not said.violations and _PROSE_DAY.search(said.prose)):
        return Kind.QUOTA_DAY, first
    if not said.violations and _NO_CAPACITY.search(said.prose):
        return Kind.OVERLOADED, None
    if not said.violations and _SPEND.search(said.prose):
        return Kind.SPEND_LIMITED, None
    return Kind.RATE_LIMITED, first


def _all_metrics_daily(prose: str) -> bool:
    metrics = _METRIC.findall(prose)
    return bool(metrics) and all("per_day" in metric for metric in metrics)
