"""Kills a run again and again, and shows that its table is that of an unbroken run and next to nothing is repeated.

    python benchmarks/kills.py [--rows 2000] [--kills 10] [--seed 1]

The same command is started until it ends by itself. Each start but the last gets SIGKILL: after a time drawn
between half a second and what is left of the run or, for the last kills, while the final table is written.
A run that ends before its kill is compared, and the kills go on with a new one. The emulator stays up and
counts how often it has answered each prompt. What was in flight at a kill is read from the dead run's files:
requests in its ledger of the day without a reply in its journal. Exit code 1 where a promise is broken.
"""

import argparse
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import Emulator, Project, echo, emulating, environment, measure, project, start, table

LATENCY_S = 0.05
FIRST_S = 0.5
START_S = 2.5  # about what a run takes until it asks
AT_WRITE = 3  # one kill in so many comes during the final write
WRITE_S = 0.03  # and within so long of the table's first byte
LOOK_S = 0.0005


@dataclass(frozen=True, slots=True)
class Trial:
    """What all runs share: who answers, the settings, and the table of the unbroken run."""

    emulator: Emulator
    rows: int
    concurrency: int
    seconds: float
    unbroken: pl.DataFrame
    dice: random.Random

    def command(self, made: Project) -> list[str]:
        """Return the command that is started again and again."""
        return made.command(self.emulator, "--concurrency", str(self.concurrency))


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: after how long, and how far the run was."""

    moment: str
    seconds: float
    replies: int
    in_flight: int


@dataclass(slots=True)
class Broken:
    """One run that was killed until it ended by itself, and what came of it."""

    kills: list[Kill] = field(default_factory=list)
    repeated: int = 0
    lost: int = 0
    doubled: int = 0
    same: bool = False

    @property
    def in_flight(self) -> int:
        """All that was in flight at its kills."""
        return sum(kill.in_flight for kill in self.kills)


def broken_run(trial: Trial, moments: list[str]) -> Broken:
    """Run a job with these moments of death; takes those that came to pass from `moments`."""
    broken = Broken()
    trial.emulator.reset()
    with project(trial.rows) as made:
        while moments and (kill := killed(trial, made, moments[0], broken.in_flight)):
            broken.kills.append(kill)
            moments.pop(0)
        if measure(trial.command(made), environment(made.folder)).code:
            raise SystemExit("a run that nobody killed has failed")
        broken.repeated = trial.emulator.stats()["repeated"]
        found = pl.read_parquet(made.output)
    broken.lost = trial.rows - found["id"].n_unique()
    broken.doubled = found.height - found["id"].n_unique()
    broken.same = found.drop("_latency_ms").equals(trial.unbroken.drop("_latency_ms"))
    return broken


def killed(trial: Trial, made: Project, moment: str, earlier: int) -> Kill | None:
    """Start the run and kill it at its moment; None where it had ended before."""
    rest = 1 - replies(made) / trial.rows
    delay = trial.dice.uniform(FIRST_S, START_S + max(0.0, trial.seconds - START_S) * rest)
    with start(trial.command(made), environment(made.folder)) as process:
        began = time.monotonic()
        if moment == "write":
            _wait(process, lambda: any(made.output.parent.glob("*.tmp")))
            time.sleep(trial.dice.uniform(0, WRITE_S))
        else:
            _wait(process, lambda: time.monotonic() - began >= delay)
        process.kill()
        seconds = time.monotonic() - began
        if process.wait() >= 0:
            return None
    known = replies(made)
    return Kill(moment, seconds, known, sent(made) - known - earlier)


def _wait(process: "subprocess.Popen[bytes]", due: Callable[[], bool]) -> None:
    while process.poll() is None and not due():
        time.sleep(LOOK_S)


def replies(made: Project) -> int:
    """Return how many replies the journal holds."""
    found = list(made.folder.glob(".rowmill/bench/*/replies.sqlite"))
    return _number(found[0], "reply", "count(*)") if found else 0


def sent(made: Project) -> int:
    """Return how many requests the runs have counted as sent."""
    ledger = made.folder / "state" / "ledger.sqlite"
    return _number(ledger, "sent", "coalesce(sum(requests), 0)") if ledger.exists() else 0


def _number(file: Path, name: str, expression: str) -> int:
    """Ask a copy of a database that a dead process left, so that its recovery is left to the next run."""
    with tempfile.TemporaryDirectory() as folder:
        for piece in (file, file.with_name(f"{file.name}-wal")):
            if piece.exists():
                shutil.copy(piece, folder)
        with closing(sqlite3.connect(Path(folder) / file.name)) as db:
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone():
                return 0
            return int(db.execute(f"SELECT {expression} FROM {name}").fetchone()[0])


def unbroken_run(emulator: Emulator, rows: int, concurrency: int) -> tuple[pl.DataFrame, float]:
    """Return the table of a run that nobody disturbs, and how long it took."""
    with project(rows) as made:
        took = measure(made.command(emulator, "--concurrency", str(concurrency)), environment(made.folder))
        if took.code:
            raise SystemExit(f"the unbroken run ended with exit code {took.code}")
        return pl.read_parquet(made.output), took.seconds


def main() -> int:
    """Print each kill and what the runs came to; 1 where a table differs or too much was repeated."""
    parser = argparse.ArgumentParser(description="kills and restarts of a run")
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=32, help="requests in flight")
    given = parser.parse_args()
    print(echo(), flush=True)
    at_write = given.kills // AT_WRITE
    moments = ["time"] * (given.kills - at_write) + ["write"] * at_write
    runs = []
    with emulating("--latency", str(LATENCY_S)) as emulator:
        unbroken, seconds = unbroken_run(emulator, given.rows, given.concurrency)
        dice = random.Random(given.seed)
        trial = Trial(emulator, given.rows, given.concurrency, seconds, unbroken, dice)
        while moments:
            runs.append(broken_run(trial, moments))
    print(report(runs, trial))
    return int(not all(kept(run, given.concurrency) for run in runs))


def kept(run: Broken, concurrency: int) -> bool:
    """Tell whether the promise was kept: the same table, and only what was in flight is asked again."""
    thrifty = run.repeated <= run.in_flight and all(kill.in_flight <= concurrency for kill in run.kills)
    return run.same and thrifty and not run.lost and not run.doubled


def report(runs: list[Broken], trial: Trial) -> str:
    """Format the kills, and under them what the runs came to."""
    kills = [
        [f"{number}", kill.moment, f"{kill.seconds:.2f}", f"{kill.replies:,}", f"{kill.in_flight}"]
        for number, run in enumerate(runs, 1)
        for kill in run.kills
    ]
    ends = [
        [f"{number}", f"{len(run.kills)}", "yes" if run.same else "NO", f"{run.lost}", f"{run.doubled}"]
        + [f"{run.repeated}", f"{run.in_flight}", f"{len(run.kills) * trial.concurrency}"]
        for number, run in enumerate(runs, 1)
    ]
    head = ["run", "kills", "same table", "rows lost", "doubled", "asked twice", "in flight", "allowed"]
    first = f"unbroken: {trial.rows:,} rows in {trial.seconds:.1f} s"
    detail = table(["run", "killed by", "after s", "replies kept", "in flight"], kills)
    return f"{first}\n\n{detail}\n\n{table(head, ends)}"


if __name__ == "__main__":
    sys.exit(main())
