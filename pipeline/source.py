"""The input table: a lazy Polars scan, checked before anything is sent, as rows and as tables.

CSV cells reach prompts and keys as the text that stands in the file; only the output gives a column a type,
and only one that every cell of it has. The input is streamed: what is kept is 16 bytes for each row.
"""

import glob
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from polars.datatypes import DataTypeClass

from pipeline.delimited import (
    QUOTING,
    SEPARATORS,
    Delimited,
    check,
    check_ndjson,
    ndjson_fault,
    text_types,
    typed,
)
from pipeline.errors import ChangedError, InputError
from pipeline.flow import Row
from pipeline.keys import digest
from pipeline.template import column_hint

BATCH = 20_000  # rows of a table
ROWS = 1_000  # rows that become Python objects at a time
PAIRS = 100  # of rows whose keys begin alike; more than one pair of different keys is next to impossible
ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".arrow": "ipc",
    ".ipc": "ipc",
    ".feather": "ipc",
}
FOREIGN = (
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
    pa.ArrowException,
    OSError,
    ValueError,
    OverflowError,
)
Columns: TypeAlias = Mapping[str, pl.DataType]
Kind: TypeAlias = pl.DataType | DataTypeClass
_HINTS = {
    "csv": QUOTING,
    "tsv": QUOTING,
    "ndjson": "each line must be one JSON object, and a column must hold values of one kind",
    "parquet": "check that it is a whole Parquet file, or get it again",
    "ipc": "check that it is a whole Arrow IPC file (not a stream), or get it again",
}
AGAIN = "run the same command again: rows that are still the same are not asked again"


@dataclass(frozen=True, slots=True)
class Survey:
    """One pass over the input: the first 8 bytes (little-endian) of each row's key and digest, in order."""

    keys: NDArray[np.uint64]
    digests: NDArray[np.uint64]

    @property
    def rows(self) -> int:
        """How many rows the input has."""
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some rows in order: all columns in the output's types, and the 16-byte key and digest of each row."""

    frame: pl.DataFrame
    keys: list[bytes]
    digests: list[bytes]


