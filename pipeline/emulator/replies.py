"""What the model says to a request, and the 200 body that carries it."""

from dataclasses import dataclass, replace
from typing import Any

from pydantic_core import to_json

from pipeline.emulator.finders import told
from pipeline.emulator.generation import Generation
from pipeline.emulator.subject import Subject
from pipeline.emulator.tokens import count_tokens
from pipeline.emulator.wire import Call, Route


@dataclass(frozen=True, slots=True)
class Said:
    """What the model made of a request, with its tokens; `details` are the prompt's by modality.

    `text` is None where nothing can be seen, `finish` is None where there is no candidate at all, and
    `blocked` is why the prompt was not read.
    """

    text: str | None
    finish: str | None
    prompt: int
    output: int
    details: list[dict[str, Any]]
    thoughts: int = 0
    blocked: str | None = None
    cached: int = 0


def say(call: Call, generation: Generation) -> Said:
    """Answer a request: JSON where it has a schema, else a sentence; cut off at its cap."""
    subject = Subject(call.last, generation.seed)
    fill = generation.fill
    text = told(subject) if fill is None else to_json(fill(subject, True)).decode()
    made = Said(
        text, "STOP", call.tokens, count_tokens(text), call.details, generation.thoughts, cached=call.cached
    )
    return made if generation.limit is None else _capped(made, text, generation.limit)


def _capped(made: Said, text: str, limit: int) -> Said:
    """Cut the text where thoughts and text together pass the cap, thoughts first."""
    if made.output + made.thoughts <= limit:
        return made
    thoughts = min(made.thoughts, limit)
    room = limit - thoughts
    kept = text[: len(text) * room // made.output]
    return replace(made, text=kept or None, finish="MAX_TOKENS", output=room, thoughts=thoughts)


def body(made: Said, where: Route, name: str, tier: str = "standard") -> bytes:
    """Write the body of a 200; `name` is the response's id."""
    return to_json(reply(made, where, name, tier))


def reply(made: Said, where: Route, name: str, tier: str) -> dict[str, Any]:
    """Return the body of a 200; `tier` is how the usage names the served one."""
    told: dict[str, Any] = {}
    if made.finish is not None:
        content: dict[str, Any] = {"role": "model"}
        if made.text is not None:
            content = {"parts": [{"text": made.text}], "role": "model"}
        told["candidates"] = [{"content": content, "finishReason": made.finish, "index": 0}]
    if made.blocked is not None:
        told["promptFeedback"] = {"blockReason": made.blocked}
    told["usageMetadata"] = usage(made, where, tier)
    told["modelVersion"] = where.model
    told["responseId"] = name
    return told


def usage(made: Said, where: Route, tier: str) -> dict[str, Any]:
    """Write the token counts as the API does: a count of zero is left out."""
    counts: dict[str, Any] = {
        "promptTokenCount": made.prompt,
        "cachedContentTokenCount": made.cached,
        "candidatesTokenCount": made.output,
        "totalTokenCount": made.prompt + made.output + made.thoughts,
        "thoughtsTokenCount": made.thoughts,
    }
    counts = {field: count for field, count in counts.items() if count}
    counts["promptTokensDetails"] = made.details
    if made.cached:
        counts["cacheTokensDetails"] = [{"modality": "TEXT", "tokenCount": made.cached}]
    return counts | ({"trafficType": "ON_DEMAND"} if where.cloud else {"serviceTier": tier})
