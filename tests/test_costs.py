"""Costs reconcile: the rows' with the run's to the picodollar, and both with the emulator's own count."""

import pytest

from pipeline.rates import PICO
from pipeline.report import RunReport
from tests.conftest import Emulator, Project, emulating
from tests.reviews import word

ROWS = 400
INPUT, OUTPUT = 250_000, 1_500_000  # picodollars for a token of gemini-3.1-flash-lite
FAULTS = [
    "400-argument~<400-argument>",
    "finish-safety~<finish-safety>",
    "pack-missing%0.2",
    "pack-cut%0.1",
    "badjson%0.1",
    "wrongtype%0.05",
    "503%0.1",
]


def rows_of(project: Project) -> int:
    """Return what the rows of the table cost together, in picodollars."""
    return sum(round(cost * PICO) for cost in project.table()["_cost_usd"])


def runs_of(*reports: RunReport) -> int:
    """Return what runs cost together, in picodollars."""
    return sum(round(report.cost_usd * PICO) for report in reports)


def counted(emulator: Emulator) -> int:
    """Return what the emulator has answered at the standard price, in picodollars."""
    stats = emulator.stats()
    return int(stats["prompt_tokens"] * INPUT + stats["output_tokens"] * OUTPUT)


def texts() -> list[str]:
    """Return texts of which every tenth is an earlier one again, and a few fail."""
    odd = {33: "<finish-safety>", 77: "<400-argument>", 205: "<finish-safety> again"}
    return [odd.get(n) or f"good {word(n - 9 if n % 10 == 9 else n)}" for n in range(ROWS)]


@pytest.mark.parametrize("rows", [1, 20])
def test_rows_cost_what_the_runs_did(project: Project, rows: int) -> None:
    """Packed or not, doubled, retried, failed and asked anew, in several parts and runs: nothing is lost."""
    project.change("[output]", f"[packing]\nrows = {rows}\n\n[output]")
    project.change("max_output_tokens = 200\n", "")
    project.rows(texts())
    flags = [flag for fault in FAULTS for flag in ("--fault", fault)]
    with emulating(*flags) as emulator:
        reports = [project.run(emulator.address, limit=limit) for limit in (150, 250, None)]
        reports.append(project.run(emulator.address, retry_failed=True))
        assert rows_of(project) == runs_of(*reports) == counted(emulator)
    table = project.table()
    assert {"ok", "failed"} == set(table["_status"])
    assert max(table["_attempts"].to_list()) > 1
    # a tenth are doubles; those whose first had its answer damaged in a pack ask for themselves
    assert (table["_source"] == "cache").sum() >= ROWS // 20
    assert reports[-1].table.cost_usd == rows_of(project) / PICO
    assert len(list(reports[-1].folder.glob("parts/*"))) > 1
