"""Resumes a job of millions of rows of which all but a thousand are answered, then one of a tenth.

    python benchmarks/large.py [--rows 10000000] [--format parquet csv] [--shuffled]

The input (about 100 bytes a row) and the parts (5,000 rows each) are made directly, without asking; then
`rowmill run` is measured as users start it, against the emulator: once on an input that it has never seen,
killed with SIGKILL at its first request, and again to the end. *First request* is the time from the start of
the process until the emulator has one, *new* that of the run which was killed; *output* is that from the
draft's appearance to the end of the process. With `--shuffled` the input has its rows in
another order than the parts. `rowmill status` comes last. Beside them Polars alone reads the
same file and writes it as Parquet, once streaming and once at a stroke.

Exit code 1 where a promise is broken: a peak of 600 MB, a tenth more than that of the tenth, fewer than a
million rows of output a minute, a first request later than 15 s on an input that is known.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import JOB, ROOT, Emulator, Took, echo, emulating, environment, measure, table

PENDING = 1_000
EVERY_S = 0.05
MOST_MB = 600
MOST_GROWTH = 1.1
LEAST_PER_MINUTE = 1_000_000
MOST_TO_FIRST_S = 15
STREAMED = "import polars, sys; polars.scan_{0}(sys.argv[1]).sink_parquet(sys.argv[2])"
AT_A_STROKE = "import polars, sys; polars.read_{0}(sys.argv[1]).write_parquet(sys.argv[2])"


@dataclass(frozen=True, slots=True)
class Large:
    """A folder with a job whose input has so many rows."""

    folder: Path
    rows: int
    kind: str
    shuffled: bool = False

    @property
    def job(self) -> Path:
        """The job file."""
        return self.folder / "jobs" / "bench.toml"

    @property
    def input(self) -> Path:
        """The rows."""
        return self.folder / f"rows.{self.kind}"

    def rowmill(self, command: str, emulator: Emulator, *flags: str) -> list[str]:
        """Return a command on the job."""
        return [
            *(sys.executable, "-m", "pipeline", command, str(self.job)),
            *("--base-url", emulator.address, *flags),
        ]


@dataclass(slots=True)
class Marks:
    """When the emulator had a first request of a run, and when the output began."""

    emulator: Emulator
    folder: Path
    first_s: float = 0.0
    output_s: float = 0.0

    def watch(self, _pid: int) -> None:
        """Look until the output has begun."""
        began = time.perf_counter()
        self._see_first(began)
        while not (self.folder / "out").exists():
            time.sleep(EVERY_S)
        self.output_s = time.perf_counter() - began

    def kill(self, pid: int) -> None:
        """Look until the first request is there, then kill the run."""
        self._see_first(time.perf_counter())
        os.kill(pid, signal.SIGKILL)

    def _see_first(self, began: float) -> None:
        before = self.emulator.stats()["requests"]
        while self.emulator.stats()["requests"] == before:
            time.sleep(EVERY_S)
        self.first_s = time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Run:
    """What was measured for one input."""

    large: Large
    status: Took
    resumed: Took
    new: Marks
    marks: Marks
    streamed: Took
    at_a_stroke: Took

    @property
    def output_s(self) -> float:
        """Seconds of the output."""
        return self.resumed.seconds - self.marks.output_s

    def line(self) -> list[str]:
        """Return the figures for the table."""
        tooks = (self.status, self.resumed, self.streamed, self.at_a_stroke)
        return [
            f"{self.large.rows:,} {self.large.kind}{', shuffled' * self.large.shuffled}",
            f"{self.status.seconds:.1f}",
            f"{self.new.first_s:.1f}",
            f"{self.marks.first_s:.1f}",
            f"{self.output_s:.1f}",
            f"{self.large.rows / self.output_s:,.0f}",
            f"{self.resumed.seconds:.1f}",
            f"{self.resumed.cpu_seconds:.1f}",
            *(f"{took.peak_mib:.0f}" for took in tooks),
            f"{self.streamed.seconds:.1f}",
        ]


HEAD = [
    *(
        "rows",
        "status s",
        "first request, new s",
        "first request s",
        "output s",
        "output rows/s",
        "run s",
        "run CPU s",
    ),
    *("MiB status", "run", "Polars streaming", "Polars at a stroke", "Polars streaming s"),
]


def make(large: Large, address: str) -> None:
    """Write job, input and parts, in a process of its own, since this one must stay small."""
    for part in ("jobs", "schemas", "state"):
        (large.folder / part).mkdir()
    large.job.write_text(JOB.replace("rows.csv", large.input.name))
    (large.folder / "schemas" / "review.py").write_text((ROOT / "benchmarks" / "review.py").read_text())
    order = "shuffled" if large.shuffled else "ordered"
    given = [str(large.job), str(large.input), str(large.rows), str(large.rows - PENDING), address, order]
    subprocess.run([sys.executable, "-m", "benchmarks.filling", *given], cwd=ROOT, check=True)


def run(large: Large) -> Run:
    """Measure all steps on one input."""
    env = environment(large.folder)
    with emulating() as emulator:
        make(large, emulator.address)
        new, marks = Marks(emulator, large.folder), Marks(emulator, large.folder)
        measure(large.rowmill("run", emulator, "--quiet"), env, new.kill)
        resumed = _went_well(measure(large.rowmill("run", emulator, "--quiet"), env, marks.watch))
        status = _went_well(measure(large.rowmill("status", emulator), env))
        asked = emulator.stats()["distinct"]
    if asked != PENDING:
        raise SystemExit(f"{asked:,} rows were asked where {PENDING:,} were pending")
    plain = [str(large.input), str(large.folder / "polars.parquet")]
    ways = [[sys.executable, "-c", way.format(large.kind), *plain] for way in (STREAMED, AT_A_STROKE)]
    streamed, at_a_stroke = (_went_well(measure(way, env)) for way in ways)
    return Run(large, status, resumed, new, marks, streamed, at_a_stroke)


def _went_well(took: Took) -> Took:
    if took.code:
        raise SystemExit(f"a command ended with exit code {took.code}")
    return took


def broken(small: Run, large: Run) -> Iterator[str]:
    """Yield the promises that were not kept."""
    peak, growth = large.resumed.peak_mib, large.resumed.peak_mib / small.resumed.peak_mib
    per_minute = large.large.rows / large.output_s * 60
    if peak * 2**20 > MOST_MB * 1e6:
        yield f"{peak:.0f} MiB is more than {MOST_MB} MB"
    if growth > MOST_GROWTH:
        yield f"{growth:.2f} times the memory of a tenth is more than {MOST_GROWTH}"
    if per_minute < LEAST_PER_MINUTE:
        yield f"{per_minute:,.0f} rows of output a minute are fewer than {LEAST_PER_MINUTE:,}"
    if large.marks.first_s > MOST_TO_FIRST_S:
        yield f"the first request after {large.marks.first_s:.1f} s is later than after {MOST_TO_FIRST_S} s"


def main() -> int:
    """Print a table of both sizes for each format."""
    parser = argparse.ArgumentParser(description="a large job, nearly done")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows of the larger input")
    parser.add_argument("--format", nargs="+", default=["parquet", "csv"], choices=["parquet", "csv"])
    parser.add_argument("--shuffled", action="store_true", help="the input in another order than the parts")
    given = parser.parse_args()
    print(echo(), flush=True)
    faults, lines = [], []
    for kind in given.format:
        runs = []
        for rows in (given.rows // 10, given.rows):
            with tempfile.TemporaryDirectory(prefix="rowmill-") as folder:
                runs.append(run(Large(Path(folder), rows, kind, given.shuffled)))
        small, large = runs
        growth = large.resumed.peak_mib / small.resumed.peak_mib
        lines += [small.line(), large.line()]
        faults += [f"{kind}: {fault}" for fault in broken(small, large)]
        print(f"{kind}: peak of {large.large.rows:,} rows / of a tenth: {growth:.2f}", flush=True)
    print("\n".join([table(HEAD, lines), *faults]))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
