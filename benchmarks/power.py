"""Cuts the power under a run, again and again: the file system is shut down, and what it lacks then is gone.

    python benchmarks/power.py [--cuts 24] [--rows 5200] [--seed 1] [--system ext4 xfs]

Needs root, loop devices, and mkfs and xfs_io of the file systems (Debian: e2fsprogs, xfsprogs). Run folder,
state and output lie on a file system of their own in an image; job, rows and the emulator outside. A cut is
the kernel's own shutdown of a file system without a last write of its log; then the process is killed, and
the image is unmounted and mounted again, which replays the log. The moments are drawn: `start`, `asking`,
`checkpoint`, when the journal's log is being moved into its file, and `write`, when there is the draft of a
part or of the output. When an image has been cut so often that all rows are done, a new one begins.

Judged after each cut: every file of the folder can be read, and how many replies are gone that were answered
longer ago than a sync takes (0.1 s, and 0.4 s for the way and a slow disk). After the last cut of an image
the same command must finish with the table of an unbroken run, having asked again only for what was lost or
in flight. Exit code 1 where a promise is broken.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import Emulator, Project, echo, emulating, environment, measure, project, start, table
from pipeline.store.entries import checksum
from pipeline.store.journal import ALL
from pipeline.store.salvage import readable

LATENCY_S = 0.05
IN_FLIGHT = 32
SIZE = 512 * 2**20  # of an image; xfs takes no less than 300 MB
SYNC_S = 0.1
SLACK_S = 0.4  # until a sync begun has ended, on a slow disk
NEEDED = ["mount", "umount", "xfs_io"]
MOMENTS = ["start", "asking", "asking", "checkpoint", "write"]
BEGUN = 50  # answers after which the journal is no longer being opened


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut: its moment, replies answered until then without those lost before, those still there."""

    system: str
    moment: str
    answered: int
    kept: int
    gone: int  # of those that were answered longer ago than a sync takes
    unread: list[str]

    @property
    def lost(self) -> int:
        """Replies that are to be asked for again: not synced, or still in flight."""
        return self.answered - self.kept


