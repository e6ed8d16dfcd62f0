"""The two ways of a call send the same, and the public one stands in where the short one is not known."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import pytest
from google import genai
from google.genai import types
from google.oauth2.credentials import Credentials

from pipeline.gemini.call import Call, Generation, call_of, private_call, public_call, shared_body
from tests.gemini.conftest import KEY, generation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.gemini.conftest import Arrived, Server

pytestmark = pytest.mark.anyio

FULL = replace(generation(), temperature=0.5)
NAMES = {"max_output_tokens": {"type": "integer"}, "seed": {"anyOf": [{"type": "null"}, {"enum": ["a_b"]}]}}
SETTINGS = [
    FULL,
    replace(FULL, system="", thinking_level=None, seed=None, temperature=None, safety=()),
    replace(FULL, thinking_level=None, thinking_budget=0, seed=0, temperature=0.0),
    replace(FULL, thinking_level="HIGH", seed=-7, system='Sag "ja" —\n안녕 😀'),
    replace(FULL, json_schema={"type": "object", "properties": NAMES, "required": ["seed"]}),
    replace(FULL, service_tier="flex"),
    replace(FULL, safety=(("HARM_CATEGORY_HATE_SPEECH", "OFF"), ("HARM_CATEGORY_HARASSMENT", "BLOCK_NONE"))),
]


@asynccontextmanager
async def opened(
    url: str, extra: dict[str, object] | None = None, *, vertex: bool = False
) -> AsyncIterator[genai.Client]:
    """Open the SDK for one of the two APIs."""
    async with aiohttp.ClientSession() as session:
        options = types.HttpOptions(base_url=url, timeout=5_000, extra_body=extra, aiohttp_client=session)
        token = Credentials(token="t")  # type: ignore[no-untyped-call]  # of google-auth
        sdk = (
            genai.Client(enterprise=True, project="p", location="eu", credentials=token, http_options=options)
            if vertex
            else genai.Client(api_key=KEY, http_options=options)
        )
        yield sdk
        await sdk.aio.aclose()
        sdk.close()


def typed(sdk: genai.Client, settings: Generation) -> Call:
    """Ask with everything in the SDK's own types, as its documentation shows."""
    thinking = {"thinking_level": settings.thinking_level, "thinking_budget": settings.thinking_budget}
    config: dict[str, Any] = {
        "system_instruction": settings.system or None,
        "response_mime_type": "application/json",
        "response_json_schema": settings.json_schema,
        "thinking_config": thinking if any(value is not None for value in thinking.values()) else None,
        "seed": settings.seed,
        "service_tier": settings.service_tier,
        "cached_content": settings.cache,
        "temperature": settings.temperature,
        "safety_settings": [{"category": c, "threshold": t} for c, t in settings.safety] or None,
    }

    async def call(text: str, most: int | None) -> types.HttpResponse:
        full = types.GenerateContentConfig.model_validate({**config, "max_output_tokens": most})
        response = await sdk.aio.models.generate_content(model=settings.model, contents=text, config=full)
        return response.sdk_http_response or types.HttpResponse()

    return call


async def sent(server: Server, call: Call | None, most: int | None = 100) -> Arrived:
    """Return what one call sends."""
    assert call is not None
    server.will("{}")
    await call("What is it? — 안녕", most)
    return server.arrived.pop()