@dataclass(frozen=True, slots=True)
class _Files:
    """What is read, and how the files stood when they were opened."""

    paths: tuple[Path, ...]
    kind: str
    stamps: list[tuple[int, int, int]]

    @property
    def text(self) -> bool:
        """Whether all cells are text."""
        return self.kind in SEPARATORS


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
        files: _Files,
        scan: pl.LazyFrame,
        rows: int | None,
        *,
        key: Sequence[str],
        used: Sequence[str] | None,
        limit: int | None,
    ) -> None:
        self.files = files.paths
        self.key = tuple(key)
        self._files = files
        self._limit = limit
        self._expected = rows if rows is None or limit is None else min(rows, limit)
        self._scan = scan if limit is None else scan.head(limit)
        self._schema = self._scan.collect_schema()
        self.used = tuple(self._schema) if used is None else tuple(used)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return tuple(self._schema)

    @cached_property
    def types(self) -> pl.Schema:
        """The columns as the output has them; of CSV this reads the file once."""
        if not self._files.text:
            return self._schema
        with _translated(self._files):
            return pl.Schema(text_types(self._scan, self.columns))

    def survey(self) -> Survey:
        """Read the input once; raises InputError for broken or empty files and keys that are not unique.

        All columns are read, so that nothing is found broken only after it was paid for.
        """
        keys: list[NDArray[np.uint64]] = []
        digests: list[NDArray[np.uint64]] = []
        rows = 0
        self._check_pages()
        for frame in self._frames(self.columns, BATCH):
            hashed = self._hashed(frame)
            self._check_nulls(frame, rows)
            rows += frame.height
            keys.append(_heads(hashed.keys))
            digests.append(_heads(hashed.digests) if hashed.digests is not hashed.keys else keys[-1])
        survey = Survey(_joined(keys), _joined(digests))
        self._check_count(survey.rows)
        if self.key:
            self._check_unique(survey.keys)
        return survey

    def rows(self, pending: NDArray[np.bool_]) -> Generator[list[Row], None, None]:
        """Yield the rows where `pending` is true, in order, some at a time, with the used columns only.

        `pending` has one element for each row of the survey.
        """
        start = 0
        for frame in self._frames(dict.fromkeys([*self.key, *self.used]), ROWS):
            mask = pending[start : start + frame.height]
            if len(mask) < frame.height:
                raise _changed()
            if mask.any():
                hashed = self._hashed(frame.filter(pl.Series(mask)))
                cells = zip(*hashed.used.values(), strict=True)
                values = [dict(zip(hashed.used, row, strict=True)) for row in cells]
                indices = (start + np.flatnonzero(mask)).tolist()
                yield [Row(*row) for row in zip(indices, hashed.keys, hashed.digests, values, strict=True)]
            start += frame.height
        if start != len(pending):
            raise _changed()

    def tables(self, size: int = BATCH) -> Generator[Chunk, None, None]:
        """Yield the whole input in order, at most `size` rows at a time."""
        for frame in self._frames(self.columns, size):
            hashed = self._hashed(frame)
            yield Chunk(self._natural(frame), hashed.keys, hashed.digests)

    def check_unchanged(self) -> None:
        """Raise InputError when a file was written to, replaced or removed since it was opened."""
        try:
            stamps = _stamps(self.files)
        except OSError as exc:
            raise _changed() from exc
        if stamps != self._files.stamps:
            raise _changed()

    def _natural(self, frame: pl.DataFrame) -> pl.DataFrame:
        if not self._files.text:
            return frame
        with _translated(self._files):
            return frame.select(typed(name, kind) for name, kind in self.types.items())

    def _frames(self, columns: Iterable[str], size: int) -> Generator[pl.DataFrame, None, None]:
        """Stream the columns; no frame is longer than `size`."""
        self.check_unchanged()  # Polars keeps what it knows of a file, and would read another one by it
        with _translated(self._files):
            batches = self._scan.select(list(columns)).collect_batches(
                chunk_size=size, maintain_order=True, lazy=True, engine="streaming"
            )
            for batch in batches:
                yield from batch.iter_slices(size)

    def _hashed(self, frame: pl.DataFrame) -> _Hashed:
        """Hash a frame's rows; keys and digests are the same list where no key columns are named."""
        used = {name: _cells(frame[name]) for name in self.used}
        digests = [digest(row) for row in zip(*used.values(), strict=True)]
        if not self.key:
            return _Hashed(digests, digests, used)
        own = [_exact(frame[name], used.get(name)) for name in self.key]
        return _Hashed([digest(row) for row in zip(*own, strict=True)], digests, used)

    def _check_pages(self) -> None:
        """Let pyarrow read what Polars takes on trust: a damaged page can make it end the process."""
        if self._files.kind not in {"parquet", "ipc"}:
            return
        rows = 0
        for path in self.files:
            with _translated(self._files, path):
                for batch in _batches(path, self._files.kind):
                    batch.validate(full=True)
                    rows += len(batch)
                    if self._limit is not None and rows >= self._limit:
                        return

    def _check_nulls(self, frame: pl.DataFrame, start: int) -> None:
        for name in self.key:
            if frame[name].null_count():
                row = start + int(frame[name].is_null().arg_max() or 0) + 1
                raise InputError(
                    f"key column `{name}` is empty in row {row:,}",
                    "fill it, name another key in [input], or leave `key` out: the text is then the key",
                )

    def _check_count(self, rows: int) -> None:
        if not rows:
            raise InputError(f"`{self.files[0]}` has no rows", "nothing is there to ask about")
        if self._expected is not None and rows != self._expected:
            raise InputError(
                f"`{self.files[0]}` is read in two ways: as {self._expected:,} rows and as {rows:,}",
                _HINTS[self._files.kind],
            )

    def _check_unique(self, keys: NDArray[np.uint64]) -> None:
        """Raise InputError for the first key that two rows share; names are compared whole, by their rows."""
        order = np.argsort(keys, kind="stable")
        alike = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        pairs = sorted(zip(order[alike + 1].tolist(), order[alike].tolist(), strict=True))[:PAIRS]
        named = self._named({row for pair in pairs for row in pair})
        for later, earlier in pairs:
            if named[earlier] == named[later]:
                shown = ", ".join(f"`{_short(cell)}`" for cell in named[earlier])
                raise InputError(
                    f"rows {earlier + 1:,} and {later + 1:,} have the same key {shown}",
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
) -> Source:
    """Open a file, a folder or a glob and check what can be checked without reading it all more than once.

    `used` are the columns of the prompt, None for all; `limit` takes the first rows only; `kind` names the
    format where the ending does not. Raises InputError for a missing, empty or broken file and for a key
    column that is not there.
    """
    first = _Files((path,), kind or "", [])
    with _translated(first):
        paths, kind = _found(path, kind)
        files = _Files(paths, kind, _stamps(paths))
    with _translated(files):
        for file, (size, *_) in zip(paths, files.stamps, strict=True):
            if not size:
                raise InputError(f"`{file}` is empty", "write the table to it, or name another file")
            file.open("rb").close()  # the system says better than Polars why it cannot be read
        scan, rows = _scan(files, folder=path if path.is_dir() else None)
        source = Source(files, scan, rows, key=key, used=used, limit=limit)
    for name in key:
        if name not in source.columns:
            raise InputError(f"key column `{name}` is not in the input", column_hint(name, source.columns))
    if kind in {"parquet", "ipc"}:
        _check_types(source)
    return source


