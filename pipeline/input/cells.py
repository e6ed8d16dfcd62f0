"""Cells of a column as Python values."""

import polars as pl

from pipeline.errors import InputError
from pipeline.input.files import first_line

SHORT = 80  # characters of a cell that a message shows


def values(column: pl.Series) -> list[object]:
    """Return a column as Python values."""
    try:
        return column.to_list()
    except (ValueError, OverflowError, pl.exceptions.PanicException) as exc:
        said = f"column `{column.name}` holds a value that cannot be used: {first_line(exc)}"
        raise InputError(said, "dates and times must lie in the years 1 to 9999") from exc


def exact(column: pl.Series, known: list[object] | None = None) -> list[object]:
    """Return key cells as Python values; nanoseconds, which these lack, are put beside them."""
    cells = values(column) if known is None else known
    kind = column.dtype
    if kind == pl.Time or (isinstance(kind, pl.Datetime | pl.Duration) and kind.time_unit == "ns"):
        rest = (column.to_physical() % 1000).to_list()
        return [(cell, more) if more else cell for cell, more in zip(cells, rest, strict=True)]
    return cells


def short(cell: object) -> str:
    """Return a cell as a message shows it."""
    return " ".join(str(cell).split())[:SHORT]
