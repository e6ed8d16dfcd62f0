"""The input table: a lazy Polars scan, checked before anything is sent, as rows and as tables.

CSV cells reach prompts and keys as the text that stands in the file; only the output gives a column a type,
and only one that every cell of it has. The input is streamed: what is kept is 16 bytes for each row, on disk.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.columns import column_hint
from pipeline.errors import ChangedError, InputError
from pipeline.flow import Row
from pipeline.heads import BUCKETS, bucket_of, heads
from pipeline.input.delimited import text_types, typed
from pipeline.input.files import HINTS, PLAINER, Files, find, first_line, root_of, stamp_of, translated
from pipeline.input.recode import PLAIN, Decoding, copies_of
from pipeline.input.scan import Scan, batches, scan_files, writable
from pipeline.keys import digests
from pipeline.scratch import Buckets, Column

BATCH = 5_000  # rows of a table
ROWS = 1_000  # rows that become Python objects at a time
NAMES = np.dtype([("key", "<u8"), ("digest", "<u8")])
NUMBERED = np.dtype([*NAMES.descr, ("row", "<i8")])
PAIRS = 100  # of rows whose keys begin alike; more than one pair of different keys is next to impossible


@dataclass(frozen=True, slots=True)
class Survey:
    """One pass over the input: the first 8 bytes (little-endian) of each row's key and digest, in order."""

    names: Column  # of NAMES

    @property
    def rows(self) -> int:
        """How many rows the input has."""
        return len(self.names)

    def by_key(self) -> Buckets:
        """Return all rows with their numbers (NUMBERED), in buckets by key."""
        buckets = Buckets(NUMBERED, BUCKETS)
        for start, names in self.names.slices():
            rows = np.empty(len(names), NUMBERED)
            rows["key"], rows["digest"] = names["key"], names["digest"]
            rows["row"] = np.arange(start, start + len(names))
            buckets.add(rows, bucket_of(names["key"]))
        return buckets


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows in order: all columns in the output's types, and the 16-byte key and digest of each row."""

    frame: pl.DataFrame
    keys: list[bytes]
    digests: list[bytes]


@dataclass(frozen=True, slots=True)
class _Hashed:
    """Rows as Python values: the cells of the used columns, and what names each row."""

    keys: list[bytes]
    digests: list[bytes]
    used: dict[str, list[object]]