def _found(path: Path, kind: str | None) -> tuple[tuple[Path, ...], str]:
    """Return the files that `path` means, in order, and their format."""
    if path.is_file():
        paths = [path]
    elif path.is_dir():
        paths = _in_folder(path, kind)
    else:
        paths = _matches(path)
    if not paths:
        raise _missing(path)
    return tuple(paths), _format(paths, kind)


def _in_folder(folder: Path, kind: str | None) -> list[Path]:
    """Return the tables in a folder and below; names that begin with a dot are hidden, as for a glob."""
    wanted = {ending for ending, known in ENDINGS.items() if kind in {None, known}}
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in wanted
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    if not found:
        hint = f"its files must end in one of {', '.join(sorted(wanted))}; else name them with a glob"
        raise InputError(f"the folder `{folder}` holds no table", hint)
    return found


def _matches(path: Path) -> list[Path]:
    """Return the files that a glob matches; the folders in it that exist are taken by their name."""
    root = next(folder for folder in path.parents if folder.is_dir())
    names = glob.glob(str(path.relative_to(root)), root_dir=root, recursive=True)
    return [root / name for name in sorted(set(names)) if (root / name).is_file()]


def _missing(path: Path) -> InputError:
    if path.exists():
        return InputError(f"the input `{path}` is neither a file nor a folder", "save it as a file first")
    if glob.has_magic(path.name):
        return InputError(f"no file matches `{path}`", "check the pattern; `**` goes down into folders")
    said = f"the input `{path}` does not exist"
    if not path.parent.is_dir():
        return InputError(said, f"the folder `{path.parent}` does not exist either")
    near = sorted(file.name for file in path.parent.iterdir() if not file.name.startswith("."))
    if not near:
        return InputError(said, f"the folder `{path.parent}` is empty")
    return InputError(said, column_hint(path.name, near, what="files there"))


def _format(paths: Sequence[Path], given: str | None) -> str:
    kinds = {ENDINGS.get(path.suffix.lower()): path for path in reversed(paths)}
    if given:
        return given
    if None in kinds:
        raise InputError(
            f"the format of `{kinds[None]}` is not known by its ending",
            "set format in [input] to csv, tsv, parquet, ndjson or ipc; unpack compressed files first",
        )
    if len(kinds) > 1:
        one, other = list(kinds.values())[:2]
        raise InputError(
            f"the input mixes formats: `{other}` and `{one}`", "name one pattern, such as `data/*.csv`"
        )
    return next(kind for kind in kinds if kind)


def _scan(files: _Files, folder: Path | None) -> tuple[pl.LazyFrame, int | None]:
    """Return the lazy table and how many rows it must have, where that is known."""
    if files.kind in SEPARATORS:
        return _scan_text(files, SEPARATORS[files.kind])
    if files.kind == "ndjson":
        return _scan_ndjson(files)
    schemas, rows = [], 0
    for path in files.paths:
        with _translated(files, path):
            if files.kind == "parquet":
                rows += pq.read_metadata(path).num_rows
                schemas.append(dict(pl.scan_parquet(path, glob=False).collect_schema()))
            else:
                schemas.append(dict(pl.scan_ipc(path, glob=False).collect_schema()))
    for path, schema in zip(files.paths, schemas, strict=True):
        _check_same(files.paths[0], schemas[0], path, schema)
    if files.kind == "ipc":
        return pl.scan_ipc(list(files.paths), glob=False), None
    hive = folder is not None and _is_hive(folder, files.paths)
    return pl.scan_parquet(list(files.paths), hive_partitioning=hive, glob=False), rows


