"""Kill runs again and again: their tables must be those of unbroken runs, hardly anything asked twice.

    python benchmarks/kills.py [--kills 60] [--seed 1]

The same command is started until it ends by itself; each start before gets SIGKILL. Jobs of different kinds
(see `JOBS`) take turns. Each is run twice over the same rows: the first time some rows fail, the second time
is `--retry-failed` while they no longer would. The moments are drawn:

start       from half a second to the first request
middle      once a share of the rows that are left has been answered
part        while a part is written: its draft is there
checkpoint  while the journal's log is moved into its file, which is written to then
compaction  while small parts are replaced by a larger one, which removes them
write       while the final table is written: its draft is there

A run that ends before its kill is compared all the same, and the kills go on with a new one. The emulator
stays up and counts all answers, and how often it has given each. What was in flight at a kill is what it had
answered without a reply in the dead run's journal. At the end all answers must be in the journal but those in
flight at a kill: else a reply that was kept was asked for again. Exit code 1 where a promise is broken.
"""

import argparse
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import (
    Emulator,
    Project,
    echo,
    emulating,
    environment,
    markdown,
    measure,
    project,
    start,
)

LATENCY_S = 0.05
FIRST_S = 0.5
SPREAD_S = 0.03  # a kill comes up to so long after what it waits for
AT_ONCE = {"part", "checkpoint", "compaction"}  # these are over sooner
SHORT_S = 0.006
LOOK_S = 0.0005
ILL = "Order 7"  # rows with this fail in the first run
FAULTS = [f"finish-safety~{ILL}"]

MOMENTS = ["start", "middle", "part", "checkpoint", "write"]
if find_spec("pipeline.store.compaction"):
    MOMENTS.append("compaction")
EACH = 8  # kills of one job at most

Due = Callable[[int], bool]  # of a process id


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job: its size, how much is in flight, how small its parts are, and its format."""

    rows: int
    concurrency: int
    part_rows: int
    parquet: bool

    def __str__(self) -> str:
        """Name it in a table."""
        ending = "Parquet" if self.parquet else "CSV"
        return f"{self.rows:,} rows of {ending}, {self.concurrency} in flight, parts of {self.part_rows:,}"


JOBS = [
    Kind(1_500, 32, 400, parquet=False),
    Kind(800, 64, 20, parquet=True),
    Kind(300, 4, 10, parquet=False),
    Kind(2_000, 128, 100, parquet=True),
]


@dataclass(frozen=True, slots=True)
class Trial:
    """What all runs of a kind share: who answers, the time to the first request, and the unbroken tables."""

    emulator: Emulator
    kind: Kind
    first_request_s: float
    unbroken: list[pl.DataFrame]
    dice: random.Random


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: after how long, and how far the run was."""

    moment: str
    seconds: float
    replies: int
    in_flight: int


@dataclass(slots=True)
class Broken:
    """One job that was killed until it ended by itself, and what came of it."""

    kind: Kind
    kills: list[Kill] = field(default_factory=list)
    repeated: int = 0
    kept_but_asked: int = 0
    lost: int = 0
    doubled: int = 0
    same: bool = True

    @property
    def in_flight(self) -> int:
        """All that was in flight at its kills."""
        return sum(kill.in_flight for kill in self.kills)


@contextmanager
def job(kind: Kind) -> Iterator[Project]:
    """Make a project of this kind."""
    with project(kind.rows) as made:
        if kind.parquet:
            pl.read_csv(made.table, infer_schema=False).write_parquet(made.table.with_suffix(".parquet"))
            file = made.folder / "jobs" / "bench.toml"
            file.write_text(file.read_text().replace("rows.csv", "rows.parquet"))
        yield made


def command(trial: Trial, made: Project, turn: int) -> list[str]:
    """Return the command that is started again and again; in its second turn it retries what has failed."""
    kind = trial.kind
    flags = ["--concurrency", str(kind.concurrency), *(["--retry-failed"] if turn else [])]
    given = made.command(trial.emulator, *flags)[3:]
    return [sys.executable, str(Path(__file__).with_name("small_parts.py")), str(kind.part_rows), *given]


