"""Measures what the response cache costs a run: look-ups, and taking over what was answered.

    python benchmarks/answers.py [--entries 200000]

CPU is user + system time of this process. `learn` is what the event loop pays for each good answer, `write`
what a thread does for a part of 5,000, most of it in SQLite, which does not hold up Python.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import echo, table
from pipeline.executors.online import PART_ROWS
from pipeline.flow import Reply, Row, Usage
from pipeline.store.answers import FILE, disk_size
from pipeline.store.cache import Cache, Learned, Use
from pipeline.store.journal import Journal

TEXT = '{"reason": "' + "x" * 300 + '"}'
REPLIED = Reply(TEXT, "STOP", "", Usage(200, 0, 0, 40, 240), "gemini-3.1-flash-lite", "standard", 0.5, "api")
LOOKS = 20_000


def cpu(act: Callable[[], object], times: int) -> float:
    """Return the microseconds of CPU that one of `times` steps takes."""
    before = time.process_time()
    act()
    return (time.process_time() - before) / times * 1e6


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="CPU of the response cache")
    parser.add_argument("--entries", type=int, default=200_000, help="answers in the cache")
    given = parser.parse_args()
    print(echo(), flush=True)
    with tempfile.TemporaryDirectory() as name:
        print(table(["step", "CPU µs"], measured(Path(name), given.entries)))
    return 0


def measured(folder: Path, entries: int) -> list[list[str]]:
    """Fill a cache part by part, then look into it."""
    path, replies = folder / FILE, folder / "replies.sqlite"
    known: list[bytes] = []
    learned: list[float] = []
    written: list[float] = []
    with (
        closing(Journal(replies)) as journal,
        closing(Cache(path, Use.FULL, most_bytes=10**10, most_rows=1)) as cache,
    ):
        for _ in range(entries // PART_ROWS):
            rows = [Row(0, os.urandom(16), b"d" * 16, {}) for _ in range(PART_ROWS)]
            ids = [os.urandom(16) for _ in rows]
            journal.keep_all((id_, row, REPLIED) for id_, row in zip(ids, rows, strict=True))

            def learn(pairs: list[tuple[bytes, Row]]) -> None:
                for id_, row in pairs:
                    cache.learn(Learned(id_, id_, row.key, 1, asked=True))

            pairs = list(zip(ids, rows, strict=True))
            learned.append(cpu(lambda pairs=pairs: learn(pairs), PART_ROWS))  # type: ignore[misc]
            written.append(cpu(lambda: cache.write(replies, time.time()), PART_ROWS))
            journal.checkpoint()
            known += ids
    strange = [os.urandom(16) for _ in range(LOOKS)]
    found = known[:: max(1, len(known) // LOOKS)][:LOOKS]
    with closing(Cache(path, Use.FULL, most_bytes=10**10, most_rows=1)) as cache:
        lines = [
            [f"look-up, {what}, {size} at once", f"{looked(cache, ids, size):.1f}"]
            for what, ids in (("unknown", strange), ("known", found))
            for size in (1, 20)
        ]
    with closing(Cache(folder / "none", Use.FULL, most_bytes=1, most_rows=1)) as none:
        lines.append(["look-up where there is no cache", f"{looked(none, strange, 1):.2f}"])
    lines.append(["learn", f"{min(learned):.1f}"])
    lines.append(["write, first part, per answer", f"{written[0]:.1f}"])
    lines.append(["write, last part, per answer", f"{written[-1]:.1f}"])
    lines.append(["bytes per answer", f"{disk_size(path) / len(known):.0f}"])
    return lines


def looked(cache: Cache, ids: list[bytes], size: int) -> float:
    """Return what a look-up takes per id, so many ids at once."""

    def look() -> None:
        for start in range(0, len(ids), size):
            cache.find(ids[start : start + size])

    return cpu(look, len(ids))


if __name__ == "__main__":
    sys.exit(main())
