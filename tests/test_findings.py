"""The tables of a calibration on a terminal."""

import io

import pytest
from rich.console import Console

from pipeline.calibration import Calibration, Field, Finding, Size
from pipeline.cli.findings import tables
from pipeline.intervals import Share
from pipeline.shape import Kind, Single

SIZES = (1, 5, 10, 20, 50)
SHARE = Share(199, 200)  # 99.5% (97–100), as long as any but 100.0%
FIELD = "an_inner_model.with_a_field_of_a_very_long_name_indeed"


def shown(width: int) -> str:
    """Return what a calibration with gold looks like on a terminal so wide."""
    sizes = [Size(n, 1 / n, 12_345.0, 1_234.0, 0.0123456, 0.1, SHARE, SHARE, 0.123, n < 20) for n in SIZES]
    by_size = dict.fromkeys(SIZES[1:], SHARE)
    gold = dict.fromkeys(SIZES, SHARE)
    losses = dict.fromkeys(SIZES[1:], 0.456)
    finding = Finding(Field(FIELD, Single(Kind.BOOLEAN)), True, SHARE, by_size, gold, losses, {})
    console = Console(file=io.StringIO(), width=width)
    for table in tables(Calibration([finding], sizes, 5, "")):
        console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 100])
def test_every_figure_is_whole(width: int) -> None:
    """All shares with their intervals, costs and tokens; only a long name is folded."""
    said = shown(width)
    assert said.count("99.5% (97–100)") == 2 * len(SIZES) + 2 * len(SIZES)
    assert said.count("12.3456") == said.count("12,345") == len(SIZES)
    assert said.count("45.6%") == len(SIZES) - 1
    assert "…" not in said
    assert max(map(len, said.splitlines())) <= width
    assert FIELD in "".join(said.split())