class Source:
    """An opened input. Make it with `open_source`."""

    def __init__(
        self,
        files: Files,
        scan: Scan,
        *,
        key: Sequence[str],
        used: Sequence[str] | None,
        limit: int | None,
        decoding: Decoding,
    ) -> None:
        self.files = files.paths
        self.key = tuple(key)
        self._files = files
        self._limit = limit
        self._decoding = decoding
        self._whole = scan
        rows = sum(scan.rows)
        self._expected = rows if limit is None else min(rows, limit)
        self._scan = scan.frame if limit is None else scan.frame.head(limit)
        self._schema = self._scan.collect_schema()
        self.used = tuple(self._schema) if used is None else tuple(used)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return tuple(self._schema)

    @property
    def reading(self) -> tuple[object, ...]:
        """What else than the files themselves decides which rows there are, and their keys and digests."""
        decoding = (self._decoding.encoding, self._decoding.errors)
        return (self._files.kind, self.key, self.used, self.columns, self._limit, *decoding)

    @cached_property
    def types(self) -> pl.Schema:
        """The columns as the output has them; of CSV this reads the file once."""
        if not self._files.text:
            return self._schema
        with translated(self._files):
            return pl.Schema(text_types(self._scan, self.columns))

    def survey(self) -> Survey:
        """Read the input once; raises InputError for broken files and keys that are not unique.

        All columns are read, so that nothing is found broken only after it was paid for.
        """
        survey = Survey(Column(NAMES))
        self._check_pages()
        for frame in self._frames(self.columns, BATCH):
            hashed = self._hashed(frame)
            self._check_nulls(frame, survey.rows)
            names = np.empty(frame.height, NAMES)
            names["key"], names["digest"] = heads(hashed.keys), heads(hashed.digests)
            survey.names.add(names)
        self._check_count(survey.rows)
        if self.key:
            self._check_unique(survey)
        return survey

    def rows(self, pending: NDArray[np.bool_]) -> Generator[list[Row], None, None]:
        """Yield the rows where `pending` is true, in order, some at a time, with the used columns only.

        `pending` has one element for each row of the survey.
        """
        start = int(pending.argmax()) if len(pending) else 0  # what stands before is not even read
        for frame in self._frames(dict.fromkeys([*self.key, *self.used]), ROWS, start):
            mask = pending[start : start + frame.height]
            if len(mask) < frame.height:
                raise self.change()
            if mask.any():
                hashed = self._hashed(frame.filter(pl.Series(mask)))
                cells = zip(*hashed.used.values(), strict=True)
                values = [dict(zip(hashed.used, row, strict=True)) for row in cells]
                indices = (start + np.flatnonzero(mask)).tolist()
                yield [Row(*row) for row in zip(indices, hashed.keys, hashed.digests, values, strict=True)]
            start += frame.height
        if start != len(pending):
            raise self.change()

    def sample(self, rows: Sequence[int]) -> pl.DataFrame:
        """Return the rows with these numbers in the input's order, all columns in the prompts' types."""
        wanted, found, start = np.sort(np.asarray(rows, np.int64)), [], 0
        for frame in self._frames(self.columns, BATCH):
            here = wanted[(wanted >= start) & (wanted < start + frame.height)] - start
            found.append(frame[here])
            start += frame.height
        if len(wanted) and wanted[-1] >= start:
            raise self.change()
        return pl.concat(found)

    def tables(self, size: int = BATCH) -> Generator[Chunk, None, None]:
        """Yield the whole input in order, at most `size` rows at a time."""
        for frame in self._frames(self.columns, size):
            hashed = self._hashed(frame)
            yield Chunk(self._natural(frame), hashed.keys, hashed.digests)

    @property
    def changed(self) -> bool:
        """Whether a file was written to, replaced or removed since it was opened."""
        return bool(self._files.changed)

    def check_unchanged(self) -> None:
        """Raise ChangedError where the input was `changed`."""
        if self.changed:
            raise self.change()

    def change(self) -> ChangedError:
        """Return the error for an input that is not what it was when it was opened."""
        return self._files.change()

    def _natural(self, frame: pl.DataFrame) -> pl.DataFrame:
        if not self._files.text:
            return frame
        with translated(self._files):
            return frame.select(typed(name, kind) for name, kind in self.types.items())

    def _frames(
        self, columns: Iterable[str], size: int, start: int = 0
    ) -> Generator[pl.DataFrame, None, None]:
        """Stream the columns from row `start` on; no frame is longer than `size`."""
        self.check_unchanged()  # Polars keeps what it knows of a file, and would read another one by it
        with translated(self._files):
            scan = self._scan.slice(start) if start else self._scan
            batches = scan.select(list(columns)).collect_batches(
                chunk_size=size, maintain_order=True, lazy=True, engine="streaming"
            )
            for batch in batches:
                yield from batch.iter_slices(size)

    def _hashed(self, frame: pl.DataFrame) -> _Hashed:
        """Hash a frame's rows; keys and digests are the same list where no key columns are named."""
        used = {name: _cells(frame[name]) for name in self.used}
        texts = digests(list(used.values()))
        if not self.key:
            return _Hashed(texts, texts, used)
        return _Hashed(digests([_exact(frame[name], used.get(name)) for name in self.key]), texts, used)

    def _check_pages(self) -> None:
        """Let pyarrow read what Polars takes on trust: a damaged page can make it end the process."""
        if self._files.kind not in {"parquet", "ipc"}:
            return
        rows = 0
        for path in self.files:
            with translated(self._files, path):
                for batch in batches(path, self._files.kind):
                    batch.validate(full=True)
                    rows += len(batch)
                    if self._limit is not None and rows >= self._limit:
                        return

    def _check_nulls(self, frame: pl.DataFrame, start: int) -> None:
        for name in self.key:
            if frame[name].null_count():
                row = start + int(frame[name].is_null().arg_max() or 0)
                raise InputError(
                    f"key column `{name}` is empty in {self._whole.named(row)}",
                    "fill it, name another key in [input], or leave `key` out: the text is then the key",
                )

    def _check_count(self, rows: int) -> None:
        if rows != self._expected:
            raise InputError(
                f"`{self.files[0]}` is read in two ways: as {self._expected:,} rows and as {rows:,}",
                HINTS[self._files.kind],
            )

    def _check_unique(self, survey: Survey) -> None:
        """Raise InputError for the first key that two rows share; names are compared whole, by their rows."""
        pairs = _alike(survey)
        named = self._named({row for pair in pairs for row in pair})
        for later, earlier in pairs:
            if named[earlier] == named[later]:
                shown = ", ".join(f"`{_short(cell)}`" for cell in named[earlier])
                raise InputError(
                    f"{self._whole.named(earlier, later)} have the same key {shown}",
                    "name more key columns in [input], or leave `key` out: the text is then the key",
                )

    def _named(self, rows: set[int]) -> dict[int, tuple[object, ...]]:
        """Read the key cells of some rows."""
        found: dict[int, tuple[object, ...]] = {}
        start = 0
        for frame in self._frames(self.key, BATCH) if rows else ():
            here = [row for row in rows if start <= row < start + frame.height]
            cells = [_exact(frame[name][[row - start for row in here]], None) for name in self.key]
            found |= dict(zip(here, zip(*cells, strict=True), strict=True))
            start += frame.height
        return found


