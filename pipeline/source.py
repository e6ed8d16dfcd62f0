"""The input table: a lazy Polars scan, checked before anything is sent, as rows and as tables.

CSV cells reach prompts and keys as the text that stands in the file; only the output gives a column a type,
and only one that every cell of it has. The input is streamed: what is kept is 16 bytes for each row.
"""

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.delimited import SEPARATORS, Delimited, check
from pipeline.errors import InputError
from pipeline.flow import Row
from pipeline.keys import digest
from pipeline.template import column_hint

BATCH = 20_000  # rows of a table
ROWS = 1_000  # rows that become Python objects at a time
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
INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?$"
DIGITS = 16  # of a cell that a float still holds exactly enough


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


class Source:
    """An opened input. Make it with `open_source`."""

    def __init__(
        self, files: Sequence[Path], scan: pl.LazyFrame, text: Sequence[Delimited] | None, limit: int | None
    ) -> None:
        self.files = tuple(files)
        self.key: tuple[str, ...] = ()
        self.used: tuple[str, ...] | None = None
        self._text = text is not None
        self._expected = sum(one.records for one in text) if text is not None else None
        if text is not None and any(one.blank for one in text):
            scan = scan.filter(~pl.all_horizontal(pl.all().is_null()))
        self._whole = limit is None
        self._scan = scan if limit is None else scan.head(limit)
        self._stamps = _stamps(files)
        with _polars_errors(self.files):
            self._schema = self._scan.collect_schema()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of all columns."""
        return tuple(self._schema)

    @cached_property
    def types(self) -> pl.Schema:
        """The columns as the output has them; of CSV this reads the file once."""
        return pl.Schema(_text_types(self._scan, self._schema)) if self._text else self._schema

    def survey(self) -> Survey:
        """Read the input once; raises InputError for broken or empty files and keys that are not unique."""
        keys, digests = [], []
        for frame in self._frames(self._hashed, BATCH):
            own, used = self._digests(frame)
            keys.append(_heads(own))
            digests.append(_heads(used) if used is not own else keys[-1])
        joined = np.concatenate(keys) if keys else np.empty(0, np.uint64)
        self._check_rows(joined)
        return Survey(joined, np.concatenate(digests))

    def rows(self, pending: NDArray[np.bool_]) -> Iterator[list[Row]]:
        """Yield the rows where `pending` is true, in order, some at a time, with the used columns only."""
        start = 0
        used = list(self.used if self.used is not None else self.columns)
        for frame in self._frames(self._hashed, ROWS):
            mask = pending[start : start + frame.height]
            if mask.any():
                wanted = frame.filter(pl.Series(mask))
                keys, digests = self._digests(wanted)
                values = wanted.select(used).to_dicts()
                indices = (start + np.flatnonzero(mask)).tolist()
                yield [Row(*row) for row in zip(indices, keys, digests, values, strict=True)]
            start += frame.height

    def tables(self, size: int = BATCH) -> Iterator[Chunk]:
        """Yield the whole input in order, `size` rows at a time."""
        for frame in self._frames(list(self.columns), size):
            keys, digests = self._digests(frame)
            yield Chunk(self._natural(frame), keys, digests)

    def check_unchanged(self) -> None:
        """Raise InputError when a file was written to since it was opened."""
        if _stamps(self.files) != self._stamps:
            raise InputError(
                "the input was changed while the run went on",
                "run the same command again: rows that are still the same are not asked again",
            )

    def _natural(self, frame: pl.DataFrame) -> pl.DataFrame:
        if not self._text:
            return frame
        return frame.select(_typed(name, kind) for name, kind in self.types.items())

    @property
    def _hashed(self) -> list[str]:
        used = self.used if self.used is not None else self.columns
        return list(dict.fromkeys([*self.key, *used]))

    def _frames(self, columns: list[str], size: int) -> Iterator[pl.DataFrame]:
        """Stream the columns; no frame is longer than `size`."""
        with _polars_errors(self.files):
            batches = self._scan.select(columns).collect_batches(
                chunk_size=size, maintain_order=True, lazy=True, engine="streaming"
            )
            for batch in batches:
                yield from batch.iter_slices(size)

    def _digests(self, frame: pl.DataFrame) -> tuple[list[bytes], list[bytes]]:
        """Return keys and digests of a frame's rows; the same list twice where no key columns are named."""
        used = self.used if self.used is not None else self.columns
        digests = _row_digests(frame.select(used))
        return (_row_digests(frame.select(self.key)) if self.key else digests), digests

    def _check_rows(self, keys: NDArray[np.uint64]) -> None:
        if not len(keys):
            raise InputError(f"`{self.files[0]}` has no rows", "nothing is there to ask about")
        if self._whole and self._expected is not None and len(keys) != self._expected:
            raise InputError(
                f"`{self.files[0]}` is read in two ways: as {self._expected:,} rows and as {len(keys):,}",
                "remove blank lines, and put cells that hold quotes or line breaks in double quotes",
            )
        if self.key:
            _check_keys(self._scan.select(self.key), self.key, keys, self.files)


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
    files = _files(path)
    kind = _format(files, kind)
    for file in files:
        if file.stat().st_size == 0:
            raise InputError(f"`{file}` is empty", "write the table to it, or name another file")
    text = [check(file, SEPARATORS[kind]) for file in files] if kind in SEPARATORS else None
    if text is not None:
        _check_headers(files, text)
    source = Source(files, _scan(files, kind, folder=path.is_dir()), text, limit)
    for name in key:
        if name not in source.columns:
            raise InputError(f"key column `{name}` is not in the input", column_hint(name, source.columns))
    source.key, source.used = tuple(key), None if used is None else tuple(used)
    return source


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [
            file for file in sorted(path.rglob("*")) if file.suffix.lower() in ENDINGS and file.is_file()
        ]
        if not found:
            known = ", ".join(sorted(ENDINGS))
            raise InputError(f"the folder `{path}` holds no table", f"its files must end in one of {known}")
        return found
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(name)]
    if found:
        return found
    if glob.has_magic(str(path)):
        raise InputError(f"no file matches `{path}`", "check the pattern; `**` goes down into folders")
    near = [file.name for file in path.parent.glob("*")] if path.parent.is_dir() else []
    hint = (
        f"`{path.parent}` does not exist"
        if not near
        else column_hint(path.name, near).replace("columns", "files there")
    )
    raise InputError(f"the input `{path}` does not exist", hint)