def broken_run(trial: Trial, moments: list[str]) -> Broken:
    """Run a job with these moments of death; takes those that came to pass from `moments`."""
    broken = Broken(trial.kind)
    with job(trial.kind) as made:
        for turn in (0, 1):
            begin(trial.emulator, turn)
            before, earlier = replies(made), broken.in_flight
            most = len(moments) // 2 if turn == 0 else 0  # the other half is for the second turn
            while len(moments) > most and (kill := killed(trial, made, moments[0], turn, before=before)):
                broken.kills.append(kill)
                moments.pop(0)
            trial.dice.shuffle(moments)  # the one that did not come waits its turn
            if measure(command(trial, made, turn), environment(made.folder)).code != 1 - turn:
                raise SystemExit("a run that nobody killed has failed")
            kept_now, lost_now = replies(made) - before, broken.in_flight - earlier
            stats = trial.emulator.stats()
            broken.repeated += stats["repeated"]
            broken.kept_but_asked += stats["answered"] - kept_now - lost_now
            compare(broken, pl.read_parquet(made.output), trial.unbroken[turn])
    return broken


def begin(emulator: Emulator, turn: int) -> None:
    """Let the emulator count from zero, and some rows fail in the first turn."""
    emulator.change({"faults": [] if turn else FAULTS})
    emulator.reset()


def compare(broken: Broken, found: pl.DataFrame, unbroken: pl.DataFrame) -> None:
    """Write down in what a table differs from that of the unbroken run."""
    broken.lost += unbroken.height - found["id"].n_unique()
    broken.doubled += found.height - found["id"].n_unique()
    broken.same &= found.drop("_latency_ms").equals(unbroken.drop("_latency_ms"))


def killed(trial: Trial, made: Project, moment: str, turn: int, *, before: int) -> Kill | None:
    """Start the run and kill it at its moment; None where it had ended before.

    `before` is how many replies the journal held at the beginning of this turn.
    """
    missing = trial.emulator.stats()["answered"] - (replies(made) - before)
    due = _due(trial, made, moment, turn)
    with start(command(trial, made, turn), environment(made.folder)) as process:
        began = time.monotonic()
        _wait(process, due)
        time.sleep(trial.dice.uniform(0, SHORT_S if moment in AT_ONCE else SPREAD_S))
        process.kill()
        seconds = time.monotonic() - began
        if process.wait() >= 0:
            return None
    while (stats := trial.emulator.stats())["in_flight"]:
        time.sleep(LOOK_S)
    known = replies(made)
    return Kill(moment, seconds, known, stats["answered"] - (known - before) - missing)


def _due(trial: Trial, made: Project, moment: str, turn: int) -> Due:
    """Draw when a run that starts now is to die; the answer says whether that has come."""
    skipped = 0 if turn else trial.dice.randrange(3)
    match moment:
        case "write":
            return lambda pid: any(made.output.parent.glob(f"*.{pid}.tmp"))
        case "part":
            return _news(lambda: made.folder.glob(".rowmill/bench/*/parts/part-*.tmp"), skipped)
        case "compaction":
            return _gone(lambda: made.folder.glob(".rowmill/bench/*/parts/part-*.parquet"))
        case "checkpoint":
            return _written(made, skipped)
        case "start":
            end = time.monotonic() + trial.dice.uniform(FIRST_S, trial.first_request_s)
            return lambda _pid: time.monotonic() >= end
    left = trial.kind.rows - replies(made)
    enough = trial.emulator.stats()["answered"] + round(trial.dice.uniform(0, 0.9) * max(0, left))
    return lambda _pid: trial.emulator.stats()["answered"] > enough


def _news(drafts: Callable[[], Iterable[Path]], skipped: int) -> Due:
    """Wait for a draft that was not there before, and was not one of the first `skipped`."""
    seen = set(drafts())
    enough = len(seen) + skipped

    def due(_pid: int) -> bool:
        seen.update(drafts())
        return len(seen) > enough

    return due


def _gone(parts: Callable[[], Iterable[Path]]) -> Due:
    """Wait until a part that was there is not there any more."""
    seen = set(parts())

    def due(_pid: int) -> bool:
        now = set(parts())
        gone = bool(seen - now)
        seen.update(now)
        return gone

    return due


