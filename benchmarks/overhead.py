"""Compares what a request costs in Rowmill's whole pipeline with a bare loop over google-genai's client.

    python benchmarks/overhead.py [--rows 3000] [--rounds 5]

Every way asks the same rows, 64 at a time, of the same emulator without delay and without quotas, each time
in a process of its own and in changing order. CPU is user + system time of that process. Each way runs with
few and with many rows: the difference is what a row costs, the rest is the start (imports, mostly). Wall
clock is the least certain figure here, since the emulator takes a core as well. `public call` is with
ROWMILL_SDK=public.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import (
    Emulator,
    Project,
    Took,
    echo,
    emulating,
    environment,
    measure,
    project,
    table,
)

IN_FLIGHT = 64
FEW = 6  # the small size is this much smaller
PUBLIC = {"ROWMILL_SDK": "public"}


@dataclass(frozen=True, slots=True)
class Way:
    """One way to ask: a loop of `bare.py`, or None for the whole pipeline; `env` is added."""

    loop: str | None
    env: Mapping[str, str] = field(default_factory=dict)


WAYS = {
    "bare loop, schema class": Way("class"),
    "bare loop, schema dict": Way("dict"),
    "Rowmill's client, public call": Way("own", PUBLIC),
    "Rowmill's client": Way("own"),
    "rowmill run, public call": Way(None, PUBLIC),
    "rowmill run": Way(None),
}
BASES = list(WAYS)[:2]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one way took in one round. Rates are of rows beyond the small size, in one process."""

    total_ms: float
    row_ms: float
    start_s: float
    rows_per_s: float


def cost(few: Took, many: Took, rows: int, less: int) -> Cost:
    """Tell the start from the rows."""
    row_s = (many.cpu_seconds - few.cpu_seconds) / (rows - less)
    return Cost(
        total_ms=many.cpu_seconds / rows * 1000,
        row_ms=row_s * 1000,
        start_s=few.cpu_seconds - row_s * less,
        rows_per_s=(rows - less) / (many.seconds - few.seconds),
    )


def run(name: str, made: Project, emulator: Emulator) -> Took:
    """Ask for all rows of a project in one way."""
    way = WAYS[name]
    if way.loop is None:
        command = made.command(emulator, "--concurrency", str(IN_FLIGHT))
    else:
        command = [sys.executable, "-m", "benchmarks.bare", way.loop, str(made.table), emulator.address]
    before = emulator.stats()["answered"]
    took = measure(command, {**environment(made.folder), **way.env})
    answered = emulator.stats()["answered"] - before
    if took.code or answered != made.rows:
        raise SystemExit(f"{name}: exit code {took.code}, {answered} answers to {made.rows} rows")
    return took


def measured(name: str, rows: int) -> Cost:
    """Run one way with few and with many rows, each with an emulator that has seen nothing yet."""
    took = []
    for size in (rows // FEW, rows):
        with emulating() as emulator, project(size) as made:
            took.append(run(name, made, emulator))
    return cost(took[0], took[1], rows, rows // FEW)


def main() -> int:
    """Print the medians of all rounds."""
    parser = argparse.ArgumentParser(description="CPU and rate of Rowmill against a bare loop")
    parser.add_argument("--rows", type=int, default=3_000, help="rows of the large size")
    parser.add_argument("--rounds", type=int, default=5, help="times that each way is measured")
    given = parser.parse_args()
    print(echo(), flush=True)
    ways = list(WAYS)
    found: dict[str, list[Cost]] = defaultdict(list)
    for number in range(given.rounds):
        turn = number % len(ways)
        for way in [*ways[turn:], *ways[:turn]]:
            found[way].append(measured(way, given.rows))
    print(report(found))
    return 0


def report(found: dict[str, list[Cost]]) -> str:
    """Format medians; ratios are medians of the ratios within each round."""
    lines = []
    for way in WAYS:
        costs = found[way]
        ratios = [
            median(ours.row_ms / theirs.row_ms for ours, theirs in zip(costs, found[base], strict=True))
            for base in BASES
        ]
        low, high = min(c.row_ms for c in costs), max(c.row_ms for c in costs)
        lines.append(
            [
                way,
                f"{median(c.row_ms for c in costs):.2f}",
                f"{low:.2f} to {high:.2f}",
                *(f"{ratio:.2f}" for ratio in ratios),
                f"{median(c.start_s for c in costs):.1f}",
                f"{median(c.total_ms for c in costs):.2f}",
                f"{median(c.rows_per_s for c in costs):.0f}",
            ]
        )
    head = [
        "",
        "CPU ms/row",
        "range",
        "to class",
        "to dict",
        "start CPU s",
        "with start ms/row",
        "rows/s",
    ]
    return table(head, lines)


if __name__ == "__main__":
    sys.exit(main())
