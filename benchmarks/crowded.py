"""Plays a scenario in which no rate is known, and says how much of the service's capacity was used."""

from pathlib import Path

from benchmarks.account import cloud, private_key
from benchmarks.ground import Project, emulating, environment, filled, measure
from benchmarks.performance import failed, pace
from benchmarks.scenarios import Crowded
from benchmarks.traffic import Traffic, read

STEADY_S = 10.0
HEAD = [
    "scenario",
    "capacity",
    "answered/s",
    "capacity used, whole run",
    "from 10 s",
    "90 % after s",
    "429s in first 10 s",
    "429s later",
    "rows failed",
]


def crowd(scenario: Crowded, minutes: float, flags: list[str], log: Path) -> list[str]:
    """Run a scenario with so many minutes of work as Vertex AI; return its line of the table."""
    server = ["--capacity", str(scenario.capacity), *pace(), "--log", str(log)]
    with emulating(*server) as emulator, filled(scenario.rows(minutes)) as made:
        _name_no_rate(made)
        env = environment(made.folder) | cloud(made.folder, emulator.address, private_key())
        took = measure(made.command(emulator, *flags), env)
        lost = failed(made, emulator, took, env)
    return _line(scenario, Traffic(read(log), scenario.limit), lost)


def _name_no_rate(made: Project) -> None:
    job = made.folder / "jobs" / "bench.toml"
    lines = job.read_text().splitlines(keepends=True)
    job.write_text("".join(line for line in lines if not line.startswith(("rpm", "tpm"))))


def _line(scenario: Crowded, traffic: Traffic, lost: str) -> list[str]:
    reached, steady = traffic.reached(0.9), traffic.used(STEADY_S)
    return [
        scenario.name,
        f"{scenario.capacity}",
        f"{traffic.rate(traffic.start, traffic.end):.1f}",
        f"{traffic.used(0.0) or 0.0:.2%}",
        "–" if steady is None else f"{steady:.2%}",
        "never" if reached is None else f"{reached:.1f}",
        *(
            f"{count:,} ({share:.2%})"
            for count, share in (traffic.refused(end=STEADY_S), traffic.refused(begin=STEADY_S))
        ),
        lost,
    ]
