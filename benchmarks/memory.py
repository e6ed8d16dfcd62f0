"""Shows that memory does not grow with the input: peak memory of a run on few and on ten times as many rows.

    python benchmarks/memory.py [--rows 20000 200000]

The emulator answers without delay, so rows pass as fast as this machine can. Where the system has /proc,
a second table splits the peak by stage, and into memory of the process's own (anon) and mapped files.
"""

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import Emulator, Project, Took, echo, emulating, environment, measure, project, table

STAGES = ("start", "first quarter", "second quarter", "second half", "output")
EVERY_S = 0.1
PART_ROWS = 5_000  # rows of a part, unless a minute is over first
MOST_GROWTH = 1.2


@dataclass(slots=True)
class Stages:
    """The most memory that was seen in each stage of a run, in MiB."""

    project: Project
    anon: dict[str, float] = field(default_factory=dict)
    file: dict[str, float] = field(default_factory=dict)

    def watch(self, pid: int) -> None:
        """Look at the process until it has ended."""
        while (found := _memory(pid)) is not None:
            stage = self._stage()
            for peak, now in zip((self.anon, self.file), found, strict=True):
                peak[stage] = max(peak.get(stage, 0.0), now)
            time.sleep(EVERY_S)

    def _stage(self) -> str:
        """Tell the stage by what has been written."""
        if self.project.output.parent.exists():
            return "output"
        done = self.project.parts * PART_ROWS / self.project.rows
        passed = sum(done > mark for mark in (0, 1 / 4, 1 / 2))
        return STAGES[passed]


def _memory(pid: int) -> tuple[float, float] | None:
    """Return memory of its own and of mapped files in MiB; None when the process is gone or has no /proc."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    known = dict(line.split(":", 1) for line in lines if line.startswith("Rss"))
    if not known:
        return None
    anon, file = (int(known[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return anon, file


def run(emulator: Emulator, rows: int, concurrency: int) -> tuple[Took, Stages]:
    """Run a job of so many rows."""
    with project(rows) as made:
        stages = Stages(made)
        command = made.command(emulator, "--concurrency", str(concurrency))
        took = measure(command, environment(made.folder), stages.watch)
        if took.code:
            raise SystemExit(f"the run of {rows:,} rows ended with exit code {took.code}")
        return took, stages


def main() -> int:
    """Print peak memory by number of rows; 1 where it grows by more than a fifth."""
    parser = argparse.ArgumentParser(description="peak memory by number of rows")
    parser.add_argument("--rows", nargs="+", type=int, default=[20_000, 200_000], help="sizes of the input")
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight")
    given = parser.parse_args()
    print(echo(), flush=True)
    runs: dict[int, tuple[Took, Stages]] = {}
    for rows in given.rows:
        with emulating() as emulator:
            runs[rows] = run(emulator, rows, given.concurrency)
    print(report(runs))
    first, last = (runs[rows][0].peak_mib for rows in (given.rows[0], given.rows[-1]))
    return int(last > first * MOST_GROWTH)


def report(runs: dict[int, tuple[Took, Stages]]) -> str:
    """Format what the runs took."""
    base = next(iter(runs.values()))[0].peak_mib
    peaks = [
        [f"{rows:,}", f"{took.peak_mib:.0f}", f"{took.peak_mib / base:.2f}", f"{took.seconds:.0f}"]
        for rows, (took, _) in runs.items()
    ]
    seen = [stage for stage in STAGES if any(stage in stages.anon for _, stages in runs.values())]
    split = [[f"{rows:,}", *(_cell(stages, stage) for stage in seen)] for rows, (_, stages) in runs.items()]
    text = table(["rows", "peak MiB", "ratio", "seconds"], peaks)
    return text + "\n\n" + table(["anon + file MiB", *seen], split) if seen else text


def _cell(stages: Stages, stage: str) -> str:
    return f"{stages.anon[stage]:.0f} + {stages.file[stage]:.0f}" if stage in stages.anon else "-"


if __name__ == "__main__":
    sys.exit(main())
