"""Lets system calls of a run fail, or kills it there, one at a time: the same command must still finish.

    python benchmarks/syscalls.py [--points N] [--rows 60] [--seed 1]

Needs strace. Every fsync, fdatasync, rename, pwrite64 and ftruncate call of a run, or with `--points` a
sample of so many, fails with EIO or ENOSPC, or is where SIGKILL comes; counters are the threads' own, as
strace counts. strace cannot shorten a write, so two limits do: files may not grow beyond some sizes
(RLIMIT_FSIZE), and as root the run folder is put on file systems that are too small (tmpfs). A write that
reaches such a limit is cut short at it, and the next one fails. `write` is among these, not among the calls,
since standard error uses it too.

A run that fails must end with exit code 4 and a hint, without a traceback; a run that says 0 must have
written the right table; and in each case the same command without the fault must end with the table of an
undisturbed run, without one row asked again but what was in flight, and what had just arrived where it could
not be written. Exit code 1 where a promise is broken.
"""

import argparse
import contextlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import ROOT, Emulator, Project, busiest, echo, emulating, environment, project, table

CALLS = ["fsync", "fdatasync", "rename", "pwrite64", "ftruncate"]
FAULTS = ["error=EIO", "error=ENOSPC", "signal=KILL"]
SIZES = [0, 100, 3_000, 10_000, 40_000, 100_000]  # bytes that a file may have
ROOMS = [0, 8, 16, 32, 64, 96, 128, 192, 256, 512]  # KiB of a file system
ENOUGH = 65_536
IN_FLIGHT = 8
SIZE, ROOM = "bytes of a file", "KiB of a file system"
KILLED = {-9, 137}
FAILED = 4


