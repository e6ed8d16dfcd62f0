"""What keeping a reply costs: the SQLite journal against a CRC-framed file, in one run.

python benchmarks/journal.py [--replies 20000]
"""

import argparse
import os
import statistics
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from pipeline.flow import Reply, Row, Usage
from pipeline.store.entries import REPLY
from pipeline.store.journal import Journal

REPLY_OF_700 = Reply("x" * 700, "STOP", "", Usage(300, 0, 0, 60, 360), "model", "standard", 0.5, "api")
PART = 5_000  # replies between checkpoints, as in a run


def measure(name: str, keep: Callable[[bytes], None], ids: list[bytes]) -> None:
    """Print CPU per reply and the distribution of wall times, in microseconds."""
    walls, began = [], time.process_time()
    for one in ids:
        start = time.perf_counter()
        keep(one)
        walls.append(time.perf_counter() - start)
    cpu = (time.process_time() - began) / len(ids)
    p50, p99 = statistics.median(walls), sorted(walls)[int(len(ids) * 0.99)]
    print(f"{name:20} CPU {cpu * 1e6:6.1f}  p50 {p50 * 1e6:6.1f}  p99 {p99 * 1e6:6.1f}  µs per reply")


def through_sqlite(path: Path, turn: int, ids: list[bytes]) -> None:
    """Keep and find all replies in a journal, with a checkpoint for each part."""
    with closing(Journal(path)) as journal:
        kept = 0

        def keep(one: bytes) -> None:
            nonlocal kept
            journal.keep(one, Row(0, one, one, {}), REPLY_OF_700)
            kept += 1
            if kept % PART == 0:
                journal.checkpoint()

        def find(one: bytes) -> None:
            journal.find(one, one)

        measure(f"{turn} SQLite", keep, ids)
        measure(f"{turn} SQLite look-up", find, ids)


def through_file(path: Path, turn: int, ids: list[bytes]) -> None:
    """Append all replies to a file, each with its length and checksum."""
    with path.open("ab", buffering=0) as file:

        def keep(one: bytes) -> None:
            body = one + one + REPLY.dump_json(REPLY_OF_700)
            file.write(struct.pack("<II", len(body), zlib.crc32(body)) + body)

        measure(f"{turn} CRC-framed file", keep, ids)


def main() -> None:
    """Measure both three times, in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replies", type=int, default=20_000)
    replies: int = parser.parse_args().replies
    for turn in (1, 2, 3):
        ids = [os.urandom(16) for _ in range(replies)]
        with tempfile.TemporaryDirectory() as folder:
            through_sqlite(Path(folder) / "replies.sqlite", turn, ids)
            through_file(Path(folder) / "framed", turn, ids)


if __name__ == "__main__":
    main()
