"""Measures how much of a limit `rowmill run` uses, against a server that counts strictly.

    python benchmarks/quota.py [--scenario NAME]... [--minutes M] [--concurrency N] [--logs FOLDER]

The emulator enforces the limit in sliding windows of 60 seconds, in a process of its own and with a tokenizer
that Rowmill does not know, and logs each request at its gate; all figures are read from that log. Shares of
the limit count up to the last request; the rate is reached with the first request from which on ten seconds
(or the time of five requests, where they are rarer) hold 95 % of it. All scenarios together take about 45
minutes.
"""

import argparse
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import crowded
from benchmarks.ground import echo, markdown
from benchmarks.performance import Found, perform
from benchmarks.scenarios import CROWDED, SCENARIOS
from benchmarks.traffic import Traffic, answered

STEADY_S, MINUTE_S = 10.0, 60.0
HEAD = [
    "scenario",
    "limit/min",
    "requests",
    "seconds",
    "cores",
    "reached after s",
    "used from 10 s",
    "from 60 s",
    "whole run",
    "most in 60 s",
    "429s in first minute",
    "429s later",
    "rows failed",
]
PHASES = [
    "scenario",
    "phase",
    "from s",
    "answered/s",
    "of the limit",
    "least in 10 s",
    "back at 95 % after s",
]


def line(found: Found) -> list[str]:
    """Return a scenario's line of the table."""
    traffic, seconds = found.traffic, max(took.seconds for took in found.took)
    cores = sum(took.cpu_seconds / took.seconds for took in found.took)
    return [
        found.scenario.name,
        f"{traffic.limit:,}{' tokens' if found.scenario.by_tokens else ''}",
        f"{len(found.arrivals):,}",
        f"{seconds:.0f}",
        f"{cores:.2f}",
        _number(traffic.reached()),
        *(_percent(traffic.used(after)) for after in (STEADY_S, MINUTE_S, 0.0)),
        f"{traffic.most():,} ({traffic.most() / traffic.limit:.1%})",
        _counted(traffic.refused(end=MINUTE_S)),
        _counted(traffic.refused(begin=MINUTE_S)),
        " + ".join(found.failed),
    ]


def phases(found: Found) -> list[list[str]]:
    """Return a line for each phase between the changes of a scenario; rates are of answered requests."""
    traffic = Traffic(answered(found.arrivals), found.scenario.limit)
    marks = [traffic.start + STEADY_S, *found.moments, traffic.end]
    labels = ["before", *(change.label for change in found.scenario.changes)]
    lines = []
    for label, (begin, end) in zip(labels, pairwise(marks), strict=False):
        rate, back = traffic.rate(begin, end), traffic.reached(since=begin)
        starts = range(max(1, int(end - begin) - 9))
        least = min(traffic.rate(begin + n, min(end, begin + n + 10)) for n in starts)
        lines.append(
            [
                found.scenario.name,
                label,
                f"{begin - traffic.start:.0f}",
                f"{rate:.1f}",
                _percent(rate * 60 / traffic.limit),
                f"{least:.1f}",
                _number(back) if label == "after" else "",
            ]
        )
    return lines


def _number(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"


def _counted(refused: tuple[int, float]) -> str:
    return f"{refused[0]:,} ({refused[1]:.2%})"


def main() -> int:
    """Run the scenarios one after the other and print a line for each."""
    parser = argparse.ArgumentParser(description="how much of a limit a run uses")
    parser.add_argument(
        "--scenario", action="append", choices=[*SCENARIOS, *CROWDED], help="repeatable; default: all"
    )
    parser.add_argument("--minutes", type=float, help="minutes of work instead of the scenario's own")
    parser.add_argument("--concurrency", type=int, help="as the flag of `rowmill run`, which needs none")
    parser.add_argument("--logs", type=Path, help="keep the emulator's logs in this folder")
    given = parser.parse_args()
    print(echo(), flush=True)
    flags = [] if given.concurrency is None else ["--concurrency", str(given.concurrency)]
    results, lines = [], []
    with tempfile.TemporaryDirectory() as folder:
        logs = given.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        for name in given.scenario or [*SCENARIOS, *CROWDED]:
            log = (logs / f"{name}.csv").absolute()
            if name in CROWDED:
                service = CROWDED[name]
                lines.append(crowded.crowd(service, given.minutes or service.minutes, flags, log))
                continue
            scenario = SCENARIOS[name]
            results.append(perform(scenario, given.minutes or scenario.minutes, flags, log))
            print(" | ".join(line(results[-1])), file=sys.stderr, flush=True)
    if results:
        print(markdown(HEAD, [line(found) for found in results]))
    changed = [one for found in results if found.moments for one in phases(found)]
    if changed:
        print("\n" + markdown(PHASES, changed))
    if lines:
        print("\n" + markdown(crowded.HEAD, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