@dataclass(frozen=True, slots=True)
class Point:
    """Where and how a run is disturbed: at which of so many calls, or by which limit (`SIZE`, `ROOM`)."""

    call: str
    number: int
    fault: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a disturbed run ended, and what is wrong with it."""

    point: Point
    code: int
    met: bool  # the run made that call
    wrong: str | None


def traced(made: Project, emulator: Emulator, *flags: str) -> list[str]:
    """Return the command under strace."""
    return ["strace", "-f", "-qq", *flags, *command(made, emulator)]


def command(made: Project, emulator: Emulator) -> list[str]:
    """Return the command that is disturbed and repeated."""
    return made.command(emulator, "--concurrency", str(IN_FLIGHT))


def ran(given: list[str], made: Project, size: int | None = None) -> tuple[int, str]:
    """Run a command; return its exit code and what it said on stderr."""

    def limit() -> None:
        if size is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    env = environment(made.folder) | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        given, check=False, cwd=ROOT, env=env, capture_output=True, text=True, preexec_fn=limit
    )
    return done.returncode, done.stderr


def counts(emulator: Emulator, rows: int) -> Counter[str]:
    """Return how often one thread makes each call in an undisturbed run, at most."""
    with project(rows) as made, tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        calls = ",".join(CALLS)
        ran(traced(made, emulator, "-e", f"trace={calls}", "-o", str(log)), made)
        return busiest(log)


def points(most: Counter[str], wanted: int | None, dice: random.Random) -> list[Point]:
    """Return where to disturb: at every call or at a sample of them, and by every limit."""
    limits = [Point(SIZE, size, "limit") for size in SIZES]
    if os.geteuid() == 0:
        limits += [Point(ROOM, room, "limit") for room in ROOMS]
    found = [Point(call, n, fault) for call in CALLS for n in range(1, most[call] + 1) for fault in FAULTS]
    return limits + (found if wanted is None else dice.sample(found, min(wanted, len(found))))


def disturb(emulator: Emulator, rows: int, point: Point, right: pl.DataFrame) -> Ended:
    """Run once with the fault and once without."""
    emulator.reset()
    with project(rows) as made, contextlib.ExitStack() as limits:
        met = True
        if point.call == ROOM:
            resize = limits.enter_context(_small(made.folder / ".rowmill", point.number))
            code, said = ran(command(made, emulator), made)
            resize()
        elif point.call == SIZE:
            code, said = ran(command(made, emulator), made, point.number)
        else:
            fault = f"inject={point.call}:{point.fault}:when={point.number}"
            with tempfile.TemporaryDirectory() as place:
                log = Path(place) / "log"
                flags = ["-e", f"trace={point.call}", "-e", fault, "-o", str(log)]
                code, said = ran(traced(made, emulator, *flags), made)
                met = code in KILLED or "(INJECTED)" in log.read_text(errors="replace")
        wrong = _first(code, said, made, right)
        again, words = ran(command(made, emulator), made)
        if again:
            wrong = wrong or f"the next run ended with {again}: {words[-200:]}"
        elif not _is_right(made, right):
            wrong = wrong or "the next run wrote another table"
        elif emulator.stats()["repeated"] > (IN_FLIGHT if code in KILLED else 2 * IN_FLIGHT):
            wrong = wrong or f"{emulator.stats()['repeated']} asked again"
    return Ended(point, code, met, wrong)


@contextlib.contextmanager
def _small(folder: Path, kib: int) -> Iterator[Callable[[], None]]:
    """Put a file system of so many KiB on a folder; yield what makes it large enough."""

    def mount(*flags: str) -> None:
        subprocess.run(["mount", *flags, str(folder)], check=True)

    folder.mkdir()
    mount("-t", "tmpfs", "-o", f"size={max(kib, 4)}k", "tmpfs")  # 0 would be no limit
    try:
        yield lambda: mount("-o", f"remount,size={ENOUGH}k")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _first(code: int, said: str, made: Project, right: pl.DataFrame) -> str | None:
    """Say what is wrong with a disturbed run, if anything is."""
    if "Traceback" in said:
        return f"a traceback: {said.strip().splitlines()[-1]}"
    if code == 0:
        return None if _is_right(made, right) else "ended with 0 without the right table"
    if code in KILLED:
        return None
    if code != FAILED or "hint:" not in said:
        return f"ended with {code}: {said[-200:]}"
    return None


def _is_right(made: Project, right: pl.DataFrame) -> bool:
    if not made.output.exists():
        return False
    return pl.read_parquet(made.output).drop("_latency_ms").equals(right.drop("_latency_ms"))


def main() -> int:
    """Print how the disturbed runs ended by call and fault; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description="faults of system calls under a run")
    parser.add_argument("--points", type=int, help="so many of the calls instead of all")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(echo(), flush=True)
    if shutil.which("strace") is None:
        print("skipped: not installed: strace")
        return 0
    with emulating("--latency", "0.02") as emulator:
        with project(given.rows) as made:
            if ran(command(made, emulator), made)[0]:
                raise SystemExit("the undisturbed run has failed")
            right = pl.read_parquet(made.output)
        drawn = points(counts(emulator, given.rows), given.points, random.Random(given.seed))
        ends = []
        for point in drawn:
            ends.append(disturb(emulator, given.rows, point, right))
            if ends[-1].wrong is not None:
                print(ends[-1], flush=True)
    print(report(ends))
    return int(any(end.wrong is not None for end in ends))


def report(ends: list[Ended]) -> str:
    """Format how many runs ended how; those that made no such call this time are counted apart."""
    lines = []
    for call, fault in dict.fromkeys((end.point.call, end.point.fault) for end in ends):
        own = [end for end in ends if (end.point.call, end.point.fault) == (call, fault)]
        codes = Counter("killed" if end.code in KILLED else str(end.code) for end in own if end.met)
        how = ", ".join(f"{number} × {code}" for code, number in sorted(codes.items()))
        unmet = sum(not end.met for end in own)
        lines.append(
            [call, fault, f"{len(own)}", how, f"{unmet}", f"{sum(e.wrong is not None for e in own)}"]
        )
    return table(["call", "fault", "points", "ended with", "not met", "wrong"], lines)


if __name__ == "__main__":
    sys.exit(main())
