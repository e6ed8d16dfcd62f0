"""The same rows under the same limit in several ways: Rowmill, and what one would write or take instead.

    python benchmarks/side_by_side.py [--rpm 300] [--minutes 3] [--abl-python PATH] [--plot FILE]

Each way meets an emulator of its own that enforces the limit in sliding windows of 60 seconds and logs each
request at its gate; all figures but the seconds are read from that log. The seconds are those of the process,
its start included. async-batch-llm is measured where its environment is given, for example one made with
`python -m venv abl && abl/bin/pip install 'async-batch-llm[gemini]'`.
"""

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ground import (
    ROOT,
    Emulator,
    Project,
    Took,
    echo,
    emulating,
    environment,
    markdown,
    measure,
    project,
)
from benchmarks.performance import paced
from benchmarks.plot import Line, draw
from benchmarks.traffic import Traffic, read, steps

ROWMILL = "rowmill run"
LOOPS = {
    "semaphore of 64, backoff": "semaphore",
    "AsyncLimiter(rpm, 60), backoff": "limiter",
}
ABL = {
    "async-batch-llm, rate only": "default",
    "async-batch-llm, tuned": "tuned",
}
STEP_S = 10.0
HEAD = [
    "way",
    "seconds",
    "rows answered",
    "429s",
    "most in 60 s",
    "limit used",
    "limit used from 10 s",
    "exit code",
]


@dataclass(frozen=True, slots=True)
class Result:
    """What one way took and what the server saw of it."""

    way: str
    took: Took
    answered: int
    rows: int
    traffic: Traffic


def command(way: str, made: Project, emulator: Emulator, *, rpm: int, abl: Path | None) -> list[str]:
    """Return the command of a way."""
    if way == ROWMILL:
        return made.command(emulator, "--rpm", str(rpm))
    python, module, kind = (
        (sys.executable, "benchmarks.loops", LOOPS[way])
        if way in LOOPS
        else (str(abl), "benchmarks.abl", ABL[way])
    )
    return [python, "-m", module, kind, str(made.table), emulator.address, str(rpm)]


def perform(way: str, rpm: int, rows: int, abl: Path | None) -> Result:
    """Ask for all rows in one way."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.csv"
        with emulating(*paced("rpm", rpm, log)) as emulator, project(rows) as made:
            took = measure(command(way, made, emulator, rpm=rpm, abl=abl), environment(made.folder))
            answered = emulator.stats()["distinct"]
        return Result(way, took, answered, rows, Traffic(read(log), rpm))


def line(result: Result) -> list[str]:
    """Return a way's line of the table."""
    traffic = result.traffic
    refused, share = traffic.refused()
    return [
        result.way,
        f"{result.took.seconds:.0f}",
        f"{result.answered:,} of {result.rows:,}",
        f"{refused:,} ({share:.1%})",
        f"{traffic.most():,}",
        *("–" if used is None else f"{used:.1%}" for used in (traffic.used(0), traffic.used(10))),
        str(result.took.code),
    ]


def picture(results: list[Result], rpm: int) -> str:
    """Draw requests per minute over time."""
    lines = [
        Line(
            result.way,
            f"{result.took.seconds:.0f} s · {result.answered:,} of {result.rows:,} rows ·"
            f" {result.traffic.refused()[0]:,} × 429",
            steps(result.traffic.arrivals, STEP_S),
            steps(result.traffic.arrivals, STEP_S, refused=True),
        )
        for result in results
    ]
    return draw(lines, rpm, STEP_S, f"{results[0].rows:,} rows under a limit of {rpm:,} requests a minute")


def timeline(result: Result) -> str:
    """Return what was admitted in each step."""
    return f"{result.way}: {' '.join(map(str, steps(result.traffic.arrivals, STEP_S)))}"


def main() -> int:
    """Run all ways one after the other; print a table and draw the picture."""
    parser = argparse.ArgumentParser(description="Rowmill and its alternatives under one limit")
    parser.add_argument("--rpm", type=int, default=300, help="the limit, told to each way that can be told")
    parser.add_argument("--minutes", type=float, default=3.0, help="rows for so many minutes at the limit")
    parser.add_argument("--abl-python", type=Path, help="interpreter of an environment with async-batch-llm")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "side_by_side.svg", help="the picture")
    given = parser.parse_args()
    print(echo(), flush=True)
    ways = [ROWMILL, *LOOPS, *(ABL if given.abl_python else ())]
    rows, results = round(given.rpm * given.minutes), []
    for way in ways:
        results.append(perform(way, given.rpm, rows, given.abl_python))
        print(" | ".join(line(results[-1])), file=sys.stderr, flush=True)
    print(markdown(HEAD, [line(result) for result in results]))
    print(f"\nadmitted in each {STEP_S:g} s\n" + "\n".join(map(timeline, results)))
    given.plot.write_text(picture(results, given.rpm), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
