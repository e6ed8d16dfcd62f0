"""Kills a run again and again: its table must be that of an unbroken run, and next to nothing asked twice.

    python benchmarks/kills.py [--rows 2000] [--kills 10] [--seed 1]

The same command is started until it ends by itself; each start before gets SIGKILL. The moments are drawn:
`start`, from half a second to the first request; `middle`, once a share of the rows that are left has been
answered; `write`, within the first moments of the final table's draft. A run that ends before its kill is
compared all the same, and the kills go on with a new one. The emulator stays up and counts how often it has
answered each prompt. What was in flight at a kill is read from the dead run's files: requests in its ledger
of the day without a reply in its journal. Exit code 1 where a promise is broken.
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
SPREAD_S = 0.03  # a kill comes up to so long after what it waits for
WRITES = 3  # one kill in so many comes during the final write
LOOK_S = 0.001

Due = Callable[[int], bool]  # of a process id


@dataclass(frozen=True, slots=True)
class Trial:
    """What all runs share: who answers, the settings, and the table of the unbroken run."""

    emulator: Emulator
    rows: int
    concurrency: int
    first_request_s: float
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
    due = _due(trial, made, moment)
    with start(trial.command(made), environment(made.folder)) as process:
        began = time.monotonic()
        _wait(process, due)
        time.sleep(trial.dice.uniform(0, SPREAD_S))
        process.kill()
        seconds = time.monotonic() - began
        if process.wait() >= 0:
            return None
    known = replies(made)
    return Kill(moment, seconds, known, sent(made) - known - earlier)


def _due(trial: Trial, made: Project, moment: str) -> Due:
    """Draw when a run that starts now is to die; the answer says whether that has come."""
    if moment == "write":
        return lambda pid: any(made.output.parent.glob(f"*.{pid}.tmp"))
    if moment == "start":
        end = time.monotonic() + trial.dice.uniform(FIRST_S, trial.first_request_s)
        return lambda _pid: time.monotonic() >= end
    known = replies(made)
    more = round(trial.dice.uniform(0, 0.9) * (trial.rows - known))
    enough = trial.emulator.stats()["answered"] + more
    return lambda _pid: trial.emulator.stats()["answered"] > enough


def _wait(process: "subprocess.Popen[bytes]", due: Due) -> None:
    while process.poll() is None and not due(process.pid):
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
    """Return the table of a run that nobody disturbs, and the seconds to its first request."""
    asked: list[float] = []

    def first_request(_pid: int) -> None:
        while not emulator.stats()["requests"]:
            time.sleep(LOOK_S)
        asked.append(time.monotonic())

    with project(rows) as made:
        command = made.command(emulator, "--concurrency", str(concurrency))
        began = time.monotonic()
        if measure(command, environment(made.folder), first_request).code:
            raise SystemExit("the unbroken run has failed")
        return pl.read_parquet(made.output), asked[0] - began


def moments_of(kills: int, dice: random.Random) -> list[str]:
    """Draw the kinds of moments: a third of the kills during the final write, the others before, mixed."""
    writes = kills // WRITES
    before = ["start", "middle"] * kills
    chosen = before[: kills - writes]
    dice.shuffle(chosen)
    return chosen + ["write"] * writes


def main() -> int:
    """Print each kill and what the runs came to; 1 where a table differs or too much was repeated."""
    parser = argparse.ArgumentParser(description="kills and restarts of a run")
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=32, help="requests in flight")
    given = parser.parse_args()
    print(echo(), flush=True)
    dice = random.Random(given.seed)
    moments = moments_of(given.kills, dice)
    runs = []
    with emulating("--latency", str(LATENCY_S)) as emulator:
        unbroken, first_request = unbroken_run(emulator, given.rows, given.concurrency)
        trial = Trial(emulator, given.rows, given.concurrency, first_request, unbroken, dice)
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
        [
            f"{number}",
            f"{len(run.kills)}",
            "yes" if run.same else "NO",
            *map(str, (run.lost, run.doubled, run.repeated, run.in_flight)),
            f"{len(run.kills) * trial.concurrency}",
        ]
        for number, run in enumerate(runs, 1)
    ]
    detail = table(["run", "killed at", "after s", "replies kept", "in flight"], kills)
    head = ["run", "kills", "same table", "rows lost", "doubled", "asked twice", "in flight", "allowed"]
    return f"{detail}\n\n{table(head, ends)}"


if __name__ == "__main__":
    sys.exit(main())
