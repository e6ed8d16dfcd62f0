"""Lazy Polars scans of an input's files, with everything checked that Polars takes on trust."""

import glob
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.datatypes import DataTypeClass

from pipeline.errors import InputError
from pipeline.input.bad import as_counted
from pipeline.input.checking import checked, without_bad_lines
from pipeline.input.delimited import SEPARATORS, Delimited, stray
from pipeline.input.files import Files, translated
from pipeline.input.ndjson import check_ndjson, ndjson_fault
from pipeline.scratch import Column

Columns: TypeAlias = Mapping[str, pl.DataType]
Kind: TypeAlias = pl.DataType | DataTypeClass

ROWS = 1_000  # of a Parquet file that pyarrow reads at a time


@dataclass(frozen=True, slots=True)
class Scan:
    """A lazy table, its files in order, how many rows it must have of each, and which it has not (`row`).

    `headed` files begin with a line that is no row.
    """

    frame: pl.LazyFrame
    paths: tuple[Path, ...]
    rows: list[int]
    gone: dict[Path, Column] = field(default_factory=dict)
    headed: bool = False

    def named(self, *rows: int, whole: bool = False) -> str:
        """Name rows (from 0 on) as people count them, with their files where there are several, or always."""
        ends, numbers = list(accumulate(self.rows)), dict[int, list[str]]()
        for row in rows:
            file = min(bisect_right(ends, row), len(ends) - 1)
            number, gone = row - ends[file] + self.rows[file], self.gone.get(self.paths[file])
            number = number if gone is None else as_counted(number, gone)
            numbers.setdefault(file, []).append(f"{number + 1:,}")
        return " and ".join(
            f"row{'s' * (len(some) > 1)} {' and '.join(some)}"
            + (f" of `{self.paths[file]}`" if whole or len(self.paths) > 1 else "")
            for file, some in numbers.items()
        )


def scan_files(files: Files, root: Path) -> Scan:
    """Return the files as one table.

    Folders below `root` may name columns of Parquet files, as `year=2026` does.
    """
    if files.kind in SEPARATORS:
        return _scan_text(files)
    if files.kind == "ndjson":
        return _scan_ndjson(files)
    schemas, rows = [], list[int]()
    for path in files.paths:
        with translated(files, path):
            if files.kind == "parquet":
                rows.append(pq.read_metadata(path).num_rows)
                schemas.append(dict(pl.scan_parquet(path, glob=False).collect_schema()))
            else:
                with pa.memory_map(str(path)) as file:
                    pa.ipc.open_file(file)  # Polars panics where pyarrow raises
                one = pl.scan_ipc(path, glob=False)
                rows.append(one.select(pl.len()).collect().item())
                schemas.append(dict(one.collect_schema()))
    for path, schema in zip(files.paths, schemas, strict=True):
        _check_same(files.paths[0], schemas[0], path, schema)
    if files.kind == "ipc":
        return Scan(pl.scan_ipc(list(files.paths), glob=False), files.paths, rows)
    return Scan(_scan_parquet(root, files.paths, list(schemas[0])), files.paths, rows)


def _scan_parquet(root: Path, paths: Sequence[Path], own: Collection[str]) -> pl.LazyFrame:
    """Scan Parquet files that hold the columns `own`, with those that folders below `root` add.

    Polars takes them from all folders of a path, also from those above `root`.
    """
    named, above = _named_by_folders(root, paths), _columns_of(root.parts)
    if set(named) <= set(own):  # they stay the files' own
        return pl.scan_parquet(list(paths), hive_partitioning=False, glob=False)
    if hidden := next((name for name in above if name in own or name in named), None):
        raise InputError(
            f"the column `{hidden}` has its name from a folder above `{root}`, too",
            "rename that folder, or have the input in another",
        )
    return pl.scan_parquet(list(paths), hive_partitioning=True, glob=False).drop(above, strict=False)


def _scan_text(files: Files) -> Scan:
    """Scan CSV or TSV as text; the header and the blank lines are known from the check."""
    found, gone = checked(files)
    first = dict.fromkeys(found[0].header, pl.String())
    for path, one in zip(files.paths, found, strict=True):
        _check_same(files.paths[0], first, path, dict.fromkeys(one.header, pl.String()))
        if one.header != found[0].header:
            said = f"`{path}` has its columns in another order than `{files.paths[0]}`"
            raise InputError(said, "give all files the same header")
    scan = pl.scan_csv(
        list(files.read),
        separator=files.separator,
        quote_char=_quote(files.paths, found),
        infer_schema=False,
        new_columns=list(first),  # Polars would keep doubled quotes in names
        glob=False,
    )
    rows = [one.records for one in found]
    return Scan(_without_blank(scan, found), files.paths, rows, gone, headed=True)


