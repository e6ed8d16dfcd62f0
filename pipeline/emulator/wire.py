"""Reads requests as strictly as the API: known fields only, both spellings, and refuses the rest."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from pydantic_core import from_json

from pipeline.emulator.bodies import Answer, invalid, unknown_name
from pipeline.emulator.tokens import MEDIA_TOKENS, count_tokens

_PATH = re.compile(
    r"/(?P<version>v1|v1beta|v1beta1)/"
    r"(?P<name>(?P<cloud>projects/[^/]+/locations/[^/]+/publishers/google/)?models/(?P<model>[^/:]+))"
    r":(?P<method>generateContent|countTokens)"
)

Known = Mapping[str, str]


def known(names: str) -> dict[str, str]:
    """Map both spellings of each name to its camelCase one."""
    spellings = {}
    for name in names.split():
        spellings[name] = name
        spellings[re.sub(r"(?<=.)([A-Z])", lambda m: "_" + m[1].lower(), name)] = name
    return spellings


MOST_INPUT = 1_048_576
"""Tokens of one request."""

TIERS = ("flex", "standard", "priority")

_REQUEST = known(
    "contents systemInstruction generationConfig safetySettings tools toolConfig cachedContent model"
    " serviceTier labels store"
)
_COUNT = _REQUEST | known("generateContentRequest")
_CONTENT = known("role parts")
_PART = known(
    "text inlineData fileData thought thoughtSignature functionCall functionResponse executableCode"
    " codeExecutionResult videoMetadata mediaResolution partMetadata"
)


class Refused(Exception):  # noqa: N818
    """The request gets `answer`, and no other part of the emulator has to look at it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Route:
    """What a path asks for: `name` is the model's resource name, `cloud` the Vertex flavour."""

    version: str
    name: str
    model: str
    method: str
    cloud: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A request's contents: all its text, the text of the last user turn, and its settings as sent.

    `cache` names the context cache that it builds on, `cached` counts the tokens that come from one, `fixed`
    says that it brings instructions or tools of its own. `tier` is the service tier that it wants.
    """

    prompt: str
    last: str
    media: int
    tokens: int
    ends_with_model: bool
    config: object
    tier: str = "standard"
    cache: str = ""
    cached: int = 0
    fixed: bool = False

    @property
    def details(self) -> list[dict[str, Any]]:
        """The tokens by modality, without zeros."""
        image = self.media * MEDIA_TOKENS
        counts = (("TEXT", self.tokens - image), ("IMAGE", image))
        return [{"modality": name, "tokenCount": count} for name, count in counts if count]


@lru_cache(maxsize=256)
def route(path: str) -> Route | None:
    """Read a path; None for what the API does not offer."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    return Route(match["version"], match["name"], match["model"], match["method"], match["cloud"] is not None)


def fields(value: object, names: Known, at: str) -> dict[str, Any]:
    """Return an object with its keys in camelCase; Refused for an unknown key or another type."""
    if not isinstance(value, dict):
        raise Refused(invalid(f"Invalid value at '{at}', expected an object"))
    try:
        return {names[key]: child for key, child in value.items()}
    except KeyError as unknown:
        raise Refused(unknown_name(str(unknown.args[0]), at)) from None


def read_call(body: bytes, *, counting: bool = False) -> Call:
    """Read the body of generateContent, or of countTokens where `counting`."""
    try:
        loaded = from_json(body)
    except ValueError as broken:
        raise Refused(invalid(f"Invalid JSON payload received. {broken}")) from None
    return read_request(loaded, counting=counting)


def read_request(loaded: object, *, counting: bool = False) -> Call:
    """Read a body that is JSON already."""
    request = fields(loaded, _COUNT if counting else _REQUEST, "")
    if counting and "generateContentRequest" in request:
        request = fields(request["generateContentRequest"], _REQUEST, "generate_content_request")
    return _call(request)


def _call(request: dict[str, Any]) -> Call:
    texts: list[str] = []
    media = 0
    if request.get("systemInstruction") is not None:
        text, media = _content(request["systemInstruction"], "system_instruction")[1:]
        texts.append(text)
    last, role = "", ""
    for place, content in enumerate(_listed(request.get("contents"))):
        role, text, files = _content(content, f"contents[{place}]")
        texts.append(text)
        media += files
        if role == "user":
            last = text
    if not role:
        raise Refused(invalid("* GenerateContentRequest.contents: contents is not specified\n"))
    config = request.get("generationConfig")
    tokens = sum(map(count_tokens, texts)) + media * MEDIA_TOKENS
    prompt = texts[0] if len(texts) == 1 else "\n".join(texts)
    fixed = any(request.get(name) for name in ("systemInstruction", "tools", "toolConfig"))
    return Call(
        prompt,
        last,
        media,
        tokens,
        role == "model",
        {} if config is None else config,
        tier=_tier(request.get("serviceTier")),
        cache=str(request.get("cachedContent") or ""),
        fixed=fixed,
    )


def _tier(value: object) -> str:
    """Return the service tier that a request asks for."""
    if value is None:
        return "standard"
    tier = str(value).lower().removeprefix("service_tier_")
    if tier == "unspecified":
        return "standard"
    if tier not in TIERS:
        kind = "type.googleapis.com/google.ai.generativelanguage.v1beta.ServiceTier"
        raise Refused(invalid(f"Invalid value at 'service_tier' ({kind}), \"{value}\""))
    return tier


def digest(model: str, prompt: str, config: bytes) -> bytes:
    """Return what is equal for requests that must get the same answer."""
    content = f"{model}\n{prompt}\n".encode("utf-8", "surrogatepass") + config
    return blake2b(content, digest_size=16).digest()


def _listed(value: object) -> Iterable[object]:
    """Return a repeated field; one object may stand for a list of one, as in the API's own samples."""
    if value is None:
        return ()
    return value if isinstance(value, list) else (value,)


def _content(value: object, at: str) -> tuple[str, str, int]:
    """Return a content's role, its text, and how many parts are not text."""
    content = fields(value, _CONTENT, at)
    role = content.get("role", "user")
    if role not in ("user", "model", "system", "function"):
        raise Refused(invalid("Please use a valid role: user, model."))
    texts, media = [], 0
    for place, part in enumerate(_listed(content.get("parts"))):
        part_fields = fields(part, _PART, f"{at}.parts[{place}]")
        text = part_fields.get("text")
        if isinstance(text, str):
            texts.append(text)
        elif text is not None:
            raise Refused(invalid(f"Invalid value at '{at}.parts[{place}]' (text), {text}"))
        else:
            media += 1
    if not texts and not media:
        raise Refused(invalid(f"* GenerateContentRequest.{at}.parts: contents.parts must not be empty.\n"))
    return role, "".join(texts), media