def _scan_text(files: _Files, separator: str) -> tuple[pl.LazyFrame, int]:
    """Scan CSV or TSV as text; the header and the blank lines are known from the check."""
    found = []
    for path in files.paths:
        with _translated(files, path):
            found.append(check(path, separator))
    first = dict.fromkeys(found[0].header, pl.String())
    for path, one in zip(files.paths, found, strict=True):
        _check_same(files.paths[0], first, path, dict.fromkeys(one.header, pl.String()))
        if one.header != found[0].header:
            said = f"`{path}` has its columns in another order than `{files.paths[0]}`"
            raise InputError(said, "give all files the same header")
    rows = sum(one.records for one in found)
    if not rows:
        raise InputError(f"`{files.paths[0]}` has a header but no rows", "nothing is there to ask about")
    scan = pl.scan_csv(
        list(files.paths),
        separator=separator,
        quote_char=_quote(files.paths, found),
        infer_schema=False,
        new_columns=list(first),  # Polars would keep doubled quotes in names
        glob=False,
    )
    return _without_blank(scan, found), rows


def _quote(paths: Sequence[Path], found: Sequence[Delimited]) -> str | None:
    """Return the quote character; None where no cell stands in quotes, so that quotes mean themselves."""
    if not any(one.quoted for one in found):
        return None
    for path, one in zip(paths, found, strict=True):
        if one.stray is not None:
            raise InputError(
                f"`{path}`, line {one.stray}: a quote in a cell without quotes around it", QUOTING
            )
    return '"'


def _without_blank(scan: pl.LazyFrame, found: Sequence[Delimited]) -> pl.LazyFrame:
    """Leave the blank lines out, which Polars reads as rows of nulls."""
    starts = accumulate((one.records + len(one.blank) for one in found), initial=0)
    blank = [start + line for start, one in zip(starts, found, strict=False) for line in one.blank]
    if not blank:
        return scan
    number = "_" * (1 + max(len(name) for name in found[0].header))  # no column has this name
    return scan.with_row_index(number).filter(~pl.col(number).is_in(blank)).drop(number)


def _scan_ndjson(files: _Files) -> tuple[pl.LazyFrame, int]:
    """Scan NDJSON with the columns of all files; Polars alone takes those of the first."""
    rows, frames = 0, []
    for path in files.paths:
        with _translated(files, path):
            records = check_ndjson(path)
            rows += records
            if records:
                schema = pl.scan_ndjson(_literal(path), infer_schema_length=None).collect_schema()
                frames.append(pl.DataFrame(schema=schema))
    if not rows:
        raise InputError(f"`{files.paths[0]}` has no rows", "nothing is there to ask about")
    union = pl.concat(frames, how="diagonal_relaxed").schema
    schema = pl.Schema({name: _writable(kind) for name, kind in union.items()})
    return pl.scan_ndjson([_literal(path) for path in files.paths], schema=schema), rows


def _literal(path: Path) -> Path:
    """Return a path that stands for itself where Polars expands patterns."""
    return Path(glob.escape(str(path)))


def _writable(kind: Kind) -> Kind:
    """Return the type with text in place of what no Parquet file can hold."""
    if isinstance(kind, pl.List):
        return pl.List(_writable(kind.inner))
    if isinstance(kind, pl.Array):
        return pl.Array(_writable(kind.inner), kind.size)
    if isinstance(kind, pl.Struct) and kind.fields:
        return pl.Struct({field.name: _writable(field.dtype) for field in kind.fields})
    return pl.String() if kind in (pl.Struct, pl.Int128, pl.UInt128, pl.Object) else kind


