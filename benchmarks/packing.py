"""Rows per second through the whole pipeline with 20 rows in a request and with one; no delay, no quota.

    python benchmarks/packing.py [--rows 20000] [--pack 20] [--rounds 3]

Each way runs with few and with many rows, and the difference is counted, so that the start is left out.
`client alone` sends the same packs through Rowmill's client, on google-genai, with nothing around it: what
the run takes more is everything but the SDK.
"""

import argparse
import asyncio
import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import (
    MODEL,
    PROMPT,
    ROOT,
    SYSTEM,
    Emulator,
    Project,
    Took,
    echo,
    emulating,
    environment,
    markdown,
    measure,
    project,
)

FEW = 5  # the small size is this much smaller
IN_FLIGHT = 64


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU in microseconds for each row, and rows per second, of the rows beyond the small size."""

    row_us: float
    rows_per_s: float


async def packs(prompts: Sequence[str], size: int, address: str) -> None:
    """Ask about all prompts in packs through the client, so many at a time."""
    from benchmarks.review import Review  # noqa: PLC0415 - this process alone is to have the pipeline's memory
    from pipeline.flow import Reply, Request  # noqa: PLC0415
    from pipeline.gemini.client import Generation, open_client  # noqa: PLC0415
    from pipeline.gemini.endpoint import endpoint  # noqa: PLC0415
    from pipeline.packing import packed, packed_schema  # noqa: PLC0415
    from pipeline.schema import json_schema  # noqa: PLC0415

    schema = packed_schema(json_schema(Review))
    shared = Generation(MODEL, SYSTEM, schema, None, None, None, None, ())
    turn = asyncio.Semaphore(IN_FLIGHT)
    async with open_client(
        endpoint(os.environ, base_url=address), shared, timeout_s=120, connections=IN_FLIGHT
    ) as client:

        async def one(start: int) -> None:
            async with turn:
                text = packed(prompts[start : start + size]).text
                assert isinstance(await client.ask(Request(bytes(16), text, None)), Reply)

        await asyncio.gather(*(one(start) for start in range(0, len(prompts), size)))


def command(way: str, size: int, made: Project, emulator: Emulator) -> list[str]:
    """Return the command of one way."""
    if way == "run":
        return made.command(emulator, "--concurrency", str(IN_FLIGHT), "--pack", str(size))
    return [
        sys.executable,
        "-m",
        "benchmarks.packing",
        "--client",
        str(made.table),
        emulator.address,
        str(size),
    ]


def measured(way: str, size: int, rows: int) -> Cost:
    """Run one way with few and with many rows, each with an emulator of its own."""
    took: list[Took] = []
    for many in (rows // FEW, rows):
        with emulating() as emulator, project(many) as made:
            took.append(measure(command(way, size, made, emulator), environment(made.folder)))
            requests, wanted = emulator.stats()["requests"], -(-many // size)
        if took[-1].code or requests != wanted:
            raise SystemExit(f"{way}: exit code {took[-1].code}, {requests} requests for {wanted} packs")
    more = rows - rows // FEW
    few, many_ = took
    return Cost((many_.cpu_seconds - few.cpu_seconds) / more * 1e6, more / (many_.seconds - few.seconds))


def main() -> int:
    """Print medians of all rounds, and of their ratios."""
    parser = argparse.ArgumentParser(description="rows a second with packs")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--pack", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--client", nargs=3, metavar=("TABLE", "ADDRESS", "PACK"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        with (ROOT / given.client[0]).open(newline="") as file:
            prompts = [PROMPT.format(text=row["text"]) for row in csv.DictReader(file)]
        asyncio.run(packs(prompts, int(given.client[2]), given.client[1]))
        return 0
    print(echo(), flush=True)
    ways = [("run", 1), ("run", given.pack), ("client alone", given.pack)]
    found: dict[tuple[str, int], list[Cost]] = {way: [] for way in ways}
    for number in range(given.rounds):
        for way in [*ways[number % 3 :], *ways[: number % 3]]:
            found[way].append(measured(*way, given.rows))
            print(way, found[way][-1], file=sys.stderr, flush=True)
    one, pack, client = (found[way] for way in ways)
    lines = [
        [name, f"{median(c.rows_per_s for c in costs):,.0f}", f"{median(c.row_us for c in costs):,.0f}"]
        for name, costs in [
            ("`rowmill run`, 1 row a request", one),
            (f"`rowmill run`, {given.pack} rows a request", pack),
            (f"client alone, {given.pack} rows a request", client),
        ]
    ]
    print(markdown(["", "rows/s", "CPU µs/row"], lines))
    faster = median(b.rows_per_s / a.rows_per_s for a, b in zip(one, pack, strict=True))
    rest = median(b.row_us - c.row_us for b, c in zip(pack, client, strict=True))
    print(f"{faster:.1f} times the rows a second; everything but the SDK: {rest:.0f} µs of CPU a row")
    return 0


if __name__ == "__main__":
    sys.exit(main())
