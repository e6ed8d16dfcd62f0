"""Loops that a user would write around google-genai to keep to a rate limit; `side_by_side.py` runs them.

    python -m benchmarks.loops {semaphore,limiter} TABLE ADDRESS RPM

Both ask 64 at a time and wait after a 429 or 5xx as the usual decorators do: a random time below 1, 2, 4 ...
60 seconds, ten attempts for a row. `semaphore` knows no rate; `limiter` gives it to `AsyncLimiter(RPM, 60)`.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext

from aiolimiter import AsyncLimiter
from google import genai
from google.genai import errors, types

from benchmarks.ground import MODEL
from benchmarks.question import IN_FLIGHT, config, prompts_of
from benchmarks.review import Review

ATTEMPTS = 10
LONGEST_S = 60.0
PASSING = (429, 500, 502, 503, 504)

Ask = Callable[[str], Awaitable[Review]]


def asker(client: genai.Client) -> Ask:
    """Return a function that asks for one row."""
    shared = config()

    async def ask(text: str) -> Review:
        response = await client.aio.models.generate_content(model=MODEL, contents=text, config=shared)
        return Review.model_validate_json(response.text or "")

    return ask


async def patiently(ask: Ask, text: str, rate: AbstractAsyncContextManager[None]) -> Review | None:
    """Ask until there is an answer; None after the last attempt."""
    for attempt in range(ATTEMPTS):
        try:
            async with rate:
                return await ask(text)
        except errors.APIError as error:
            if error.code not in PASSING:
                raise
            await asyncio.sleep(random.uniform(0, min(LONGEST_S, 2.0**attempt)))
    return None


async def loop(way: str, prompts: list[str], address: str, rpm: int) -> list[Review | None]:
    """Ask all prompts, so many at a time."""
    turn = asyncio.Semaphore(IN_FLIGHT)
    rate = AsyncLimiter(rpm, 60) if way == "limiter" else nullcontext()
    client = genai.Client(api_key="no-key", http_options=types.HttpOptions(base_url=address))
    ask = asker(client)

    async def one(prompt: str) -> Review | None:
        async with turn:
            return await patiently(ask, prompt, rate)

    try:
        return await asyncio.gather(*map(one, prompts))
    finally:
        await client.aio.aclose()


def main(way: str, path: str, address: str, rpm: str) -> int:
    """Ask for each row of the table; 1 where some got no answer."""
    prompts = prompts_of(path)
    return int(None in asyncio.run(loop(way, prompts, address, int(rpm))))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
