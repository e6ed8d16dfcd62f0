"""Two files of one table, as it is and as it should be: which rows differ, and how.

Both are read side by side, some thousand rows at a time. Only where rows are not those of the input is each
of them named by two digests, 16 bytes together, to tell lost, doubled and changed rows apart.
"""

import filecmp
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.keys import digest

UNREAD = (OSError, ValueError, LookupError, pa.ArrowException, pl.exceptions.PolarsError)  # a damaged file's
ROWS = 5_000
BYTES = 2**20  # of NDJSON lines


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are of the input, which of them are its key, and which one is the cost."""

    inputs: Sequence[str]
    key: Sequence[str]
    cost: str


@dataclass(frozen=True, slots=True)
class _Names:
    """The rows of a table in order: a number for the key and one for all cells of the input, of each."""

    keys: NDArray[np.uint64]
    rows: NDArray[np.uint64]


def differences(found: Path, wanted: Path, columns: Columns) -> Iterator[str]:
    """Yield what is wrong with the table in `found`, a sentence each.

    Both files have the same ending. Raises what Polars, Arrow and the system do where `found` cannot be read.
    """
    if found.suffix.lower() != ".parquet" and _same_bytes(found, wanted):
        return
    if wrong := list(_other_columns(found, wanted)):
        yield from wrong
        return
    moved = False
    cost = [0.0, 0.0]
    start = 0
    for is_, should in zip_longest(frames(found), frames(wanted)):
        cost = [sum_ + _cost(frame, columns) for sum_, frame in zip(cost, (is_, should), strict=True)]
        if is_ is None or should is None or is_.height != should.height:
            moved = True
        elif not is_.equals(should):
            moved = moved or not is_.select(columns.inputs).equals(should.select(columns.inputs))
            yield from _answers(is_, should, columns, start)
        start += 0 if is_ is None else is_.height
    if moved:
        yield from _moved_rows(_names(found, columns), _names(wanted, columns))
    if not np.isclose(cost[0], cost[1], rtol=1e-9, atol=1e-12):
        yield f"the cost of all rows is ${cost[0]:.6f}, that of the parts ${cost[1]:.6f}"


def frames(path: Path) -> Iterator[pl.DataFrame]:
    """Yield a table, `ROWS` rows at a time; cells of CSV are text, those of NDJSON are JSON text."""
    rest: pl.DataFrame | None = None
    for batch in _batches(path):
        rest = batch if rest is None else pl.concat([rest, batch])
        while rest.height >= ROWS:
            yield rest.head(ROWS)
            rest = rest.slice(ROWS)
    if rest is not None and rest.height:
        yield rest


def _batches(path: Path) -> Iterator[pl.DataFrame]:
    match path.suffix.lower():
        case ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=ROWS):
                    frame = pl.from_arrow(batch)
                    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a batch never becomes a Series
                    yield frame
        case ".csv":
            scan = pl.scan_csv(path, infer_schema=False, glob=False)
            yield from scan.collect_batches(
                chunk_size=ROWS, maintain_order=True, lazy=True, engine="streaming"
            )
        case _:
            names = list(_headings(path))
            with path.open("rb") as file:
                while lines := file.readlines(BYTES):
                    yield _cells(lines, names)


def _cells(lines: Sequence[bytes], names: Sequence[str]) -> pl.DataFrame:
    """Return the objects of NDJSON lines as JSON text in columns; one without a name is null there."""
    objects = [json.loads(line) for line in lines]
    columns = {
        name: [json.dumps(one[name], sort_keys=True) if name in one else None for one in objects]
        for name in names
    }
    return pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String()))


def _headings(path: Path) -> dict[str, str]:
    """Return the columns of a table with their types, as far as its format has any."""
    match path.suffix.lower():
        case ".parquet":
            return {column.name: str(column.type) for column in pq.read_schema(path)}
        case ".csv":
            names = pl.scan_csv(path, infer_schema=False, glob=False).collect_schema().names()
        case _:
            with path.open("rb") as file:
                names = [*json.loads(file.readline())]
    return dict.fromkeys(names, "text")


def _same_bytes(one: Path, other: Path) -> bool:
    return filecmp.cmp(one, other, shallow=False)


def _other_columns(found: Path, wanted: Path) -> Iterator[str]:
    is_, should = _headings(found), _headings(wanted)
    for name in dict.fromkeys([*should, *is_]):
        if name not in is_ or name not in should:
            yield f"column `{name}` is {'missing' if name in should else 'not one of this job'}"
        elif is_[name] != should[name]:
            yield f"column `{name}` is {is_[name]} and should be {should[name]}"
    if set(is_) == set(should) and list(is_) != list(should):
        yield "the columns are in another order than they should be"


def _cost(frame: pl.DataFrame | None, columns: Columns) -> float:
    if frame is None:
        return 0.0
    return float(frame[columns.cost].cast(pl.Float64, strict=False).sum())


def _answers(is_: pl.DataFrame, should: pl.DataFrame, columns: Columns, start: int) -> Iterator[str]:
    """Yield the cells of answers that differ, in rows whose input is the same."""
    for number in range(is_.height):
        one, other = is_[number], should[number]
        if one.equals(other) or not one.select(columns.inputs).equals(other.select(columns.inputs)):
            continue
        names = [name for name in one.columns if not one[name].equals(other[name])]
        shown = ", ".join(f"`{name}`" for name in names)
        yield f"row {start + number + 1:,}: {shown} is not what the row's part says"


def _names(path: Path, columns: Columns) -> _Names:
    keys, rows = list[bytes](), list[bytes]()
    for frame in frames(path):
        rows += [digest(row)[:8] for row in frame.select(columns.inputs).iter_rows()]
        if columns.key:
            keys += [digest(row)[:8] for row in frame.select(columns.key).iter_rows()]
    whole = np.frombuffer(b"".join(rows), np.uint64)
    return _Names(np.frombuffer(b"".join(keys), np.uint64) if columns.key else whole, whole)


def _moved_rows(found: _Names, wanted: _Names) -> Iterator[str]:
    """Yield rows that are lost, doubled, strange, changed or out of their order (the first of these only)."""
    known = _times(found.keys, wanted.keys)
    wanted_rows = dict(zip(wanted.keys.tolist(), wanted.rows.tolist(), strict=True))
    before: dict[int, int] = {}
    for number, (name, row) in enumerate(zip(found.keys.tolist(), found.rows.tolist(), strict=True)):
        before[name] = before.get(name, 0) + 1
        if not known[number]:
            yield f"row {number + 1:,} is no row of the input, and no part is known to answer it"
        elif before[name] > known[number]:
            yield f"row {number + 1:,} is there twice"
        elif wanted_rows[name] != row:
            yield f"row {number + 1:,} has another text than the row of the input with its key"
    for lost in np.flatnonzero(_times(wanted.keys, found.keys) < _times(wanted.keys, wanted.keys)):
        yield f"row {lost + 1:,} of the input is missing"
    if len(found.keys) == len(wanted.keys) and np.array_equal(np.sort(found.keys), np.sort(wanted.keys)):
        moved = np.flatnonzero(found.keys != wanted.keys)
        if len(moved):
            yield f"row {moved[0] + 1:,} and others are not in the order of the input"


def _times(of: NDArray[np.uint64], among: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each of the names `of` how often it is `among` others."""
    ordered = np.sort(among)
    times: NDArray[np.int64] = np.searchsorted(ordered, of, "right") - np.searchsorted(ordered, of, "left")
    return times
