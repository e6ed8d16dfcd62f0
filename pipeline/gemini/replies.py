"""Reads the body of a 200 into a Reply: text, finish reason, tokens, and who served it."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from pipeline.flow import Failure, FailureKind, Reply, Usage
from pipeline.gemini.bodies import line, loaded, valid

_SIGNS = frozenset({"candidates", "promptFeedback", "usageMetadata"})
_TIER_HEADER = "x-gemini-service-tier"
EMULATOR_HEADER = "x-rowmill-emulator"
EMULATOR = "emulator"  # as the source of what it has sent
_PROMPT_DETAILS = ("promptTokensDetails", "toolUsePromptTokensDetails")
_MOST_TOKENS = 2**31 - 1  # the API's counts are int32
_LONGEST_NAME = 200

_T = TypeVar("_T")


def reply_of_body(
    body: str,
    headers: Mapping[str, str],
    *,
    seconds: float,
    at: float = 0.0,
    secrets: tuple[str, ...] = (),
) -> Reply | Failure:
    """Read the body of a 200; a Failure GARBLED where it is not the API's JSON. Never raises.

    An array is read as the chunks of one answer. Output is billed as `output + thoughts`, which are disjoint;
    tokens of tool results count as prompt. `at` is the Unix time at which the body came.
    """
    chunks = _chunks(loaded(body))
    if not chunks:
        words = body.strip()[:20_000] or "an empty body"
        return Failure(FailureKind.GARBLED, line(f"the answer is not the API's JSON: {words}", secrets))
    known = {name.lower(): value for name, value in headers.items()}
    counts = _last([_object(chunk.get("usageMetadata")) for chunk in chunks], {})
    candidates = [_candidate(chunk) for chunk in chunks]
    blocks = [_text(_object(chunk.get("promptFeedback")).get("blockReason")) for chunk in chunks]
    return Reply(
        text="".join(_visible(candidate) for candidate in candidates),
        finish=_last([_text(candidate.get("finishReason")) for candidate in candidates], ""),
        block=_last(blocks, ""),
        usage=usage_of(counts),
        model=_last([_text(chunk.get("modelVersion")) for chunk in chunks], "").removeprefix("models/"),
        tier=_tier(known.get(_TIER_HEADER) or _text(counts.get("serviceTier"))),
        seconds=seconds,
        source=EMULATOR if EMULATOR_HEADER in known else "api",
        at=at,
    )


def usage_of(counts: Mapping[str, object]) -> Usage:
    """Read `usageMetadata`; a count that is absent is 0.

    Some models count thoughts among the candidates. Then the total is smaller than the sum of its parts,
    and the total is right: what it leaves for thoughts and candidates is what is billed.
    """
    prompt = _count(counts.get("promptTokenCount")) + _count(counts.get("toolUsePromptTokenCount"))
    thoughts = _count(counts.get("thoughtsTokenCount"))
    output = _count(counts.get("candidatesTokenCount"))
    total = _count(counts.get("totalTokenCount"))
    if total and total >= prompt + thoughts:
        output = total - prompt - thoughts
    cached = min(_count(counts.get("cachedContentTokenCount")), prompt)
    audio = min(sum(_sound(counts.get(name)) for name in _PROMPT_DETAILS), prompt)
    return Usage(
        prompt=prompt,
        cached=cached,
        thoughts=thoughts,
        output=output,
        total=prompt + thoughts + output,
        audio=audio,
        cached_audio=min(_sound(counts.get("cacheTokensDetails")), audio, cached),
    )


def _sound(details: object) -> int:
    """Return the audio tokens of a list of counts by modality."""
    entries = [_object(entry) for entry in details] if isinstance(details, list) else []
    return sum(_count(entry.get("tokenCount")) for entry in entries if entry.get("modality") == "AUDIO")


def _chunks(value: object) -> list[Mapping[str, object]]:
    """Return the answer's objects; none where one of them is something else."""
    chunks = value if isinstance(value, list) else [value]
    objects: list[Mapping[str, object]] = [chunk for chunk in chunks if isinstance(chunk, dict)]
    whole = len(objects) == len(chunks) and not any(_SIGNS.isdisjoint(chunk) for chunk in objects)
    return objects if whole else []


def _candidate(chunk: Mapping[str, object]) -> Mapping[str, object]:
    candidates = chunk.get("candidates")
    return _object(candidates[0]) if isinstance(candidates, list) and candidates else {}


def _visible(candidate: Mapping[str, object]) -> str:
    """Join the text of the parts that are not thoughts."""
    parts = _object(candidate.get("content")).get("parts")
    objects = [_object(part) for part in parts] if isinstance(parts, list) else []
    texts = [part.get("text") for part in objects if not part.get("thought")]
    return valid("".join(text for text in texts if isinstance(text, str)))


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return valid(value)[:_LONGEST_NAME] if isinstance(value, str) else ""


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS:
        return value
    return 0


def _last(values: Sequence[_T], default: _T) -> _T:
    """Return the last value that is not empty."""
    return next((value for value in reversed(values) if value), default)


def _tier(name: str) -> str:
    return valid(name).lower().removeprefix("service_tier_")
