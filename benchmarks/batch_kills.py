"""Kill runs that ask by batches at every step: one bill, one answer for each row, the right table.

    python benchmarks/batch_kills.py [--rows 60] [--every 1] [--only calls|cache|cancel|disk]

A job is run once undisturbed; its bill (the emulator counts answers and tokens itself) and its table are what
the others are judged by. Then it is run again and again in fresh folders. Each time the process gets SIGKILL
at one step, and the same command is run to its end:

calls   the API holds back one call for good, before it does it (`hang`) or after it has (`done-hang`):
        each of upload, creation, look, download and deletion, of the first and of the second job; then
        comes the kill
cache   likewise when the context cache that lines name is found, made, kept and deleted; none may be left
cancel  likewise when a job that is late is cancelled, also where the API keeps nothing of what it has
        answered
disk    strace kills the process at the Nth call of fsync, fdatasync, rename and unlink: at each durable
        step of the table of batches, of files of lines and results, of the journal and of the parts

Exit code 1 where a bill or a table differs. The disk's part needs strace.
"""

import argparse
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import (
    SYSTEM,
    Emulator,
    Project,
    busiest,
    echo,
    emulating,
    environment,
    filled,
    markdown,
    measure,
    start,
    texts,
)

CALLS = ["upload-start", "upload-bytes", "batch-create", "batch-get", "file-download", "file-delete"]
CACHE_CALLS = ["cache-list", "cache-create", "cache-update", "cache-delete"]
CACHE_ROWS = 300  # enough for a cache to pay
CACHE_LINES = 100
SYSCALLS = ["fsync", "fdatasync", "rename", "unlink"]
LINES = 20  # of a job
TWINS = 6  # rows with the text of another
HELD_S = 30.0
LOOK_S = 0.02
LATE = 'spill = "2s"'


@dataclass(frozen=True, slots=True)
class Judge:
    """What a run that nobody disturbed has paid and written."""

    bill: dict[str, dict[str, int]]
    table: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Death:
    """One kill, and what was wrong afterwards; `came` says whether it came to pass."""

    kind: str
    step: str
    came: bool
    faults: list[str]


@contextmanager
def job(rows: int, pack: int, spill: str = "", *, long: bool = False) -> Iterator[Project]:
    """Make a project that asks by batches of a few lines; with a `long` instruction more, and a cache."""
    own = [*texts(rows)]
    twins = [(f"twin-{n}", text) for n, (_, text) in enumerate(own[:TWINS])]
    with filled([*own, *twins]) as made:
        file = made.folder / "jobs" / "bench.toml"
        lines = CACHE_LINES if long else LINES
        batch = f"[packing]\nrows = {pack}\n[batch]\nrequests = {lines}\n{spill}\n[output]"
        text = file.read_text().replace("[output]", batch)
        text = text.replace(SYSTEM, f"{SYSTEM} {'Be fair to every coat. ' * 250}") if long else text
        file.write_text(f'mode = "batch"\n{text}')
        yield made


def bill(emulator: Emulator) -> dict[str, dict[str, int]]:
    """Return what was billed, by tier."""
    told: dict[str, Any] = dict(emulator.stats())
    return dict(told["billed"])


def finish(made: Project, emulator: Emulator) -> int:
    """Run the job to its end; return its exit code."""
    return measure(made.command(emulator), environment(made.folder)).code


def table(made: Project) -> pl.DataFrame:
    """Return the table without what no two runs share."""
    return pl.read_parquet(made.output).drop("_latency_ms")


def unbroken(emulator: Emulator, rows: int, pack: int, *, long: bool = False) -> Judge:
    """Run a job that nobody disturbs."""
    calm(emulator)
    with job(rows, pack, long=long) as made:
        if finish(made, emulator):
            raise SystemExit("the unbroken run has failed")
        return Judge(bill(emulator), table(made))


def calm(emulator: Emulator, **settings: object) -> None:
    """Let the emulator count from zero, without faults but for those given."""
    emulator.change({"faults": [], "batch_wait": 0, "batch_work": 0, "cancel_keeps": True, **settings})
    emulator.reset()


def judged(
    made: Project, emulator: Emulator, judge: Judge, *, late: bool = False, bare: Sequence[str] = ()
) -> list[str]:
    """Run to the end and say what differs from the unbroken run."""
    emulator.change({"faults": []})
    if (code := finish(made, emulator)) != 0:
        return [f"exit code {code}"]
    faults = []
    found, wanted = bill(emulator), judge.bill
    if late:  # what is asked online has another price, so only the number of answers is the same
        if _answers(found) != _answers(wanted):
            faults.append(f"{_answers(found)} answers billed, not {_answers(wanted)}")
        priced = ["_cost_usd", "_source", "_model", *bare]
        if not table(made).drop(priced).equals(judge.table.drop(priced)):
            faults.append("another table")
    else:
        if found != wanted:
            faults.append(f"billed {found}, not {wanted}")
        if not table(made).equals(judge.table):
            faults.append("another table")
    if emulator.stats()["repeated"]:
        faults.append(f"{emulator.stats()['repeated']} prompts answered twice")
    return faults


def _answers(billed: dict[str, dict[str, int]]) -> int:
    return sum(tier["answered"] for tier in billed.values())


def held(made: Project, emulator: Emulator, what: str) -> bool:
    """Start the run, wait until the API holds this call back, and kill it."""
    with start(made.command(emulator), environment(made.folder)) as process:
        ends = time.monotonic() + HELD_S
        while process.poll() is None and time.monotonic() < ends:
            told: dict[str, Any] = dict(emulator.stats())
            if told["held"].get(what):
                break
            time.sleep(LOOK_S)
        process.kill()
        return process.wait() < 0


