"""What 100,000 rows cost: the loop that a tutorial shows, against packing, shared answers, and the Batch API.

    python benchmarks/bill.py [--rows 100000] [--naive-rows 100000] [--pack 20] [--batch]

The bill is the emulator's: it counts the tokens of what it was asked and has answered, in a way that
Rowmill does not know, at the prices of gemini-3.1-flash-lite. The instruction has 1,000 tokens, a row 80 and
its answer 30; a tenth of the rows repeats another. With `--naive-rows` below `--rows` the loop asks only the
first of them, and its bill is scaled.
"""

import argparse
import asyncio
import csv
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from google import genai
from google.genai import types
from pydantic import BaseModel

from benchmarks.ground import (
    ENDS,
    JOB,
    MIDDLES,
    MODEL,
    OPENINGS,
    PROMPT,
    ROOT,
    SYSTEM,
    Emulator,
    Project,
    echo,
    emulating,
    environment,
    filled,
    markdown,
    measure,
)
from pipeline.emulator.tokens import count_tokens
from pipeline.schema_file import load_schema

INPUT, OUTPUT = 0.25, 1.50  # USD per million tokens; pipeline/models.toml has the source
CACHED, STORAGE = 0.025, 1.00  # the former in every tier, the latter for an hour
HALF = {"standard": 1.0, "flex": 0.5, "batch": 0.5}
INSTRUCTION, ROW = 1_000, 80  # tokens
SCHEMA = '''"""An answer of 30 tokens, as the emulator counts them."""

from typing import Literal

from pydantic import BaseModel, Field


class Review(BaseModel):
    """What a review says."""

    customer_sentiment: Literal["positive", "negative", "neutral"]
    reason: str = Field(description="one short sentence")
'''
SAME = 0.1
IN_FLIGHT = 64


@dataclass(frozen=True, slots=True)
class Bill:
    """What the emulator has counted for one way, scaled to all rows."""

    way: str
    requests: float
    prompt: float
    cached: float
    output: float
    usd: float


def filled_up(text: str, tokens: int) -> str:
    """Repeat words of a text until it has so many tokens."""
    words = text.split()
    grown, number = text, 0
    while count_tokens(grown) < tokens:
        grown += " " + words[number % len(words)]
        number += 1
    return grown


def rows(count: int) -> Iterator[tuple[str, str]]:
    """Yield ids and texts, a tenth of which were there before; the same ones every time."""
    dice = random.Random(1)
    known: list[str] = []
    for number in range(count):
        if known and dice.random() < SAME:
            yield str(number), dice.choice(known)
            continue
        words = f"{dice.choice(OPENINGS)} {dice.choice(MIDDLES)}, {dice.choice(ENDS)} Order {number}."
        known.append(filled_up(words, ROW - count_tokens(PROMPT.format(text=""))))
        yield str(number), known[-1]


async def naive(prompts: Sequence[str], instruction: str, address: str, schema: type[BaseModel]) -> None:
    """Ask for each row with google-genai's public call, so many at a time."""
    client = genai.Client(api_key="no-key", http_options=types.HttpOptions(base_url=address))
    config = types.GenerateContentConfig(
        system_instruction=instruction,
        response_mime_type="application/json",
        response_json_schema=schema.model_json_schema(),
    )
    turn = asyncio.Semaphore(IN_FLIGHT)

    async def one(prompt: str) -> None:
        async with turn:
            response = await client.aio.models.generate_content(model=MODEL, contents=prompt, config=config)
            schema.model_validate_json(response.text or "")

    try:
        await asyncio.gather(*map(one, prompts))
    finally:
        await client.aio.aclose()