def _format(files: Sequence[Path], given: str | None) -> str:
    kinds = {given} if given else {ENDINGS.get(file.suffix.lower()) for file in files}
    if len(kinds) > 1:
        raise InputError("the input mixes formats", "name one pattern, such as `data/*.csv`")
    kind = kinds.pop()
    if kind is None:
        raise InputError(
            f"the format of `{files[0]}` is not known by its ending",
            "set format in [input] to csv, tsv, parquet, ndjson or ipc; unpack compressed files first",
        )
    return kind


def _check_headers(files: Sequence[Path], text: Sequence[Delimited]) -> None:
    for file, one in zip(files, text, strict=True):
        if one.header != text[0].header:
            raise InputError(
                f"`{file}` has other columns than `{files[0]}`", "give all files the same header"
            )
    if not any(one.records for one in text):
        raise InputError(f"`{files[0]}` has a header but no rows", "nothing is there to ask about")


def _scan(files: Sequence[Path], kind: str, *, folder: bool) -> pl.LazyFrame:
    paths = list(files)
    if kind in SEPARATORS:
        return pl.scan_csv(paths, separator=SEPARATORS[kind], infer_schema=False, glob=False)
    if kind == "parquet":
        for file in paths:
            _check_parquet(file)
        return pl.scan_parquet(paths, hive_partitioning=folder, glob=False)
    if kind == "ndjson":
        return pl.scan_ndjson(paths, infer_schema_length=None)
    return pl.scan_ipc(paths, glob=False)


def _check_parquet(file: Path) -> None:
    try:
        pq.read_metadata(file)
    except (pa.ArrowException, OSError) as exc:
        raise InputError(f"`{file}` is no whole Parquet file: {_line(exc)}", "get the file again") from exc


