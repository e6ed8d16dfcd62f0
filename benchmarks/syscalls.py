"""Lets system calls of a run fail, or kills it there, one at a time: the same command must still finish.

    python benchmarks/syscalls.py [--points 60] [--rows 60] [--seed 1]

Needs strace. Every fsync, fdatasync and rename, and a sample of the pwrite64 and ftruncate calls, fails with
EIO or ENOSPC, or is where SIGKILL comes; counters are the threads' own, as strace counts. Besides, files
may not grow beyond some sizes (RLIMIT_FSIZE), which stops what `write` writes, too. A run that fails must end
with exit code 4 and a hint, without a traceback; a run that says 0 must have written the right table; and
in each case the same command without the fault must end with the table of an undisturbed run, without one
row asked again but what was in flight, and what had just arrived where it could not be written. Exit code 1
where a promise is broken.
"""

import argparse
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import ROOT, Emulator, Project, echo, emulating, environment, project, table

ALWAYS = ["fsync", "fdatasync", "rename"]
SAMPLED = ["pwrite64", "ftruncate"]
FAULTS = ["error=EIO", "error=ENOSPC", "signal=KILL"]
SIZES = [0, 100, 3_000, 10_000, 40_000, 100_000]  # bytes that a file may have
IN_FLIGHT = 8
KILLED = {-9, 137}
FAILED = 4


@dataclass(frozen=True, slots=True)
class Point:
    """Where and how a run is disturbed; `call` is None for a limit of `number` bytes."""

    call: str | None
    number: int
    fault: str


@dataclass(frozen=True, slots=True)
class Ended:
    """How a disturbed run ended, and what is wrong with it."""

    point: Point
    code: int
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
        calls = ",".join(["fsync", "fdatasync", "rename", *SAMPLED])
        ran(traced(made, emulator, "-e", f"trace={calls}", "-o", str(log)), made)
        lines = re.findall(r"^(\d+) +(\w+)\(", log.read_text(), re.MULTILINE)
    most: Counter[str] = Counter()
    for (_, call), number in Counter(lines).items():
        most[call] = max(most[call], number)
    return most


def points(most: Counter[str], wanted: int, dice: random.Random) -> Iterator[Point]:
    """Yield where to disturb: every call of some kinds, a sample of the others, and the limits."""
    for size in SIZES:
        yield Point(None, size, "limit")
    sure = [Point(c, n, f) for c in ALWAYS for n in range(1, most[c] + 1) for f in FAULTS]
    more = [Point(c, n, f) for c in SAMPLED for n in range(1, most[c] + 1) for f in FAULTS]
    dice.shuffle(sure)
    dice.shuffle(more)
    yield from sure[: wanted * 2 // 3]
    yield from more[: wanted - len(sure[: wanted * 2 // 3])]


def disturb(emulator: Emulator, rows: int, point: Point, right: pl.DataFrame) -> Ended:
    """Run once with the fault and once without."""
    emulator.reset()
    with project(rows) as made:
        if point.call is None:
            code, said = ran(command(made, emulator), made, point.number)
        else:
            fault = f"inject={point.call}:{point.fault}:when={point.number}"
            with tempfile.TemporaryDirectory() as place:
                flags = ["-e", f"trace={point.call}", "-e", fault, "-o", str(Path(place) / "log")]
                code, said = ran(traced(made, emulator, *flags), made)
        wrong = _first(code, said, made, right)
        again, words = ran(command(made, emulator), made)
        if again:
            wrong = wrong or f"the next run ended with {again}: {words[-200:]}"
        elif not _is_right(made, right):
            wrong = wrong or "the next run wrote another table"
        elif emulator.stats()["repeated"] > (IN_FLIGHT if code in KILLED else 2 * IN_FLIGHT):
            wrong = wrong or f"{emulator.stats()['repeated']} asked again"
    return Ended(point, code, wrong)


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
    parser.add_argument("--points", type=int, default=60)
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
        drawn = list(points(counts(emulator, given.rows), given.points, random.Random(given.seed)))
        ends = []
        for point in drawn:
            ends.append(disturb(emulator, given.rows, point, right))
            if ends[-1].wrong is not None:
                print(ends[-1], flush=True)
    print(report(ends))
    return int(any(end.wrong is not None for end in ends))


def report(ends: list[Ended]) -> str:
    """Format how many runs ended how."""
    kinds = sorted({(end.point.call or "size of a file", end.point.fault) for end in ends})
    lines = []
    for call, fault in kinds:
        own = [e for e in ends if (e.point.call or "size of a file", e.point.fault) == (call, fault)]
        codes = Counter("killed" if e.code in KILLED else str(e.code) for e in own)
        how = ", ".join(f"{number} × {code}" for code, number in sorted(codes.items()))
        lines.append([call, fault, f"{len(own)}", how, f"{sum(e.wrong is not None for e in own)}"])
    return table(["call", "fault", "points", "ended with", "wrong"], lines)


if __name__ == "__main__":
    sys.exit(main())