def calls(emulator: Emulator, rows: int, pack: int, judge: Judge) -> Iterator[Death]:
    """Kill at each call to the API, before and after it was done, of two jobs."""
    for number in (1, 2):
        for call in CALLS:
            for when in ("hang", "done-hang"):
                with job(rows, pack) as made:
                    calm(emulator, faults=[f"{call}/{when}@{number}"])
                    came = held(made, emulator, f"{call}/{when}")
                    yield Death("calls", f"{call} {number}, {when}", came, judged(made, emulator, judge))


def caches(emulator: Emulator) -> Iterator[Death]:
    """Kill at each call about the cache that lines name.

    What a row costs hangs on the time that the cache was stored, and on whether its line was asked first.
    """
    judge = unbroken(emulator, CACHE_ROWS, 1, long=True)
    for call in CACHE_CALLS:
        for when in ("hang", "done-hang"):
            with job(CACHE_ROWS, 1, long=True) as made:
                calm(emulator, faults=[f"{call}/{when}@1"])
                came = held(made, emulator, f"{call}/{when}")
                faults = judged(made, emulator, judge, late=True, bare=["_cached_tokens"])
                told: dict[str, Any] = dict(emulator.stats())
                made_twice = told["operations"]["cache-create"] - (call == "cache-create" and when == "hang")
                stored = told["cache_token_seconds"]
                if made_twice != 1:
                    faults.append(f"{made_twice} caches made")
                time.sleep(LOOK_S)
                if dict[str, Any](emulator.stats())["cache_token_seconds"] > stored:
                    faults.append("a cache is left")
                yield Death("cache", f"{call}, {when}", came, faults)


def cancels(emulator: Emulator, rows: int, judge: Judge) -> Iterator[Death]:
    """Kill when a late job is cancelled, looked at afterwards and fetched."""
    for pace in ({"batch_wait": 600}, {"batch_work": 600}, {"batch_work": 600, "cancel_keeps": False}):
        for when in ("hang", "done-hang"):
            with job(rows, 1, LATE) as made:
                calm(emulator, faults=[f"batch-cancel/{when}@1"], **pace)
                came = held(made, emulator, f"batch-cancel/{when}")
                faults = judged(made, emulator, judge, late=True)
                if not pace.get("cancel_keeps", True):  # what the API throws away is paid for again
                    faults = [fault for fault in faults if "answer" not in fault]
                yield Death("cancel", f"{pace}, {when}", came, faults)


def disk(emulator: Emulator, rows: int, pack: int, judge: Judge, *, every: int) -> Iterator[Death]:
    """Kill at durable steps."""
    for syscall, most in steps(emulator, rows, pack).items():
        for number in range(1, most + 1, every):
            with job(rows, pack) as made:
                calm(emulator)
                inject = f"inject={syscall}:signal=KILL:when={number}"
                strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={syscall}", "-e", inject]
                code = measure([*strace, *made.command(emulator)], environment(made.folder)).code
                yield Death("disk", f"{syscall} {number}", code != 0, judged(made, emulator, judge))


def steps(emulator: Emulator, rows: int, pack: int) -> Counter[str]:
    """Count the calls of an undisturbed run, those of the busiest thread."""
    calm(emulator)
    with job(rows, pack) as made:
        log = made.folder / "log"
        strace = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={','.join(SYSCALLS)}"]
        measure([*strace, *made.command(emulator)], environment(made.folder))
        return busiest(log)


def main() -> int:
    """Print each kill that went wrong and what all of them came to; 1 where one went wrong."""
    parser = argparse.ArgumentParser(description="kills at every step of batches")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--every", type=int, default=1, help="take each Nth step of the disk only")
    parser.add_argument("--only", choices=["calls", "cache", "cancel", "disk"])
    given = parser.parse_args()
    print(echo(), flush=True)
    deaths: list[Death] = []
    with emulating("--tier", "paid") as emulator:
        judge = unbroken(emulator, given.rows, 1)
        packed = unbroken(emulator, given.rows, 4)
        kinds: dict[str, Iterator[Death]] = {
            "calls": calls(emulator, given.rows, 1, judge),
            "cache": caches(emulator),
            "cancel": cancels(emulator, given.rows, judge),
        }
        if shutil.which("strace"):
            kinds["disk"] = disk(emulator, given.rows, 4, packed, every=given.every)
        for kind, found in kinds.items():
            for death in found if given.only in (None, kind) else ():
                deaths.append(death)
                if death.faults or not death.came:
                    said = "; ".join(death.faults) or "it did not come to pass"
                    print(f"{death.kind}: {death.step}: {said}", flush=True)
    print(report(deaths))
    return int(any(death.faults for death in deaths))


def report(deaths: list[Death]) -> str:
    """Format what the kills came to, by kind."""
    lines = []
    for kind in dict.fromkeys(death.kind for death in deaths):
        mine = [death for death in deaths if death.kind == kind]
        killed = sum(death.came for death in mine)
        wrong = sum(bool(death.faults) for death in mine)
        lines.append([kind, str(len(mine)), str(killed), str(len(mine) - wrong), str(wrong)])
    return "\n" + markdown(["kills", "steps", "killed", "one bill, right table", "wrong"], lines)


if __name__ == "__main__":
    sys.exit(main())
