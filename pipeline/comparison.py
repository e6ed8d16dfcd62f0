"""Two files of one table, as it is and as it should be: which rows differ, and how.

Both are read side by side, some thousand rows at a time. Only where rows are not those of the input is each
of them named by three digests, 24 bytes together, to tell lost, doubled and changed rows apart.
"""

import filecmp
import json
from collections.abc import Collection, Iterator, Sequence
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
    cost: str | None

    def within(self, names: Sequence[str]) -> "Columns":
        """Return those that a table with no other columns than `names` has; a key is whole or none."""
        key = self.key if set(self.key) <= set(names) else []
        inputs = [name for name in self.inputs if name in names]
        return Columns(inputs, key, self.cost if self.cost in names else None)


@dataclass(frozen=True, slots=True)
class _Names:
    """The rows of a table in order: of each a number for its key, its cells of the input, all its cells."""

    keys: NDArray[np.uint64]
    rows: NDArray[np.uint64]
    cells: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Table:
    """Some columns of the table in a file."""

    path: Path
    columns: Sequence[str]

    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield them, `ROWS` rows at a time."""
        return (frame.select(self.columns) for frame in frames(self.path))


def differences(found: Path, wanted: Path, columns: Columns) -> Iterator[str]:
    """Yield what is wrong with the table in `found`, a sentence each.

    Both files have the same ending. Raises what Polars, Arrow and the system do where `found` cannot be read.
    """
    if found.suffix.lower() != ".parquet" and _same_bytes(found, wanted):
        return
    wrong = list(_other_columns(found, wanted))
    yield from wrong
    names = _common(found, wanted)
    columns = columns if not wrong else columns.within(names)
    yield from _rows_that_differ(_Table(found, names), _Table(wanted, names), columns)


def _rows_that_differ(found: _Table, wanted: _Table, columns: Columns) -> Iterator[str]:
    uneven = set[int]()  # chunks whose rows are not the same in both
    cost, rows = [0.0, 0.0], [0, 0]
    for number, pair in enumerate(zip_longest(found.frames(), wanted.frames())):
        is_, should = pair
        cost = [sum_ + _cost(frame, columns) for sum_, frame in zip(cost, pair, strict=True)]
        if is_ is None or should is None or not _are_even(is_, should, columns):
            uneven.add(number)
        elif not is_.equals(should):
            yield from _answers(is_, should, number * ROWS)
        heights = (0 if frame is None else frame.height for frame in pair)
        rows = [sum_ + height for sum_, height in zip(rows, heights, strict=True)]
    if uneven and columns.inputs:
        yield from _moved_rows(_names(found, columns), _names(wanted, columns), uneven)
    elif uneven:
        yield f"the rows are {rows[0]:,} and should be {rows[1]:,}"
    if not np.isclose(cost[0], cost[1], rtol=1e-9, atol=1e-12):
        yield f"the cost of all rows is ${cost[0]:.6f}, that of the parts ${cost[1]:.6f}"


def _are_even(is_: pl.DataFrame, should: pl.DataFrame, columns: Columns) -> bool:
    """Tell whether the same rows of the input stand in the same places."""
    same = is_.height == should.height
    return same and is_.select(columns.inputs).equals(should.select(columns.inputs))


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


def _common(found: Path, wanted: Path) -> list[str]:
    """Return the columns that both tables have, with the same type, in the order of the second."""
    is_ = _headings(found)
    return [name for name, kind in _headings(wanted).items() if is_.get(name) == kind]


def _cost(frame: pl.DataFrame | None, columns: Columns) -> float:
    if frame is None or columns.cost is None:
        return 0.0
    return float(frame[columns.cost].cast(pl.Float64, strict=False).sum())


def _answers(is_: pl.DataFrame, should: pl.DataFrame, start: int) -> Iterator[str]:
    """Yield the cells of answers that differ, of the same rows of the input in the same places."""
    for number in range(is_.height):
        one, other = is_[number], should[number]
        if names := [name for name in one.columns if not one[name].equals(other[name])]:
            shown = ", ".join(f"`{name}`" for name in names)
            yield f"row {start + number + 1:,}: {shown} is not what the row's part says"


def _names(table: _Table, columns: Columns) -> _Names:
    keys, rows, cells = list[bytes](), list[bytes](), list[bytes]()
    for frame in table.frames():
        rows += [digest(row)[:8] for row in frame.select(columns.inputs).iter_rows()]
        cells += [digest([repr(row)])[:8] for row in frame.iter_rows()]
        if columns.key:
            keys += [digest(row)[:8] for row in frame.select(columns.key).iter_rows()]
    whole = np.frombuffer(b"".join(rows), np.uint64)
    key = np.frombuffer(b"".join(keys), np.uint64) if columns.key else whole
    return _Names(key, whole, np.frombuffer(b"".join(cells), np.uint64))


def _moved_rows(found: _Names, wanted: _Names, uneven: Collection[int]) -> Iterator[str]:
    """Yield rows that are lost, doubled, strange, changed or out of their order (the first of these only).

    Of those in `uneven` chunks whose name no other has, the answers are compared, too.
    """
    known = _times(found.keys, wanted.keys)
    places = {name: place for place, name in enumerate(wanted.keys.tolist())}
    before: dict[int, int] = {}
    for number, name in enumerate(found.keys.tolist()):
        before[name] = before.get(name, 0) + 1
        place = places.get(name, 0)
        if not known[number]:
            yield f"row {number + 1:,} is no row of the input, and no part is known to answer it"
        elif before[name] > known[number]:
            yield f"row {number + 1:,} of the output is there a second time"
        elif wanted.rows[place] != found.rows[number]:
            yield f"row {number + 1:,} has another text than the row of the input with its key"
        elif known[number] == 1 and number // ROWS in uneven and wanted.cells[place] != found.cells[number]:
            yield f"row {number + 1:,}: the answer is not what the row's part says"
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
