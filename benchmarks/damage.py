"""50,000 packed rows while packs come back damaged: whose answer is whose, and what asking again costs.

    python benchmarks/damage.py [--rows 50000] [--pack 20] [--share 0.05] [--each]

Each answer carries a hash that the emulator makes of the row that it is of, and is compared with that of its
row's own prompt. `mixed` damages that share of the packs, in all ways together; `--each` adds a run for each.
An answer under another row's id (`pack-swapped`) is left out: no client could know.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import polars as pl

from benchmarks.ground import PROMPT, echo, emulating, environment, filled, markdown, measure, texts

WAYS = (
    "pack-missing",
    "pack-doubled",
    "pack-twice",
    "pack-foreign",
    "pack-shuffled",
    "pack-empty",
    "pack-text",
    "pack-badjson",
    "pack-cut",
    "pack-short",
    "pack-loop",
    "blocked",
    "finish-safety",
    "empty",
)
WHOLE = "none"
SCHEMA = '''"""An answer that tells which row it is of."""

from typing import Literal

from pydantic import BaseModel


class Review(BaseModel):
    """A label, and a hash of the row's text."""

    sentiment: Literal["positive", "negative", "neutral"]
    row_hash: str
'''


@dataclass(frozen=True, slots=True)
class Found:
    """What came of one run."""

    way: str
    right: int
    wrong: int
    failed: int
    requests: int
    output_tokens: int
    seconds: float


def run(way: str, faults: Sequence[str], rows: int, pack: int) -> Found:
    """Ask for all rows while these faults happen, and compare each answer with its row."""
    flags = [part for fault in faults for part in ("--fault", fault)]
    content = list(texts(rows))
    with emulating(*flags) as emulator, filled(content) as made:
        (made.folder / "schemas" / "review.py").write_text(SCHEMA)
        took = measure(made.command(emulator, "--pack", str(pack)), environment(made.folder))
        if took.code not in (0, 1):
            raise SystemExit(f"{way}: exit code {took.code}")
        stats = emulator.stats()
        table = pl.read_parquet(made.output, columns=["id", "row_hash", "_status"])
    wanted = [sha256(PROMPT.format(text=text).strip().encode()).hexdigest()[:16] for _, text in content]
    assert table["id"].cast(pl.String).to_list() == [id_ for id_, _ in content]
    right = sum(said == own for said, own in zip(table["row_hash"].to_list(), wanted, strict=True))
    failed = int((table["_status"] != "ok").sum())
    wrong = rows - right - failed
    return Found(way, right, wrong, failed, stats["requests"], stats["output_tokens"], took.seconds)


def main() -> int:
    """Print a table; 1 where a row got no answer or another's."""
    parser = argparse.ArgumentParser(description="damaged packs")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--pack", type=int, default=20)
    parser.add_argument("--share", type=float, default=0.05, help="of the packs that are damaged")
    parser.add_argument("--each", action="store_true", help="a run for each way besides")
    given = parser.parse_args()
    print(echo(), flush=True)
    mixed = [f"{way}%{given.share / len(WAYS):.6f}" for way in WAYS]
    runs = {WHOLE: [], "mixed": mixed}
    runs |= {way: [f"{way}%{given.share}"] for way in (WAYS if given.each else ())}
    found = []
    for way, faults in runs.items():
        found.append(run(way, faults, given.rows, given.pack))
        print(found[-1], file=sys.stderr, flush=True)
    print(report(found))
    return int(any(one.wrong or one.failed for one in found))


def report(found: Sequence[Found]) -> str:
    """Format what was found; the overhead is over the run without damage, which stands first."""
    base = found[0]
    head = ["damage", "own answer", "another's", "none", "requests", "more", "output tokens", "more", "s"]
    return markdown(
        head,
        [
            [
                one.way,
                f"{one.right:,}",
                f"{one.wrong:,}",
                f"{one.failed:,}",
                f"{one.requests:,}",
                f"{one.requests / base.requests - 1:.1%}",
                f"{one.output_tokens:,}",
                f"{one.output_tokens / base.output_tokens - 1:.1%}",
                f"{one.seconds:.0f}",
            ]
            for one in found
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