def _written(made: Project, skipped: int) -> Due:
    """Wait until the journal itself is written to, which only its checkpoints do."""
    times: set[int] = set()

    def due(_pid: int) -> bool:
        for file in made.folder.glob(".rowmill/bench/*/replies.sqlite"):
            times.add(file.stat().st_mtime_ns)
        return len(times) > 2 + skipped  # it was there, and is made ready

    return due


def _wait(process: "subprocess.Popen[bytes]", due: Due) -> None:
    while process.poll() is None and not due(process.pid):
        time.sleep(LOOK_S)


def replies(made: Project) -> int:
    """Return how many replies the journal holds."""
    found = list(made.folder.glob(".rowmill/bench/*/replies.sqlite"))
    return _number(found[0], "reply", "count(*)") if found else 0


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


def unbroken(emulator: Emulator, kind: Kind, dice: random.Random) -> Trial:
    """Run a job that nobody disturbs, both turns; its tables and its pace are what kills are judged by."""
    asked: list[float] = []

    def first_request(_pid: int) -> None:
        while not emulator.stats()["requests"]:
            time.sleep(LOOK_S)
        asked.append(time.monotonic())

    trial, began = Trial(emulator, kind, 0.0, [], dice), 0.0
    with job(kind) as made:
        for turn in (0, 1):
            begin(emulator, turn)
            began = began if turn else time.monotonic()
            watch = None if turn else first_request
            if measure(command(trial, made, turn), environment(made.folder), watch).code != 1 - turn:
                raise SystemExit("the unbroken run has failed")
            trial.unbroken.append(pl.read_parquet(made.output))
    return replace(trial, first_request_s=asked[0] - began)


def moments_of(kills: int, dice: random.Random) -> list[str]:
    """Draw the kinds of moments, as many of each; those of the final write come last in each run."""
    chosen = [MOMENTS[number % len(MOMENTS)] for number in range(kills)]
    dice.shuffle(chosen)
    return chosen


def main() -> int:
    """Print each kill and what the runs came to; 1 where a table differs or too much was repeated."""
    parser = argparse.ArgumentParser(description="kills and restarts of runs")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(echo(), flush=True)
    dice = random.Random(given.seed)
    runs: list[Broken] = []
    with emulating("--latency", str(LATENCY_S)) as emulator:
        trials = [unbroken(emulator, kind, dice) for kind in JOBS]
        moments = moments_of(given.kills, dice)
        while moments:
            trial = trials[len(runs) % len(trials)]
            mine = moments[:EACH]
            del moments[:EACH]
            runs.append(broken_run(trial, mine))
            moments += mine  # those that did not come to pass
            print(lines(runs[-1]), flush=True)
    print(report(runs))
    return int(not all(map(kept, runs)))


def kept(run: Broken) -> bool:
    """Tell whether the promise was kept: the same tables, and only what was in flight is asked again."""
    thrifty = run.repeated <= run.in_flight and not run.kept_but_asked
    within = all(kill.in_flight <= run.kind.concurrency for kill in run.kills)
    return run.same and thrifty and within and not run.lost and not run.doubled


def lines(run: Broken) -> str:
    """Format the kills of one run."""
    return "\n".join(
        f"{kill.moment:<10}  {kill.seconds:6.2f} s  {kill.replies:6,} kept  {kill.in_flight:4} in flight"
        for kill in run.kills
    )


def report(runs: list[Broken]) -> str:
    """Format what the runs came to, by kind of job, and the kills by moment."""
    head = ["job", "kills", "same tables", "lost", "doubled", "kept, asked again", "sent twice", "in flight"]
    ends = [row for kind in JOBS if (row := _sum(kind, [run for run in runs if run.kind == kind]))]
    moments = Counter(kill.moment for run in runs for kill in run.kills)
    counted = ", ".join(f"{number} {moment}" for moment, number in moments.most_common())
    return f"\n{markdown(head, ends)}\n\n{moments.total()} kills: {counted}"


def _sum(kind: Kind, runs: list[Broken]) -> list[str]:
    if not runs:
        return []
    sums = [
        sum(getattr(run, name) for run in runs)
        for name in ("lost", "doubled", "kept_but_asked", "repeated", "in_flight")
    ]
    same = "yes" if all(run.same for run in runs) else "NO"
    return [str(kind), str(sum(len(run.kills) for run in runs)), same, *map(str, sums)]


if __name__ == "__main__":
    sys.exit(main())
