"""Which rows of an input have a key of their own; of the others the first is refused, or all are left out.

Numbers of rows lie in temporary files, in the order of the input, so that memory stays flat.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import polars as pl

from pipeline.errors import InputError
from pipeline.heads import BUCKETS, bucket_of
from pipeline.input.bad import LEAVE_OUT, BadRows, mostly
from pipeline.input.cells import exact, short
from pipeline.input.scan import Scan
from pipeline.input.survey import NAMES, Survey, doubtful, first_alike
from pipeline.keys import digests
from pipeline.scratch import Buckets, Column, Records

BATCH = 5_000  # rows that are read at a time
GONE = np.dtype([("row", "<i8"), ("first", "<i8")])  # a row that is left out, and the one that has its key
EMPTY = -1  # in place of that where a key column is empty
EMPTY_KEY = "key column `{}` is empty"
FILL = "fill it, name another key in [input], or leave `key` out: the text is then the key; " + LEAVE_OUT
OTHER = (
    "those are too many to leave out: name other key columns in [input], or leave `key` out: the text is "
    "then the key"
)
MORE = "name more key columns in [input], or leave `key` out: the text is then the key; " + LEAVE_OUT

Frames: TypeAlias = Callable[[Iterable[str], int], Iterator[pl.DataFrame]]

_KEYED = np.dtype([("key", "<u8"), ("rest", "<u8"), ("row", "<i8")])


@dataclass(frozen=True, slots=True)
class Keys:
    """The key columns of a table, and how its rows are named and read (some columns, so many at a time)."""

    columns: tuple[str, ...]
    table: Scan
    frames: Frames

    def empty(self, frame: pl.DataFrame) -> pl.Series:
        """Say of each row whether a key column is empty."""
        return frame.select(pl.any_horizontal(pl.col(self.columns).is_null())).to_series()

    def check_filled(self, frame: pl.DataFrame, some: Records, names: Column) -> None:
        """Raise InputError for the first row of a frame without a key, or for two above it that share one.

        `names` are those of the rows before the frame, `some` those of its own.
        """
        empty = self.empty(frame)
        if not empty.any():
            return
        here = int(empty.arg_max() or 0)
        row = len(names) + here
        names.add(some[:here])
        self.check_unique(Survey(names))
        name = next(name for name in self.columns if frame[name][here] is None)
        raise InputError(
            f"{EMPTY_KEY.format(name)} in {self.table.named(row, whole=True)}{self._below}", FILL
        )

    def check_unique(self, survey: Survey) -> None:
        """Raise InputError for the first key that two rows share; keys are compared whole, by their cells."""
        pairs = first_alike(survey)
        cells = self._cells({row for pair in pairs for row in pair})
        for later, earlier in pairs:
            if cells[earlier] == cells[later]:
                shown = ", ".join(f"`{short(cell)}`" for cell in cells[earlier])
                both = self.table.named(earlier, later, whole=True)
                raise InputError(f"{both} have the same key {shown}{self._below}", MORE)

    def unkeyed(self, survey: Survey) -> Column:
        """Return the rows (GONE, in order) that have no key, or that of an earlier row."""
        keyed, gone = Buckets(_KEYED, BUCKETS), Buckets(GONE, BUCKETS)
        found, start = doubtful(survey), 0
        for frame in self.frames(self.columns, BATCH) if found.any() else ():
            here = np.flatnonzero(found[start : start + frame.height])
            some, rows = frame[here], here + start
            empty = self.empty(some).to_numpy()
            _add(gone, _gone(rows[empty], EMPTY), survey.rows)
            keys = _keyed([exact(some[name]) for name in self.columns], rows)[~empty]
            keyed.add(keys, bucket_of(keys["key"]))
            start += frame.height
        for number in range(keyed.count):
            _add(gone, _repeated(keyed.read(number)), survey.rows)
        return _in_order(gone)

    def refuse_most(self, rows: int, bad: BadRows) -> None:
        """Raise InputError where most rows are left out: then another key is meant."""
        if mostly(bad.count, rows):
            said = f"{bad.count:,} of {rows:,} rows have no key of their own: {bad.first[0]}"
            raise InputError(said, OTHER)

    def tell(self, gone: Column, columns: Iterable[str], bad: BadRows) -> None:
        """Tell of rows that are left out: where they stand, why, and what is in them."""
        for _, frame, here in beside(gone, self.frames(columns, BATCH)):
            rows = zip(here["first"].tolist(), here["row"].tolist(), strict=True)
            held = frame[here["place"]].iter_rows(named=True)
            for (first, row), cells in zip(rows, held, strict=True):
                content = json.dumps(cells, default=str, ensure_ascii=False)
                why = self._why(cells, first)
                bad.add(f"{self.table.named(row, whole=True)}: {why}", content.encode(errors="replace"))

    @property
    def _below(self) -> str:
        """Say where an editor, which counts lines, shows other numbers than ours."""
        return " (not counting the header)" if self.table.headed else ""

    def _why(self, cells: dict[str, object], first: int) -> str:
        if first == EMPTY:
            return EMPTY_KEY.format(next(name for name in self.columns if cells[name] is None))
        shown = ", ".join(f"`{short(cells[name])}`" for name in self.columns)
        return f"the key {shown} is that of {self.table.named(first)}"

    def _cells(self, rows: set[int]) -> dict[int, tuple[object, ...]]:
        """Read the key cells of some rows."""
        found: dict[int, tuple[object, ...]] = {}
        start = 0
        for frame in self.frames(self.columns, BATCH) if rows else ():
            here = [row for row in rows if start <= row < start + frame.height]
            cells = [exact(frame[name][[row - start for row in here]]) for name in self.columns]
            found |= dict(zip(here, zip(*cells, strict=True), strict=True))
            start += frame.height
        return found


def without(names: Column, gone: Column) -> Column:
    """Return the names of the rows that are not gone."""
    rest, place = Column(NAMES), 0
    for start, some in names.slices():
        here = _upto(gone, place, start + len(some))
        rest.add(np.delete(some, here["row"] - start))
        place += len(here)
    return rest


_PLACED = np.dtype([*GONE.descr, ("place", "<i8")])


def beside(
    gone: Column, frames: Iterable[pl.DataFrame], start: int = 0, place: int = 0
) -> Iterator[tuple[int, pl.DataFrame, Records]]:
    """Yield frames with the number of their first row, and what of them is gone, by its place in them.

    The first of them begins with row `start`, before which `place` rows are gone.
    """
    for frame in frames:
        some = _upto(gone, place, start + frame.height)
        here = np.empty(len(some), _PLACED)
        here["row"], here["first"], here["place"] = some["row"], some["first"], some["row"] - start
        yield start, frame, here
        start, place = start + frame.height, place + len(some)


def _upto(gone: Column, place: int, stop: int) -> Records:
    """Return what is gone from its `place` on up to row `stop`."""
    found = [gone.read(place, place)]
    while place < len(gone):
        some = gone.read(place, place + BATCH)
        found.append(some[some["row"] < stop])
        place += len(some)
        if len(found[-1]) < len(some):
            break
    return np.concatenate(found)


def _keyed(cells: list[list[object]], rows: np.ndarray) -> Records:
    found = np.empty(len(rows), _KEYED)
    whole = np.frombuffer(b"".join(digests(cells)), "<u8").reshape(-1, 2)
    found["key"], found["rest"], found["row"] = whole[:, 0], whole[:, 1], rows
    return found


def _repeated(keyed: Records) -> Records:
    """Return the rows whose key an earlier one has, with the first such row."""
    keyed = keyed[np.lexsort((keyed["row"], keyed["rest"], keyed["key"]))]
    same = np.zeros(len(keyed), np.bool_)  # as the one before
    same[1:] = (keyed["key"][1:] == keyed["key"][:-1]) & (keyed["rest"][1:] == keyed["rest"][:-1])
    firsts = keyed["row"][~same]
    return _gone(keyed["row"][same], firsts[(np.cumsum(~same) - 1)[same]])


def _gone(rows: np.ndarray, firsts: np.ndarray | int) -> Records:
    found = np.empty(len(rows), GONE)
    found["row"], found["first"] = rows, firsts
    return found


def _add(gone: Buckets, rows: Records, count: int) -> None:
    """Sort rows by their numbers, of which there are so many, into as many stretches as there are buckets."""
    gone.add(rows, rows["row"] * gone.count // count)


def _in_order(gone: Buckets) -> Column:
    found = Column(GONE)
    for number in range(gone.count):
        rows = gone.read(number)
        found.add(rows[np.argsort(rows["row"])])
    return found