def _check_types(source: Source) -> None:
    for name, kind in source.types.items():
        if _writable(kind) != kind:
            raise InputError(
                f"column `{name}` has the type {kind}, which a table for others cannot hold",
                "write it as text or as decimals of at most 38 digits",
            )


def _check_same(first: Path, expected: Columns, path: Path, found: Columns) -> None:
    """Raise InputError when two files differ in names or types of their columns."""
    for name in dict.fromkeys([*expected, *found]):
        if name not in found or name not in expected:
            where, lacks = (first, path) if name in expected else (path, first)
            raise InputError(
                f"`{lacks}` has no column `{name}`, but `{where}` has",
                "give all files the same columns, or name a pattern that takes fewer files",
            )
        if expected[name] != found[name]:
            raise InputError(
                f"column `{name}` is {found[name]} in `{path}`, but {expected[name]} in `{first}`",
                "write all files with the same types",
            )


def _is_hive(folder: Path, paths: Sequence[Path]) -> bool:
    """Say whether folders such as `year=2026` add columns; raises InputError where they differ."""
    levels = [
        [part.partition("=")[0] for part in path.relative_to(folder).parent.parts if "=" in part]
        for path in paths
    ]
    for path, names in zip(paths, levels, strict=True):
        if names != levels[0]:
            raise InputError(
                f"`{path}` and `{paths[0]}` stand in folders of different columns",
                "let all paths name the same columns, such as `year=2026/month=11`",
            )
    return bool(levels[0])


def _batches(path: Path, kind: str) -> Iterator[pa.RecordBatch]:
    """Read a Parquet or Arrow file with pyarrow."""
    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=ROWS)
    else:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


@contextmanager
def _translated(files: _Files, path: Path | None = None) -> Iterator[None]:
    """Turn what Polars, pyarrow and the system raise into InputError; `path` is the file, where known."""
    try:
        yield
    except FOREIGN as exc:
        raise _unreadable(files, path, exc) from exc


def _unreadable(files: _Files, path: Path | None, exc: BaseException) -> InputError:
    if files.kind == "ndjson" and not isinstance(exc, OSError):
        with suppress(OSError):
            for one in [path] if path else files.paths:
                if fault := ndjson_fault(one):
                    return fault
    which = f"`{path or files.paths[0]}`"
    if path is None and len(files.paths) > 1:
        which += f" or another of the {len(files.paths):,} files"
    if isinstance(exc, OSError) and exc.errno:
        said = f"{which} cannot be read: {os.strerror(exc.errno).lower()}"
        return InputError(said, "check the path and the right to read it")
    if isinstance(exc, pa.ArrowNotImplementedError):
        return InputError(f"{which} holds what cannot be read: {_line(exc)}", _HINTS["ipc"])
    return InputError(f"{which} cannot be read: {_line(exc)}", _HINTS.get(files.kind, _HINTS["ipc"]))


def _changed() -> InputError:
    return ChangedError("the input was changed while the run went on", AGAIN)


def _cells(column: pl.Series) -> list[object]:
    """Return a column as Python values."""
    try:
        return column.to_list()
    except FOREIGN as exc:
        said = f"column `{column.name}` holds a value that cannot be used: {_line(exc)}"
        raise InputError(said, "dates and times must lie in the years 1 to 9999") from exc


def _exact(column: pl.Series, cells: list[object] | None) -> list[object]:
    """Return key cells as Python values; nanoseconds, which these lack, are put beside them."""
    cells = _cells(column) if cells is None else cells
    kind = column.dtype
    if kind == pl.Time or (isinstance(kind, pl.Datetime | pl.Duration) and kind.time_unit == "ns"):
        rest = (column.to_physical() % 1000).to_list()
        return [(cell, more) if more else cell for cell, more in zip(cells, rest, strict=True)]
    return cells


def _heads(digests: list[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(digests), dtype="<u8")[::2].astype(np.uint64)


def _joined(heads: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    return np.concatenate(heads) if heads else np.empty(0, np.uint64)


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split("\n\n")[0].split()).split(". ")[0].rstrip(".")[:200]


def _short(cell: object) -> str:
    return " ".join(str(cell).split())[:80]


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int, int]]:
    """Return size, time of change and inode of each file."""
    return [((stat := path.stat()).st_size, stat.st_mtime_ns, stat.st_ino) for path in paths]
