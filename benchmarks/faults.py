"""Runs a job on a network that has every fault: each row must come out once, with its own answer.

    python benchmarks/faults.py [--rows 20000] [--share 0.1] [--seed 1] [--outage 20]

`proxy.py` stands between the client and the emulator. What a row meets is drawn from the seed and its number:
the given share meets one fault, a tenth of these two. Besides one connection in a hundred breaks before it is
read, nobody listens for a second ten times, and once the API is gone for longer. Each answer quotes its
row's number. The bare loop over google-genai runs on the same mixture. Exit code 1 where a row of Rowmill's
table is missing, double, failed, or has another row's answer.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import (
    ROOT,
    Emulator,
    Project,
    echo,
    emulating,
    environment,
    filled,
    markdown,
    measure,
)
from benchmarks.proxy import FAULTS, GREETINGS, PAID, Proxy, proxying
from benchmarks.unguarded import WRONG

TIMEOUT_S = 3.0
IN_FLIGHT = 64
TWO = 0.1  # of the rows that meet a fault, those that meet two
CONNECTIONS = 100  # one in so many breaks before it is read
BREAKS = 10
LONGEST = "gone for longer"

_NUMBER = re.compile(rb"Order (\d+):")


@dataclass(slots=True)
class Mixture:
    """Draws what happens to each request and connection; the same for the same seed and order of rows."""

    rows: int
    share: float
    seed: int
    outage_s: float
    proxy: Proxy | None = None
    requests: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    left: dict[int, list[str]] = field(default_factory=dict)

    def fault(self, body: bytes) -> str:
        """Return what happens to a request."""
        self.requests += 1
        if self.requests % max(1, self.rows // BREAKS) == self.rows // BREAKS // 2:
            return "refused"
        if self.requests == self.rows // 2 and self.proxy is not None:
            self.broken[LONGEST] += 1
            self.proxy.away(self.outage_s)
            return "silent"
        found = _NUMBER.search(body)
        row = int(found[1]) if found else -1
        if row not in self.left:
            self.left[row] = self._drawn(row)
        return self.left[row].pop() if self.left[row] else ""

    def greeting(self, number: int) -> str:
        """Return what happens to a connection."""
        dice = random.Random(f"{self.seed} connection {number}")
        return dice.choice(sorted(GREETINGS)) if dice.random() < 1 / CONNECTIONS else ""

    def _drawn(self, row: int) -> list[str]:
        dice = random.Random(f"{self.seed} row {row}")
        if dice.random() >= self.share:
            return []
        return dice.choices(sorted({*FAULTS} - {"", "refused"}), k=2 if dice.random() < TWO else 1)


@dataclass(frozen=True, slots=True)
class Result:
    """What one way made of the rows, and what it took."""

    way: str
    seconds: float
    requests: int
    answered: int
    again: int
    ends: Counter[str]
    played: Counter[str]


def rows(count: int) -> Iterator[tuple[str, str]]:
    """Yield ids and texts without any feeling: the answers quote their first words, and so the number."""
    dice = random.Random(1)
    for number in range(count):
        yield str(number), f"Order {number}: a parcel of {dice.randint(1, 99)} pieces came by post."


def rowmill(made: Project, proxy: Proxy) -> Counter[str]:
    """Run the job; return how many rows ended in which way, "" for an own answer."""
    job = made.folder / "jobs" / "bench.toml"
    job.write_text(job.read_text().replace("[limits]", f"timeout = {TIMEOUT_S}\n[limits]"))
    command = made.command(Emulator(proxy.address), "--concurrency", str(IN_FLIGHT))
    code = measure(command, environment(made.folder)).code
    if not made.output.exists():
        return Counter({f"exit code {code}": made.rows})
    table = pl.read_parquet(made.output)
    ends = Counter({"missing": made.rows - table["id"].n_unique()})
    ends["double"] = table.height - table["id"].n_unique()
    for number, reason, kind in zip(table["id"], table["reason"], table["_error_kind"], strict=True):
        own = f"Order {number}:" in (reason or "")
        ends[f"failed: {kind}" if kind else "" if own else WRONG] += 1
    return +ends


def bare(made: Project, proxy: Proxy) -> Counter[str]:
    """Run the bare loop; return how many rows ended in which way."""
    command = [sys.executable, "-m", "benchmarks.unguarded", str(made.table), proxy.address, str(TIMEOUT_S)]
    env = environment(made.folder)
    said = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, check=True).stdout
    return Counter(json.loads(said))


WAYS = {"rowmill run": rowmill, "bare loop": bare}


def perform(way: str, given: argparse.Namespace) -> Result:
    """Ask for all rows in one way, on a mixture of its own."""
    mixture = Mixture(given.rows, given.share, given.seed, given.outage)
    with emulating("--latency", "0.05") as emulator, filled(rows(given.rows)) as made:
        proxy = mixture.proxy = Proxy(emulator.address, mixture.fault, greet=mixture.greeting)
        with proxying(proxy):
            began = time.monotonic()
            ends = WAYS[way](made, proxy)
            seconds = time.monotonic() - began
        counted = emulator.stats()
    played = proxy.played + mixture.broken
    return Result(way, seconds, mixture.requests, counted["answered"], counted["repeated"], ends, played)


def line(result: Result) -> list[str]:
    """Return a way's line of the table."""
    lost = {end: count for end, count in result.ends.items() if end}
    paid = sum(count for fault, count in result.played.items() if fault in PAID)
    return [
        result.way,
        f"{result.seconds:.0f}",
        f"{result.requests:,}",
        f"{result.ends['']:,}",
        f"{sum(lost.values()):,}",
        f"{lost.get(WRONG, 0):,}",
        f"{result.answered:,}",
        f"{paid:,}",
        f"{result.again:,}",
    ]


HEAD = [
    "way",
    "seconds",
    "requests read",
    "own answer",
    "none or a wrong one",
    "of which wrong",
    "answers paid",
    "lost by a fault",
    "paid again",
]


def faults(results: list[Result]) -> str:
    """Return how often each fault was played to each way."""
    names = sorted({name for result in results for name in result.played} - {""})
    lines = [[name, *(f"{result.played[name]:,}" for result in results)] for name in names]
    return markdown(["fault", *(result.way for result in results)], lines)


def main() -> int:
    """Print what became of the rows, and the faults; 1 where Rowmill's table is not right."""
    parser = argparse.ArgumentParser(description="a job on a bad network")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--share", type=float, default=0.1, help="of the rows that meet a fault")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--outage", type=float, default=20.0, help="seconds of the long outage")
    given = parser.parse_args()
    print(echo(), flush=True)
    results = [perform(way, given) for way in WAYS]
    print(markdown(HEAD, [line(result) for result in results]))
    for result in results:
        print(
            f"\n{result.way}: " + ", ".join(f"{end or 'own answer'} {n:,}" for end, n in result.ends.items())
        )
    print(f"\n{faults(results)}")
    return int(results[0].ends != Counter({"": given.rows}))


if __name__ == "__main__":
    sys.exit(main())
