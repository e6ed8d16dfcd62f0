"""The loop that a tutorial shows: every row through google-genai's async client, 64 at a time, no more.

    python -m benchmarks.bare {class,dict,own} TABLE ADDRESS

It keeps nothing on disk, repeats nothing and checks nothing: it is what `overhead.py` compares with. `class`
and `dict` differ in how the schema is given; `own` asks through Rowmill's client without its pipeline, with
ROWMILL_SDK=public by the SDK's public call.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

from google import genai
from google.genai import types

from benchmarks.ground import MODEL, SYSTEM
from benchmarks.question import IN_FLIGHT, config, prompts_of
from benchmarks.review import Review
from pipeline.flow import Reply, Request
from pipeline.gemini.client import Generation, open_client
from pipeline.gemini.endpoint import endpoint
from pipeline.schema import json_schema

Ask = Callable[[str], Awaitable[Review]]


def by_class(client: genai.Client) -> Ask:
    """Give the SDK the Pydantic class and take what it has parsed."""

    async def ask(text: str) -> Review:
        response = await client.aio.models.generate_content(
            model=MODEL,
            contents=text,
            config=types.GenerateContentConfig(
                system_instruction=SYSTEM, response_mime_type="application/json", response_schema=Review
            ),
        )
        assert isinstance(response.parsed, Review)
        return response.parsed

    return ask


def by_dict(client: genai.Client) -> Ask:
    """Give the SDK the JSON schema, made once, and validate the text."""
    shared = config()

    async def ask(text: str) -> Review:
        response = await client.aio.models.generate_content(model=MODEL, contents=text, config=shared)
        assert response.text is not None
        return Review.model_validate_json(response.text)

    return ask


async def loop(ask: Ask, prompts: list[str]) -> list[Review]:
    """Ask all prompts, so many at a time."""
    turn = asyncio.Semaphore(IN_FLIGHT)

    async def one(prompt: str) -> Review:
        async with turn:
            return await ask(prompt)

    return await asyncio.gather(*map(one, prompts))


async def sdk(way: str, prompts: list[str], address: str) -> list[Review]:
    """Ask with the SDK's default client."""
    client = genai.Client(api_key="no-key", http_options=types.HttpOptions(base_url=address))
    try:
        return await loop({"class": by_class, "dict": by_dict}[way](client), prompts)
    finally:
        await client.aio.aclose()


async def own(prompts: list[str], address: str) -> list[Review]:
    """Ask with Rowmill's client, which sets the same SDK up with care."""
    where = endpoint(os.environ, base_url=address)
    shared = Generation(MODEL, SYSTEM, json_schema(Review), None, None, None, None, ())
    async with open_client(where, shared, timeout_s=120, connections=IN_FLIGHT) as client:

        async def ask(text: str) -> Review:
            reply = await client.ask(Request(bytes(16), text, None))
            assert isinstance(reply, Reply)
            return Review.model_validate_json(reply.text)

        return await loop(ask, prompts)


def main(way: str, path: str, address: str) -> int:
    """Ask for each row of the table."""
    prompts = prompts_of(path)
    answers = asyncio.run(own(prompts, address) if way == "own" else sdk(way, prompts, address))
    return int(len(answers) != len(prompts))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
