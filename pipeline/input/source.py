"""The input table: a lazy Polars scan, checked before anything is sent, as rows and as tables.

CSV cells reach prompts and keys as the text that stands in the file; only the output gives a column a type,
and only one that every cell of it has. The input is streamed: what is kept is 16 bytes for each row, on disk.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.columns import column_hint
from pipeline.errors import ChangedError, InputError
from pipeline.flow import Row
from pipeline.heads import heads
from pipeline.input.bad import BadRows, LeftOut, as_counted, together, write
from pipeline.input.cells import exact, values
from pipeline.input.delimited import empty, text_types, typed
from pipeline.input.files import HINTS, PLAINER, Files, find, root_of, separator_of, stamp_of, translated
from pipeline.input.recode import PLAIN, Decoding, copies_of
from pipeline.input.scan import Scan, batches, scan_files, writable
from pipeline.input.survey import NAMES, NO_KEY, Survey
from pipeline.input.unique import GONE, Keys, beside, without
from pipeline.keys import digests
from pipeline.scratch import SLICE, Column

BATCH = 5_000  # rows of a table
ROWS = 1_000  # rows that become Python objects at a time


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
        self._gone = Column(GONE)  # rows that have no key of their own, once that is known
        self._unkeyed = BadRows()
        self._types: dict[tuple[int, int], pl.Schema] = {}  # of so many rows, and so many of them gone
        self._whole = scan
        self._keys = Keys(self.key, scan, self._all)
        self._take(limit)
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
        skip = (self._files.separator, self._files.bad is not None)
        return (self._files.kind, self.key, self.used, self.columns, self._limit, *decoding, *skip)

    @property
    def types(self) -> pl.Schema:
        """The columns as the output has them; of CSV this reads the file once, and again without bad rows."""
        if not self._files.text:
            return self._schema
        rows = (self._expected, len(self._gone))
        if rows not in self._types:
            with translated(self._files):
                frames = [self._scan] if not rows[1] else self._frames(self.columns, SLICE)
                self._types = {rows: pl.Schema(text_types(frames, self.columns))}
        return self._types[rows]

    @property
    def left_out(self) -> LeftOut:
        """What of the input was left out until now: for their keys, rows are from the survey on."""
        return together(self._bad)

    def write_left_out(self, path: Path) -> LeftOut:
        """Write down what was left out, or remove the file where nothing was; raises OSError."""
        return write(path, self._bad, self.files)

    @property
    def _bad(self) -> list[BadRows]:
        return [] if self._files.bad is None else [self._files.bad, self._unkeyed]

    def survey(self) -> Survey:
        """Read the input once; raises InputError for broken files and keys that are not unique.

        All columns are read, so that nothing is found broken only after it was paid for. Where bad rows are
        left out, those without a key of their own are in no survey, and nowhere else after it.
        """
        self._take(self._limit)
        names = Column(NAMES)
        self._read(names)
        if self._files.bad is None:
            if self.key:
                self._keys.check_unique(Survey(names))
            return Survey(names)
        survey = self.sifted(names)
        while self._limit is not None and survey.rows < self._limit and len(names) < sum(self._whole.rows):
            self._take(max(self._limit, 2 * len(names)))
            self._read(names)
            survey = self.sifted(names)
        if self._limit is None or survey.rows < self._limit:
            self._keys.refuse_most(len(names), self._unkeyed)
        elif (end := as_counted(self._limit - 1, self._gone) + 1) < len(names):
            survey = self.sifted(names.head(end))
        return survey

    def sifted(self, names: Column) -> Survey:
        """Leave out rows without a key of their own; `names` are those of all rows that were read before."""
        survey = Survey(names)
        self._take(len(names))
        if not self.key or self._files.bad is None:
            return survey
        gone = self._keys.unkeyed(survey)
        if not len(gone):
            return survey
        self._keys.tell(gone, self.columns, self._unkeyed)
        self._gone = gone
        return Survey(without(names, gone), names)

    def _take(self, rows: int | None) -> None:
        """Take so many of the first rows, or all, and none of them is gone."""
        total = sum(self._whole.rows)
        self._expected = total if rows is None else min(total, rows)
        whole = self._expected == total
        self._scan = self._whole.frame if whole else self._whole.frame.head(self._expected)
        self._gone, self._unkeyed = Column(GONE), BadRows()

    def _read(self, names: Column) -> None:
        """Read the rows that have no name yet."""
        self._check_pages()
        for frame in self._all(self.columns, BATCH, len(names)):
            hashed = self._hashed(frame)
            some = np.empty(frame.height, NAMES)
            some["key"], some["digest"] = heads(hashed.keys), heads(hashed.digests)
            if self.key and self._files.bad is not None:
                some["key"][self._keys.empty(frame).to_numpy()] = NO_KEY
            elif self.key:
                self._keys.check_filled(frame, some, names)
            names.add(some)
        self._check_count(len(names))

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
        """Stream the columns of rows that stay, from row `start` on; no frame is longer than `size`."""
        if not len(self._gone):
            yield from self._all(columns, size, start)
            return
        first = as_counted(start, self._gone)
        for _, frame, gone in beside(self._gone, self._all(columns, size, first), first, first - start):
            stays = np.ones(frame.height, np.bool_)
            stays[gone["place"]] = False
            if stays.any():
                yield frame.filter(pl.Series(stays))

    def _all(self, columns: Iterable[str], size: int, start: int = 0) -> Generator[pl.DataFrame, None, None]:
        """Stream the columns of all rows, as `_frames` does."""
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
        used = {name: values(frame[name]) for name in self.used}
        texts = digests(list(used.values()))
        if not self.key:
            return _Hashed(texts, texts, used)
        return _Hashed(digests([exact(frame[name], used.get(name)) for name in self.key]), texts, used)

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
                    if self._limit is not None and rows >= self._expected:
                        return

    def _check_count(self, rows: int) -> None:
        if rows != self._expected:
            raise InputError(
                f"`{self.files[0]}` is read in two ways: as {self._expected:,} rows and as {rows:,}",
                HINTS[self._files.kind],
            )


def open_source(
    path: Path,
    *,
    key: Sequence[str],
    used: Sequence[str] | None,
    limit: int | None = None,
    kind: str | None = None,
    decoding: Decoding = PLAIN,
    separator: str | None = None,
    skip: bool = False,
) -> Source:
    """Open a file, a folder or a glob and check what can be checked without reading it all more than once.

    `used` are the columns of the prompt, None for all; `limit` takes the first rows only; `kind` names the
    format where the ending does not, `decoding` the encoding of text, `separator` what stands between cells
    where the format does not say it; `skip` leaves bad rows out. Raises
    InputError for a missing, empty or broken file and for a key column that is not there, StoreError where a
    copy in UTF-8 finds no room.
    """
    first = Files((path,), kind or "", [])
    with translated(first):
        paths, kind = find(path, kind)
        files = Files(paths, kind, list(map(stamp_of, paths)), separator=separator_of(kind, separator))
    with translated(files):
        for file, stamp in zip(paths, files.stamps, strict=True):
            if not stamp.size:
                raise empty(file)
            file.open("rb").close()  # the system says better than Polars why it cannot be read
        files = replace(
            files, copies=copies_of(paths, kind, decoding, skip=skip), bad=BadRows() if skip else None
        )
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