def named(value: object) -> object:
    """Return JSON with the names as the API documents them; those of the schema are the user's."""
    if isinstance(value, list):
        return [named(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        _camel(name): inner if _camel(name) == "responseJsonSchema" else named(inner)
        for name, inner in value.items()
    }


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("most", [None, 100])
@pytest.mark.parametrize("vertex", [False, True])
async def test_all_ways_send_the_same(
    server: Server, settings: Generation, most: int | None, vertex: bool
) -> None:
    """The short way, the public call and the SDK's own types make one request: body, path and headers."""
    async with opened(server.url, shared_body(settings), vertex=vertex) as sdk:
        short = await sent(server, private_call(sdk, settings.model), most)
        public = await sent(server, public_call(sdk, settings.model), most)
    async with opened(server.url, vertex=vertex) as sdk:
        documented = await sent(server, typed(sdk, settings), most)
    assert short.content == public.content == named(documented.content)
    assert short.path == public.path == documented.path
    assert short.headers == public.headers
    assert short.headers == {**documented.headers, "content-length": short.headers["content-length"]}


async def test_a_cache_stands_in_for_the_instruction(server: Server) -> None:
    """With the name of a cache the instruction is not sent, which the API would refuse."""
    settings = replace(FULL, service_tier="priority", cache="cachedContents/abc")
    async with opened(server.url, shared_body(settings)) as sdk:
        short = await sent(server, private_call(sdk, settings.model))
        public = await sent(server, public_call(sdk, settings.model))
    async with opened(server.url) as sdk:
        documented = await sent(server, typed(sdk, replace(settings, system="")))
    assert short.content == public.content == named(documented.content)
    assert short.content["cachedContent"] == "cachedContents/abc"
    assert "systemInstruction" not in short.content


async def test_what_all_rows_share_comes_before_the_row(server: Server) -> None:
    """The instruction is a field of its own and the row the only content, so a common start is cached."""
    async with opened(server.url, shared_body(FULL)) as sdk:
        short = await sent(server, private_call(sdk, FULL.model))
    assert FULL.system in str(short.content["systemInstruction"])
    assert short.content["contents"] == [{"parts": [{"text": "What is it? — 안녕"}], "role": "user"}]


async def test_what_is_shared_stays_as_it_was(server: Server) -> None:
    """No call leaves anything of its own in the body that all calls share."""
    shared, limits = shared_body(FULL), (100, None, 7)
    async with opened(server.url, shared) as sdk:
        for call in (private_call(sdk, FULL.model), public_call(sdk, FULL.model)):
            contents = [(await sent(server, call, most)).content for most in limits]
            settings = [cast("dict[str, object]", content["generationConfig"]) for content in contents]
            assert tuple(one.get("maxOutputTokens") for one in settings) == limits
    assert shared == shared_body(FULL)


@pytest.mark.parametrize("vertex", [False, True])
async def test_the_installed_sdk_has_the_short_way(server: Server, vertex: bool) -> None:
    """The pinned version is the measured one, so that the public call is never taken unnoticed."""
    async with opened(server.url, vertex=vertex) as sdk:
        assert private_call(sdk, FULL.model) is not None


@pytest.mark.parametrize("version", ["3.5.0", "3.40.0", "4.3.4.0", "3.4.0rc1", ""])
async def test_another_version_has_no_short_way(server: Server, version: str) -> None:
    """What was not measured is not used."""
    async with opened(server.url) as sdk:
        assert private_call(sdk, FULL.model, version=version) is None


@pytest.mark.parametrize("model", ["tunedModels/mine", "publishers/google/models/x", "a..b", "a?b", ""])
async def test_a_model_with_a_path_has_no_short_way(server: Server, model: str) -> None:
    """Only the SDK knows the rules for ids that are not plain."""
    async with opened(server.url) as sdk:
        assert private_call(sdk, model) is None


async def _other(_method: str, _path: str, _body: dict[str, object]) -> types.HttpResponse:
    raise AssertionError("a method of another form is not called")


@pytest.mark.parametrize(
    "beneath",
    [
        {},
        {"_api_client": None},
        {"_api_client": SimpleNamespace()},
        {"_api_client": SimpleNamespace(async_request=_other)},
        {"_api_client": SimpleNamespace(async_request="no method")},
    ],
)
async def test_a_changed_sdk_is_asked_publicly(server: Server, beneath: dict[str, object]) -> None:
    """Where the inside of the SDK looks otherwise than measured, the documented call does the work."""
    async with opened(server.url, shared_body(FULL)) as sdk:
        changed = SimpleNamespace(aio=SimpleNamespace(models=sdk.aio.models, **beneath), vertexai=False)
        arrived = await sent(server, call_of(cast("genai.Client", changed), FULL.model, public=False))
    assert arrived.content["contents"] == [{"parts": [{"text": "What is it? — 안녕"}], "role": "user"}]