def open_source(
    path: Path,
    *,
    key: Sequence[str],
    used: Sequence[str] | None,
    limit: int | None = None,
    kind: str | None = None,
    decoding: Decoding = PLAIN,
) -> Source:
    """Open a file, a folder or a glob and check what can be checked without reading it all more than once.

    `used` are the columns of the prompt, None for all; `limit` takes the first rows only; `kind` names the
    format where the ending does not, `decoding` the encoding of text. Raises InputError for a missing, empty
    or broken file and for a key column that is not there, StoreError where a copy in UTF-8 finds no room.
    """
    first = Files((path,), kind or "", [])
    with translated(first):
        paths, kind = find(path, kind)
        files = Files(paths, kind, list(map(stamp_of, paths)))
    with translated(files):
        for file, (size, *_) in zip(paths, files.stamps, strict=True):
            if not size:
                raise InputError(f"`{file}` is empty", "write the table to it, or name another file")
            file.open("rb").close()  # the system says better than Polars why it cannot be read
        files = replace(files, copies=copies_of(paths, kind, decoding))
    try:
        with translated(files):
            scan = scan_files(files, root_of(path))
            source = Source(files, scan, key=key, used=used, limit=limit, decoding=decoding)
        _check_key(source)
        if kind in {"parquet", "ipc"}:
            _check_types(source)
    except BaseException:
        files.copies.remove()
        raise
    return source


def _check_key(source: Source) -> None:
    for name in source.key:
        if name not in source.columns:
            raise InputError(f"key column `{name}` is not in the input", column_hint(name, source.columns))


def _check_types(source: Source) -> None:
    for name, kind in source.types.items():
        if writable(kind) != kind:
            raise InputError(
                f"column `{name}` has the type {kind}, which a table for others cannot hold",
                PLAINER,
            )


def _cells(column: pl.Series) -> list[object]:
    """Return a column as Python values."""
    try:
        return column.to_list()
    except (ValueError, OverflowError, pl.exceptions.PanicException) as exc:
        said = f"column `{column.name}` holds a value that cannot be used: {first_line(exc)}"
        raise InputError(said, "dates and times must lie in the years 1 to 9999") from exc


def _exact(column: pl.Series, cells: list[object] | None) -> list[object]:
    """Return key cells as Python values; nanoseconds, which these lack, are put beside them."""
    cells = _cells(column) if cells is None else cells
    kind = column.dtype
    if kind == pl.Time or (isinstance(kind, pl.Datetime | pl.Duration) and kind.time_unit == "ns"):
        rest = (column.to_physical() % 1000).to_list()
        return [(cell, more) if more else cell for cell, more in zip(cells, rest, strict=True)]
    return cells


def _alike(survey: Survey) -> list[tuple[int, int]]:
    """Return the first pairs (later, earlier) of rows whose keys begin alike."""
    found: list[tuple[int, int]] = []
    keys = survey.by_key()
    for number in range(keys.count):
        rows = keys.read(number)
        order = np.argsort(rows["key"], kind="stable")
        at, sorted_ = rows["row"][order], rows["key"][order]
        alike = np.flatnonzero(sorted_[1:] == sorted_[:-1])
        nearest = alike[np.argsort(at[alike + 1], kind="stable")[:PAIRS]]
        found += zip(at[nearest + 1].tolist(), at[nearest].tolist(), strict=True)
    return sorted(found)[:PAIRS]


def _short(cell: object) -> str:
    return " ".join(str(cell).split())[:80]