@contextmanager
def _polars_errors(files: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as exc:
        raise InputError(
            f"`{files[0]}` cannot be read: {_line(exc)}",
            "check that the file is whole and of the format that its ending says; in a CSV, a cell that "
            "holds a quote must stand in double quotes, and the quote in it must be doubled",
        ) from exc


def _row_digests(frame: pl.DataFrame) -> list[bytes]:
    return [digest(cells) for cells in zip(*(column.to_list() for column in frame), strict=True)]


def _heads(digests: list[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(digests), dtype="<u8")[::2].astype(np.uint64)


def _check_keys(
    scan: pl.LazyFrame, key: Sequence[str], keys: NDArray[np.uint64], files: Sequence[Path]
) -> None:
    """Raise InputError for the first null in a key column and for the first key that two rows share."""
    with _polars_errors(files):
        nulls = scan.select(pl.all().null_count()).collect(engine="streaming").row(0)
    for name, number in zip(key, nulls, strict=True):
        if number:
            raise InputError(
                f"key column `{name}` is empty in {number:,} row{'s' * (number > 1)}",
                "fill it, name another key in [input], or leave `key` out: the text is then the key",
            )
    values, counts = np.unique(keys, return_counts=True)
    if (counts > 1).any():
        _accuse(scan, np.flatnonzero(np.isin(keys, values[counts > 1])), files)


def _accuse(scan: pl.LazyFrame, suspects: NDArray[np.int64], files: Sequence[Path]) -> None:
    """Compare the real keys of rows whose digests begin alike."""
    seen: dict[tuple[object, ...], int] = {}
    with _polars_errors(files):
        rows = scan.with_row_index("").filter(pl.col("").is_in(suspects[:10_000])).collect(engine="streaming")
    for index, *cells in rows.iter_rows():
        first = seen.setdefault(tuple(map(repr, cells)), index)
        if first != index:
            shown = ", ".join(f"`{cell}`" for cell in cells)
            raise InputError(
                f"rows {first + 1:,} and {index + 1:,} have the same key {shown}",
                "name more key columns in [input], or leave `key` out: the text is then the key",
            )


def _text_types(scan: pl.LazyFrame, schema: pl.Schema) -> dict[str, pl.DataType]:
    """Find the type that every cell of a column of text has."""
    tests = []
    for number, name in enumerate(schema):
        cell = pl.col(name)
        tests += [
            cell.str.contains(INTEGER).all().alias(f"{number} int"),
            (cell.str.contains(NUMBER) & (cell.str.len_bytes() <= DIGITS)).all().alias(f"{number} float"),
            cell.is_in(["true", "false"]).all().alias(f"{number} true"),
            cell.is_in(["True", "False"]).all().alias(f"{number} True"),
            cell.is_in(["TRUE", "FALSE"]).all().alias(f"{number} TRUE"),
            cell.is_not_null().any().alias(f"{number} any"),
        ]
    found = scan.select(tests).collect(engine="streaming").row(0, named=True)
    return {name: _kind(number, found) for number, name in enumerate(schema)}


def _kind(number: int, found: dict[str, bool]) -> pl.DataType:
    kinds = [
        ("int", pl.Int64()),
        ("float", pl.Float64()),
        *((word, pl.Boolean()) for word in ("true", "True", "TRUE")),
    ]
    if found[f"{number} any"]:
        for word, kind in kinds:
            if found[f"{number} {word}"]:
                return kind
    return pl.String()


def _typed(name: str, kind: pl.DataType) -> pl.Expr:
    if kind == pl.Boolean:
        cell = pl.col(name).cast(pl.String).str.to_lowercase()
        return pl.when(cell.is_not_null()).then(cell == "true").alias(name)
    return pl.col(name).cast(kind)


def _line(exc: Exception) -> str:
    return " ".join(str(exc).split("\n\n")[0].split())[:200]


def _stamps(files: Sequence[Path]) -> list[tuple[int, int]]:
    return [((stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
