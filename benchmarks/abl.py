"""The same rows through async-batch-llm, a published library, in an environment of its own.

    python -m benchmarks.abl {default,tuned} TABLE ADDRESS RPM

`side_by_side.py` runs it. It needs `async-batch-llm[gemini]` and nothing of Rowmill. `default` sets the rate
and the concurrency and leaves the rest as it comes; `tuned` also bounds the burst to what one second allows,
and the wait after a 429 to what the server says, a second at least.
"""

import asyncio
import sys

from async_batch_llm import GeminiModel, GeminiStrategy, ProcessorConfig, RateLimitConfig, process_prompts
from google import genai
from google.genai import types

from benchmarks.ground import MODEL, SYSTEM
from benchmarks.question import IN_FLIGHT, prompts_of
from benchmarks.review import Review


def config(way: str, rpm: int) -> ProcessorConfig:
    """Return the library's configuration."""
    if way == "default":
        return ProcessorConfig(concurrency=IN_FLIGHT, max_requests_per_minute=rpm)
    return ProcessorConfig(
        concurrency=IN_FLIGHT,
        max_requests_per_minute=rpm,
        quota_burst_seconds=1,
        rate_limit=RateLimitConfig(cooldown_seconds=1),
    )


async def run(way: str, prompts: list[str], address: str, rpm: int) -> int:
    """Ask all prompts; return how many got no answer."""
    client = genai.Client(api_key="no-key", http_options=types.HttpOptions(base_url=address))
    strategy = GeminiStrategy(
        GeminiModel(MODEL, client, system_instruction=SYSTEM),
        response_parser=lambda response: Review.model_validate_json(response.text),
        generation_config={
            "response_mime_type": "application/json",
            "response_json_schema": Review.model_json_schema(),
        },
    )
    try:
        batch = await process_prompts(strategy, prompts, config=config(way, rpm))
    finally:
        await client.aio.aclose()
    return sum(not result.success for result in batch.results)


def main(way: str, path: str, address: str, rpm: str) -> int:
    """Ask for each row of the table; 1 where some got no answer."""
    prompts = prompts_of(path)
    return int(asyncio.run(run(way, prompts, address, int(rpm))) > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
