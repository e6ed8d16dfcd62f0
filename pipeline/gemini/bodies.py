"""Reads error bodies in any envelope: arrays, errors inside strings, mangled keys, HTML, cut text.

Fields are found by name wherever they stand, because wrappers and gateways move them; sentences
are compared with their blanks joined, because the server doubles blanks at random.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LONGEST = 500

_LENIENT = json.JSONDecoder(strict=False)  # `json.loads` would make a new one for each reply
_LONGEST_WAIT_S = 7 * 86_400.0

_PER_UNIT = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_SPAN = r"(?:\d+(?:\.\d+)?(?:ms|us|µs|ns|h|m|s))+"
_STEP = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s)")
_PROSE_DELAY = re.compile(rf"(?:retry|again) in ({_SPAN}|\d+(?:\.\d+)? ?s)")
_FIELD_DELAY = re.compile(rf"Delay\W{{1,6}}({_SPAN})")
_QUOTA_ID = re.compile(r"quotaId\W{1,6}([\w-]+)")
_QUOTA_VALUE = re.compile(r"quotaValue\W{1,6}(\d{1,15})")

_SECRETS = (
    (re.compile(r"AIza[\w-]{8,}"), "***"),
    (re.compile(r"\bAQ\.[\w.-]{4,}"), "***"),
    (re.compile(r"\bya29\.[\w.-]+"), "***"),
    (re.compile(r"(?i)\b(api[ _-]?key['\"]?\s?[:=]\s?['\"]?)[^\s'\"]{4,}"), r"\1***"),
    (re.compile(r"(?i)\b(bearer\s+)[^\s'\"]{4,}"), r"\1***"),
    (re.compile(r"(?i)([?&]key=)[^\s&'\"]+"), r"\1***"),
)
_SHORTEST_SECRET = 6  # shorter ones are dummies, and replacing them would spoil every sentence


@dataclass(frozen=True, slots=True)
class Violation:
    """One quota that a 429 reports; `value` is the limit where the body states it."""

    quota_id: str
    value: int | None


@dataclass(frozen=True, slots=True)
class Fault:
    """What an error body says.

    `message` is for people; `prose` holds every sentence and code in lower case, for rules; `delay` is the
    wait in seconds that the server asks for.
    """

    message: str
    prose: str
    violations: tuple[Violation, ...]
    delay: float | None


def fault(body: str) -> Fault:
    """Read an error body of any shape; never raises."""
    nodes = list(_nodes(loaded(body)))
    sentences = [joined(text) for node in nodes for text in _sentences(node)] or [_plain(body)]
    prose = " ".join(sentences).lower()
    return Fault(
        message=next((text for text in sentences if not text.startswith("$")), sentences[0]),
        prose=f"{prose} {' '.join(_codes(nodes))}",
        violations=tuple(_violations(nodes)) or tuple(_loose_violations(body)),
        delay=_delay(prose, nodes, body),
    )


def loaded(body: str) -> object:
    """Parse JSON, with line breaks in strings allowed; None where it is not JSON."""
    try:
        return _LENIENT.decode(body)
    except (ValueError, RecursionError):  # also integers of too many digits, and too deep nesting
        return None


def joined(text: str) -> str:
    """Return one line: every run of blanks, line breaks and control characters becomes one blank."""
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace keys and tokens, known and known by their look: the server echoes them in its errors."""
    for secret in secrets:
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    for pattern, stars in _SECRETS:
        text = pattern.sub(stars, text)
    return text


def line(text: str, secrets: Iterable[str] = ()) -> str:
    """Return a message as it may be shown and stored: one line, no secrets, valid Unicode, not too long."""
    clean = redacted(joined(valid(text)), secrets)
    return clean if len(clean) <= LONGEST else f"{clean[: LONGEST - 1]}…"


def valid(text: str) -> str:
    """Replace lone surrogates, which JSON can carry and nothing can store."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def seconds(span: str) -> float | None:
    """Parse a duration as Go and Protobuf print it (`38.29s`, `10h17m5.7s`, `373.8ms`)."""
    if not re.fullmatch(_SPAN, span):
        return None
    total = sum(float(number) * _PER_UNIT[unit] for number, unit in _STEP.findall(span))
    return total if total <= _LONGEST_WAIT_S else None


def _nodes(value: object) -> Iterator[dict[str, object]]:
    """Yield every object in the body, outer ones first, also of JSON that stands in a string."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str) and node.lstrip()[:1] in ("{", "["):
            node = loaded(node)
        if isinstance(node, dict):
            named = {str(key).strip(): child for key, child in node.items()}
            yield named
            stack.extend(reversed(list(named.values())))
        elif isinstance(node, list):
            stack.extend(reversed(node))


def _sentences(node: dict[str, object]) -> Iterator[str]:
    """Yield what the object says to people, unless that is JSON again."""
    for name in ("message", "description", "detail", "error"):
        text = node.get(name)
        if isinstance(text, str) and text.strip() and not isinstance(loaded(text), dict | list):
            yield text


def _codes(nodes: list[dict[str, object]]) -> Iterator[str]:
    """Yield reasons, statuses and fields as `name:value`, which no sentence contains by chance."""
    for node in nodes:
        for name in ("reason", "status", "code", "type", "field"):
            code = node.get(name)
            if isinstance(code, str):
                yield f"{name}:{joined(code).lower()}"


def _violations(nodes: list[dict[str, object]]) -> Iterator[Violation]:
    for node in nodes:
        quota_id = node.get("quotaId")
        if isinstance(quota_id, str):
            found = re.fullmatch(r"\d{1,15}", str(node.get("quotaValue", "")).strip())
            yield Violation(valid(quota_id), int(found[0]) if found else None)


def _loose_violations(body: str) -> Iterator[Violation]:
    """Find quotas in text that is not JSON, such as an error that some program printed."""
    values = _QUOTA_VALUE.findall(body)
    ids = _QUOTA_ID.findall(body)
    for place, quota_id in enumerate(ids):
        yield Violation(quota_id, int(values[place]) if len(values) == len(ids) else None)


def _delay(prose: str, nodes: list[dict[str, object]], body: str) -> float | None:
    """Return the wait: exact from the sentence, else from a field, where whole seconds are floored."""
    told = _PROSE_DELAY.search(prose)
    if told:
        return seconds(told[1].replace(" ", ""))
    fields = [str(v) for node in nodes for name, v in node.items() if name.endswith("Delay")]
    for span in [*fields, *_FIELD_DELAY.findall(body)]:
        wait = seconds(span)
        if wait is not None:
            return wait + 1.0 if wait.is_integer() else wait
    return None


def _plain(body: str) -> str:
    """Return the words of a text or HTML body."""
    words = joined(re.sub(r"(?is)<(script|style)\b.*?</\1>|<[^>]{0,500}>", " ", body[:20_000]))
    return "" if words in ("null", "{}", "[]") else words