def _quote(paths: Sequence[Path], found: Sequence[Delimited]) -> str | None:
    """Return the quote character; None where no cell stands in quotes, so that quotes mean themselves."""
    if not any(one.quoted for one in found):
        return None
    for path, one in zip(paths, found, strict=True):
        if one.stray is not None:
            raise stray(path, one.stray)
    return '"'


def _without_blank(scan: pl.LazyFrame, found: Sequence[Delimited]) -> pl.LazyFrame:
    """Leave the blank lines out, which Polars reads as rows of nulls."""
    starts = accumulate((one.records + len(one.blank) for one in found), initial=0)
    blank = [start + line for start, one in zip(starts, found, strict=False) for line in one.blank]
    if not blank:
        return scan
    number = "_" * (1 + max(len(name) for name in found[0].header))  # no column has this name
    return scan.with_row_index(number).filter(~pl.col(number).is_in(blank)).drop(number)


def _scan_ndjson(files: Files) -> Scan:
    """Scan NDJSON with the columns of all files; Polars alone takes those of the first."""
    rows, frames, gone = list[int](), [], dict[Path, Column]()
    for path in files.paths:
        try:
            records, frame = _read_ndjson(files, path)
        except InputError as error:
            gone[path] = without_bad_lines(files, path, error)
            records, frame = _read_ndjson(files, path)
        rows.append(records)
        frames += [frame] if records else []
    if not frames:
        raise InputError(f"`{files.paths[0]}` has no rows", "nothing is there to ask about")
    union = pl.concat(frames, how="diagonal_relaxed").schema
    scan = pl.scan_ndjson([_literal(path) for path in files.read], schema=_writable(union))
    return Scan(scan, files.paths, rows, gone)


def _read_ndjson(files: Files, path: Path) -> tuple[int, pl.DataFrame]:
    """Check a file, count its rows, and find its columns; where bad rows are left out, read all of it."""
    read = files.copies.of(path)
    with translated(files, read):
        records = check_ndjson(read)
        if not records:
            return 0, pl.DataFrame()
        schema = pl.scan_ndjson(_literal(read), infer_schema_length=None).collect_schema()
        if any(map(_is_hollow, schema.dtypes())) and (fault := ndjson_fault(read)) is not None:
            raise fault
        if files.bad is not None:  # later it would be too late
            scan = pl.scan_ndjson(_literal(read), schema=_writable(schema))
            scan.select(pl.all().null_count()).collect(engine="streaming")
    return records, pl.DataFrame(schema=schema)


def _writable(schema: pl.Schema) -> pl.Schema:
    return pl.Schema({name: writable(kind) for name, kind in schema.items()})


def _literal(path: Path) -> Path:
    """Return a path that stands for itself where Polars expands patterns."""
    return Path(glob.escape(str(path)))


def writable(kind: Kind) -> Kind:
    """Return the type with text in place of what no Parquet file can hold."""
    if isinstance(kind, pl.List):
        return pl.List(writable(kind.inner))
    if isinstance(kind, pl.Array):
        return pl.Array(writable(kind.inner), kind.size)
    if isinstance(kind, pl.Struct) and kind.fields:
        return pl.Struct({field.name: writable(field.dtype) for field in kind.fields})
    return pl.String() if kind in (pl.Struct, pl.Int128, pl.UInt128, pl.Object) else kind


def _is_hollow(kind: Kind) -> bool:
    """Tell whether a column has objects without a value: so Polars says where `{}` is among numbers, too."""
    if isinstance(kind, pl.List):
        return _is_hollow(kind.inner)
    return isinstance(kind, pl.Struct) and not (
        kind.fields and not any(_is_hollow(one.dtype) for one in kind.fields)
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


def _named_by_folders(root: Path, paths: Sequence[Path]) -> list[str]:
    """Return the columns that folders such as `year=2026` add; raises InputError where they differ."""
    levels = [_columns_of(path.relative_to(root).parent.parts) for path in paths]
    for path, names in zip(paths, levels, strict=True):
        if names != levels[0]:
            raise InputError(
                f"`{path}` and `{paths[0]}` stand in folders of different columns",
                "let all paths name the same columns, such as `year=2026/month=11`, or name a pattern that "
                "takes fewer files",
            )
    return levels[0]


def _columns_of(folders: Sequence[str]) -> list[str]:
    return [folder.partition("=")[0] for folder in folders if "=" in folder]


def batches(path: Path, kind: str) -> Iterator[pa.RecordBatch]:
    """Read a Parquet or Arrow file with pyarrow, which checks what Polars takes on trust."""
    if kind == "parquet":
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield from file.iter_batches(batch_size=ROWS)
    else:
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)