@dataclass(slots=True)
class Life:
    """One image from its first cut to the finished table."""

    system: str
    cuts: list[Cut] = field(default_factory=list)
    repeated: int = 0
    same: bool = False
    notes: int = 0


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system in an image, mounted while it lives."""

    system: str
    image: Path
    point: Path

    def make(self) -> None:
        """Make it empty."""
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        quiet = ["-F", "-q"] if self.system == "ext4" else ["-q"]
        call(f"mkfs.{self.system}", *quiet, str(self.image))

    def mount(self) -> None:
        """Mount it, which replays what its log holds."""
        call("mount", "-o", "loop", str(self.image), str(self.point))

    def cut(self) -> None:
        """Take the power away: from now on nothing reaches the image."""
        call("xfs_io", "-x", "-c", "shutdown", str(self.point))

    def unmount(self) -> None:
        """Unmount it; files that a dying process holds may take a moment."""
        for _ in range(50):
            if subprocess.run(["umount", str(self.point)], check=False, capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise SystemExit(f"{self.point} cannot be unmounted")


def call(*command: str) -> None:
    """Run a command of the system; SystemExit with what it says where it fails."""
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command)}: {ran.stderr.strip()}")


@contextlib.contextmanager
def disk(system: str, folder: Path) -> Iterator[Disk]:
    """Make a file system, mount it, and unmount it in the end."""
    made = Disk(system, folder / "image", folder / "disk")
    made.point.mkdir()
    made.make()
    made.mount()
    try:
        yield made
    finally:
        made.unmount()


@dataclass(frozen=True, slots=True)
class Trial:
    """What all cuts share."""

    emulator: Emulator
    rows: int
    unbroken: pl.DataFrame
    dice: random.Random


@dataclass(frozen=True, slots=True)
class Run:
    """A project whose run folder, state and output lie on a disk."""

    made: Project
    disk: Disk

    @property
    def output(self) -> Path:
        """The table."""
        return self.disk.point / "out" / "bench.parquet"

    @property
    def folder(self) -> Path | None:
        """The run folder, once there is one."""
        return next(iter(self.disk.point.glob("runs/bench/*")), None)

    def command(self, emulator: Emulator) -> list[str]:
        """Return the command that is started again and again."""
        runs, out = str(self.disk.point / "runs"), str(self.output)
        place = ["--runs-dir", runs, "--output", out, "--concurrency", str(IN_FLIGHT)]
        return self.made.command(emulator, *place)

    def environment(self) -> dict[str, str]:
        """Return the environment of the command."""
        return environment(self.made.folder) | {"ROWMILL_STATE_DIR": str(self.disk.point / "state")}


class Watch:
    """Tells when a moment has come, and remembers when how many replies were answered."""

    def __init__(self, trial: Trial, run: Run, moment: str) -> None:
        self._trial, self._run, self._moment = trial, run, moment
        self._began = time.monotonic()
        self._earlier = trial.emulator.stats()["answered"]
        self._after = trial.dice.uniform(0.8, 3.5)  # seconds
        self._enough = trial.dice.uniform(0.02, 0.3) * trial.rows
        self._changed: int | None = None
        self._seen: list[tuple[float, int]] = []

    def answered(self) -> int:
        """Return how many replies this start of the run has had, and note it."""
        self._seen.append((time.monotonic(), self._trial.emulator.stats()["answered"] - self._earlier))
        return self._seen[-1][1]

    def until(self, moment: float) -> int:
        """Return how many there were at a moment."""
        return max((number for at, number in self._seen if at <= moment), default=0)

    def is_due(self) -> bool:
        """Tell whether the power is to be cut now."""
        answered = self.answered()
        match self._moment:
            case "asking":
                return answered >= self._enough
            case "checkpoint":
                return answered >= BEGUN and self._is_moved()
            case "write":
                places = [self._run.output.parent, *self._run.disk.point.glob("runs/bench/*/parts")]
                return any(True for place in places for _ in place.glob("*.tmp"))
        return time.monotonic() - self._began >= self._after

    def _is_moved(self) -> bool:
        folder = self._run.folder
        assert folder is not None  # there were answers
        changed = (folder / "replies.sqlite").stat().st_mtime_ns
        before, self._changed = self._changed, changed
        return before not in (None, changed)


def cut_once(trial: Trial, run: Run, moment: str, earlier: int) -> Cut | None:
    """Start the run, cut the power at its moment, look at what is left; None where it had ended before."""
    watch = Watch(trial, run, moment)
    with start(run.command(trial.emulator), run.environment()) as process:
        while process.poll() is None and not watch.is_due():
            time.sleep(0.005)
        if process.poll() is not None:
            return None
        before = time.monotonic()
        run.disk.cut()
        process.kill()
        process.wait()
    time.sleep(2 * LATENCY_S)  # what was in flight is answered to nobody
    total = watch.answered()
    run.disk.unmount()
    run.disk.mount()
    kept, unread = audit(run)
    old = earlier + watch.until(before - SYNC_S - SLACK_S)
    return Cut(run.disk.system, moment, earlier + total, kept, max(0, old - kept), unread)


def audit(run: Run) -> tuple[int, list[str]]:
    """Return how many rows a copy of the folder has a whole reply of, and the files that cannot be read."""
    if run.folder is None:
        return 0, []
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "copy"
        shutil.copytree(run.folder, copy)
        found, unread = _parts(copy)
        for _, *values, crc in readable(copy / "replies.sqlite", ALL):
            if checksum(*values) == crc:
                found.add(values[1])
            else:
                unread.append("replies.sqlite")
    return len(found), unread


def _parts(folder: Path) -> tuple[set[bytes], list[str]]:
    found: set[bytes] = set()
    unread = []
    for part in folder.glob("parts/part-*.parquet"):
        try:
            found |= set(pl.read_parquet(part)["_key"])
        except (OSError, pl.exceptions.PolarsError):
            unread.append(part.name)
    identity = folder / "identity.json"
    if identity.exists() and not identity.stat().st_size:
        unread.append(identity.name)
    return found, unread


def live(trial: Trial, system: str, moments: list[str]) -> Life:
    """Cut the power of one image at these moments until the run ends by itself, then look at the table."""
    life = Life(system)
    trial.emulator.reset()
    with (
        project(trial.rows) as made,
        tempfile.TemporaryDirectory(prefix="rowmill-") as place,
        disk(system, Path(place)) as mounted,
    ):
        run = Run(made, mounted)
        earlier = 0
        while moments and (cut := cut_once(trial, run, moments[0], earlier)) is not None:
            earlier = cut.kept
            life.cuts.append(cut)
            moments.pop(0)
        took = measure(run.command(trial.emulator), run.environment())
        if took.code:
            raise SystemExit(f"the run after the cuts has ended with {took.code}")
        life.repeated = trial.emulator.stats()["repeated"]
        found = pl.read_parquet(run.output)
        life.notes = len(list(run.disk.point.glob("runs/bench/*/**/*.damaged*")))
    life.same = found.drop("_latency_ms").equals(trial.unbroken.drop("_latency_ms"))
    return life


def unbroken(emulator: Emulator, rows: int) -> pl.DataFrame:
    """Return the table of a run that nobody disturbs."""
    with project(rows) as made:
        if measure(made.command(emulator), environment(made.folder)).code:
            raise SystemExit("the unbroken run has failed")
        return pl.read_parquet(made.output)


def missing(systems: list[str]) -> str | None:
    """Say what this machine lacks for the cuts, or None."""
    if os.geteuid():
        return "only root may mount file systems"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    lacks = [name for name in [*NEEDED, *(f"mkfs.{one}" for one in systems)] if shutil.which(name) is None]
    return f"not installed: {', '.join(lacks)} (Debian: e2fsprogs, xfsprogs)" if lacks else None


def report(lives: list[Life]) -> str:
    """Format the cuts, and under them what the lives came to."""
    cuts = [
        [
            c.system,
            c.moment,
            f"{c.answered:,}",
            f"{c.kept:,}",
            f"{c.lost}",
            f"{c.gone}",
            _names(c),
        ]
        for life in lives
        for c in life.cuts
    ]
    ends = [
        [
            life.system,
            f"{len(life.cuts)}",
            "yes" if life.same else "NO",
            f"{sum(cut.gone for cut in life.cuts)}",
            f"{life.repeated}",
            f"{allowed(life)}",
            f"{life.notes}",
        ]
        for life in lives
    ]
    head = ["system", "cut at", "answered", "kept", "lost or in flight", "lost after a sync", "unreadable"]
    detail = table(head, cuts)
    head = [
        "system",
        "cuts",
        "same table",
        "lost after a sync",
        "asked twice",
        "lost or in flight",
        "set aside",
    ]
    return f"{detail}\n\n{table(head, ends)}"


def _names(cut: Cut) -> str:
    return ", ".join(cut.unread) or "none"


def allowed(life: Life) -> int:
    """Return how many requests may be repeated: what each cut had in flight or not yet synced."""
    return sum(cut.lost for cut in life.cuts)


def kept(life: Life) -> bool:
    """Tell whether all promises were kept."""
    whole = not any(cut.gone or cut.unread for cut in life.cuts)
    return life.same and whole and life.repeated <= allowed(life)


def main() -> int:
    """Print each cut and what the lives came to; 1 where a promise was broken, 0 also where none could be."""
    parser = argparse.ArgumentParser(description="power cuts under a run")
    parser.add_argument("--cuts", type=int, default=24, help="for each file system")
    parser.add_argument("--rows", type=int, default=5_200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--system", nargs="+", default=["ext4", "xfs"])
    given = parser.parse_args()
    print(echo(), flush=True)
    if (lack := missing(given.system)) is not None:
        print(f"skipped: {lack}")
        return 0
    dice = random.Random(given.seed)
    lives: list[Life] = []
    with emulating("--latency", str(LATENCY_S)) as emulator:
        trial = Trial(emulator, given.rows, unbroken(emulator, given.rows), dice)
        for system in given.system:
            moments = [dice.choice(MOMENTS) for _ in range(given.cuts)]
            while moments:
                lives.append(live(trial, system, moments))
                print(f"{system}: {len(moments)} cuts to go", file=sys.stderr)
    print(report(lives))
    return int(not all(kept(life) for life in lives))


if __name__ == "__main__":
    sys.exit(main())
