"""Plays a scenario: the emulator, the runs, and what changes meanwhile."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ground import ROOT, Emulator, Project, Took, emulating, environment, filled, measure
from benchmarks.scenarios import PACE, Scenario
from benchmarks.traffic import Arrival, Traffic, read


@dataclass(slots=True)
class Director:
    """Changes the emulator's settings at the scenario's times, and keeps the moments on the log's clock."""

    emulator: Emulator
    scenario: Scenario
    seconds: float
    moments: list[float] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def direct(self) -> None:
        """Wait for the first request, then make each change when it is due."""
        while not self.emulator.stats()["requests"] and not self.over.wait(0.1):
            pass
        began = time.monotonic()
        for change in self.scenario.changes:
            if self.over.wait(max(0.0, began + change.at * self.seconds - time.monotonic())):
                return
            self.emulator.change(change.settings)
            self.moments.append(time.monotonic())


@dataclass(frozen=True, slots=True)
class Found:
    """What one scenario gave."""

    scenario: Scenario
    arrivals: list[Arrival]
    took: list[Took]
    failed: list[str]
    moments: list[float]

    @property
    def traffic(self) -> Traffic:
        """All that came to the gate."""
        return Traffic(self.arrivals, self.scenario.limit, by_tokens=self.scenario.by_tokens)


def pace() -> list[str]:
    """Return the emulator's flags for the usual pace."""
    return [flag for name, value in PACE.items() for flag in (f"--{name}", str(value))]


def paced(quota: str, limit: int, log: Path) -> list[str]:
    """Return the emulator's flags for a limit, the usual pace and a log."""
    return ["--tier", "paid", f"--{quota}", str(limit), *pace(), "--log", str(log)]


@contextlib.contextmanager
def directed(emulator: Emulator, scenario: Scenario, minutes: float) -> Iterator[Director]:
    """Let the scenario's changes happen during the block."""
    director = Director(emulator, scenario, minutes * 60)
    thread = threading.Thread(target=director.direct)
    thread.start()
    try:
        yield director
    finally:
        director.over.set()
        thread.join()


def perform(scenario: Scenario, minutes: float, flags: Sequence[str], log: Path) -> Found:
    """Run a scenario with so many minutes of work."""
    rows = list(scenario.rows(minutes))
    told = [f"--{scenario.quota}", str(scenario.told), *flags]
    with contextlib.ExitStack() as stack:
        emulator = stack.enter_context(emulating(*paced(scenario.quota, scenario.limit, log)))
        parts = [rows[n :: scenario.runs] for n in range(scenario.runs)]
        projects = [stack.enter_context(filled(part)) for part in parts]
        env = environment(projects[0].folder)  # runs of one project share its state folder
        with directed(emulator, scenario, minutes) as director, ThreadPoolExecutor() as pool:
            took = list(pool.map(lambda made: measure(made.command(emulator, *told), env), projects))
        lost = [failed(made, emulator, one, env) for made, one in zip(projects, took, strict=True)]
    return Found(scenario, read(log), took, lost, director.moments)


def failed(made: Project, emulator: Emulator, took: Took, env: Mapping[str, str]) -> str:
    """Return how many rows have failed, or the exit code of a run that did not finish."""
    if took.code not in (0, 1):
        return f"exit code {took.code}"
    job = str(made.folder / "jobs" / "bench.toml")
    command = [sys.executable, "-m", "pipeline", "status", job, "--json", "--base-url", emulator.address]
    said = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, check=True)
    return str(json.loads(said.stdout)["failed"])