def billed(way: str, emulator: Emulator, scale: float = 1.0) -> Bill:
    """Read the emulator's bill, the storage of context caches included."""
    stats = cast("Mapping[str, Any]", emulator.stats())
    bills: Mapping[str, Mapping[str, int]] = stats["billed"]
    usd = STORAGE * stats["cache_token_seconds"] / 3_600 / 1e6
    for tier, one in bills.items():
        fresh = one["prompt_tokens"] - one["cached_tokens"]
        usd += HALF[tier] * (fresh * INPUT + one["output_tokens"] * OUTPUT) / 1e6
        usd += one["cached_tokens"] * CACHED / 1e6
    return Bill(
        way,
        requests=scale * sum(one["answered"] for one in bills.values()),
        prompt=scale * sum(one["prompt_tokens"] for one in bills.values()),
        cached=scale * sum(one["cached_tokens"] for one in bills.values()),
        output=scale * sum(one["output_tokens"] for one in bills.values()),
        usd=scale * usd,
    )


def looped(made: Project, count: int) -> Bill:
    """Run the loop over the first rows."""
    with emulating("--tier", "paid") as emulator:
        command = [sys.executable, "-m", "benchmarks.bill", "--loop", str(made.table), emulator.address]
        took = measure([*command, str(count)], environment(made.folder))
        if took.code:
            raise SystemExit(f"the loop ended with {took.code}")
        return billed("loop, one row a request", emulator, made.rows / count)


def ran(made: Project, way: str, *flags: str) -> Bill:
    """Run the job with an emulator and a run folder of its own."""
    with emulating("--tier", "paid") as emulator:
        own = ["--no-cache", "--runs-dir", str(made.folder / way.replace(" ", "-").replace(",", ""))]
        took = measure(made.command(emulator, *own, *flags), environment(made.folder))
        if took.code:
            raise SystemExit(f"{way}: exit code {took.code}")
        return billed(way, emulator)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="the bill of a large job")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--naive-rows", type=int, default=None, help="how many of them the loop asks")
    parser.add_argument("--pack", type=int, default=20)
    parser.add_argument("--batch", action="store_true", help="by the Batch API, too")
    parser.add_argument("--loop", nargs=3, metavar=("TABLE", "ADDRESS", "ROWS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    instruction = filled_up(SYSTEM, INSTRUCTION)
    if given.loop:
        with (ROOT / given.loop[0]).open(newline="") as file:
            prompts = [PROMPT.format(text=row["text"]) for row in csv.DictReader(file)]
        schema = load_schema(Path(given.loop[0]).parent, "schemas/review.py:Review")
        asyncio.run(naive(prompts[: int(given.loop[2])], instruction, given.loop[1], schema))
        return 0
    print(echo(), flush=True)
    packs = ("--pack", str(given.pack))
    with filled(rows(given.rows)) as made:
        job = JOB.replace(SYSTEM, instruction).replace('key = ["id"]\n', "")
        (made.folder / "jobs" / "bench.toml").write_text(job)
        (made.folder / "schemas" / "review.py").write_text(SCHEMA)
        found = [looped(made, min(given.rows, given.naive_rows or given.rows))]
        found.append(ran(made, "rowmill run, one row a request"))
        found.append(ran(made, f"rowmill run, {given.pack} rows a request", *packs))
        if given.batch:
            found.append(ran(made, f"rowmill run by batch, {given.pack} rows a request", *packs, "--batch"))
    print(report(found, given.rows))
    return 0


def report(found: Sequence[Bill], rows: int) -> str:
    """Format the bills; ratios are to the first."""
    base = found[0]
    lines = [
        [
            one.way,
            f"{one.requests:,.0f}",
            f"{one.prompt:,.0f}",
            f"{one.cached:,.0f}",
            f"{one.output:,.0f}",
            f"{one.usd:,.2f}",
            f"{base.usd / one.usd:.2f}",
            f"{rows / one.requests:.1f}",
        ]
        for one in found
    ]
    return markdown(
        [
            "",
            "requests",
            "tokens in",
            "cached",
            "tokens out",
            "USD",
            "times cheaper",
            "rows a request",
        ],
        lines,
    )


if __name__ == "__main__":
    sys.exit(main())
