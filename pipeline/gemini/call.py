"""One HTTP request through google-genai: by the short way beneath its public call, or by that call.

Both send the same bytes. What all requests of a run share is given to the SDK's client once, as `extra_body`,
and a call adds its text and its output limit. docs/decisions/0005 has the grounds and the figures.
"""

import functools
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from google import genai
from google.genai import types

Call: TypeAlias = Callable[[str, int | None], Awaitable[types.HttpResponse]]
"""Send a text with a limit on the answer's tokens; return the body of a 200 as it came, with its headers."""

MEASURED: Final = re.compile(r"3\.4\.\d+")  # the versions whose short way was read and measured

_ARGUMENTS = ["http_method", "path", "request_dict", "http_options"]
_PLAIN_MODEL = re.compile(r"\w[\w-]*(?:\.[\w-]+)*")
_CONFIGS_KEPT = 256


@dataclass(frozen=True, slots=True)
class Generation:
    """What all requests of a run share: the model, the instructions, the schema and the settings.

    `safety` pairs a harm category with a threshold. `cache` names a cache that holds the instructions,
    which are then not sent, `service_tier` is `flex` or `priority`. A value of None is not sent.
    """

    model: str
    system: str
    json_schema: dict[str, object]
    thinking_level: str | None
    thinking_budget: int | None
    seed: int | None
    temperature: float | None
    safety: tuple[tuple[str, str], ...]
    service_tier: str | None = None
    cache: str | None = None


def shared_body(generation: Generation) -> dict[str, object]:
    """Return what every request of the run holds beside its text and its output limit, in the API's names."""
    level = generation.thinking_level
    thinking = {"thinkingLevel": level and level.upper(), "thinkingBudget": generation.thinking_budget}
    settings = {
        "responseMimeType": "application/json",
        "responseJsonSchema": generation.json_schema,
        "thinkingConfig": _given(thinking) or None,
        "seed": generation.seed,
        "temperature": generation.temperature,
    }
    told = generation.system if generation.cache is None else ""
    system = {"parts": [{"text": told}], "role": "user"} if told else None
    safety = [{"category": category, "threshold": most} for category, most in generation.safety]
    return _given(
        {
            "cachedContent": generation.cache,
            "systemInstruction": system,
            "generationConfig": _given(settings),
            "safetySettings": safety or None,
            "serviceTier": generation.service_tier,
        }
    )


def text_body(text: str, most: int | None) -> dict[str, object]:
    """Return what a request holds of its own: its text and its output limit, in the API's names."""
    body: dict[str, object] = {"contents": [{"parts": [{"text": text}], "role": "user"}]}
    if most is not None:
        body["generationConfig"] = {"maxOutputTokens": most}
    return body


def call_of(sdk: genai.Client, model: str, *, public: bool) -> Call:
    """Return the cheapest way to ask `model` that is known to be right; with `public` the SDK's own.

    `sdk` has what `shared_body` returns as `extra_body`. No way sends more than one request.
    """
    return (None if public else private_call(sdk, model)) or public_call(sdk, model)


def public_call(sdk: genai.Client, model: str) -> Call:
    """Return the call that the SDK documents."""
    models = sdk.aio.models
    config = functools.lru_cache(_CONFIGS_KEPT)(_config)

    async def call(text: str, most: int | None) -> types.HttpResponse:
        response = await models.generate_content(model=model, contents=text, config=config(most))
        return response.sdk_http_response or types.HttpResponse()

    return call


def private_call(sdk: genai.Client, model: str, *, version: str = genai.__version__) -> Call | None:
    """Return what the public call does in the end, or None where this SDK is not as it was measured.

    Authentication, address, headers, deadline and errors are still the SDK's; what is left out is the
    conversion of a request that has its final form already. A model id with a path in it takes the public
    call, which has rules for that.
    """
    beneath = getattr(sdk.aio, "_api_client", None)
    request: Any = getattr(beneath, "async_request", None)  # checked below; the SDK promises nothing here
    if not (MEASURED.fullmatch(version) and _PLAIN_MODEL.fullmatch(model) and _is_known(request)):
        return None
    path = f"{'publishers/google/models' if sdk.vertexai else 'models'}/{model}:generateContent"

    async def call(text: str, most: int | None) -> types.HttpResponse:
        response: types.HttpResponse = await request("post", path, text_body(text, most))
        return response

    return call


def _is_known(request: object) -> bool:
    """Tell whether the SDK's method has the arguments that it was measured with."""
    return inspect.iscoroutinefunction(request) and list(inspect.signature(request).parameters) == _ARGUMENTS


def _config(max_output_tokens: int | None) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(
        max_output_tokens=max_output_tokens,
        automatic_continuation=False,  # otherwise one call may send several billed requests
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        should_return_http_response=True,  # the SDK's own parsing drops fields and costs CPU
    )


def _given(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}
