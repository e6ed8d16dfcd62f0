"""The final table: the input in its order, each row with its answer; written whole or not at all."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import polars as pl
import polars.selectors as cs
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.arrow import Layout
from pipeline.disk import clear_drafts, make_folder, whole_file
from pipeline.errors import OutputError, StoreError
from pipeline.heads import heads
from pipeline.input.source import Chunk, Source
from pipeline.rates import PICO
from pipeline.store.parts import Parts
from pipeline.store.reading import column_heads
from pipeline.store.standing import Standing
from pipeline.store.window import Window

Append: TypeAlias = Callable[[pa.Table], None]
Opener: TypeAlias = Callable[[Path, pa.Schema], AbstractContextManager[Append]]

# OWASP, CSV Injection: = + - @, also full-width, tab, CR and LF; programs also skip blanks before them
FORMULA = r"\A(?:[\t\r\n]|[\s\p{Cc}\p{Cf}]*[=+\-@＝＋－＠])"
TOKENS = ["_prompt_tokens", "_cached_tokens", "_thought_tokens", "_output_tokens", "_total_tokens"]
GROUP = 50_000  # rows of a Parquet row group, or a few more
COUNTED = [
    "_status",
    "_error_kind",
    "_prompt_tokens",
    "_output_tokens",
    "_thought_tokens",
    "_cost_usd",
    "_source",
]


@dataclass(slots=True)
class Written:
    """What stands in the table: rows by status, and the sums of its bookkeeping columns."""

    ok: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0  # thoughts included
    cost_usd: float = 0.0
    shared: int = 0  # rows that took the answer of another
    sources: set[str] = field(default_factory=set)  # where answers came from
    kinds: set[str] = field(default_factory=set)  # of failure

    def count(self, rows: pa.Table) -> None:
        """Add the part rows `rows`."""
        ok = pc.sum(pc.equal(rows["_status"], "ok")).as_py() or 0
        self.ok += ok
        self.failed += len(rows) - ok
        self.prompt_tokens += pc.sum(rows["_prompt_tokens"]).as_py() or 0
        self.output_tokens += pc.sum(rows["_output_tokens"]).as_py() or 0
        self.output_tokens += pc.sum(rows["_thought_tokens"]).as_py() or 0
        pico = pc.sum(pc.cast(pc.round(pc.multiply(rows["_cost_usd"], float(PICO))), pa.int64())).as_py() or 0
        self.cost_usd = (round(self.cost_usd * PICO) + pico) / PICO  # as the run itself adds up
        self.shared += pc.sum(pc.equal(rows["_source"], "cache")).as_py() or 0
        self.sources |= set(rows["_source"].unique().to_pylist())
        self.kinds |= set(rows["_error_kind"].drop_null().unique().to_pylist())


def write_output(
    source: Source,
    parts: Parts,
    standing: Standing,
    layout: Layout,
    target: Path,
    *,
    escape_formulas: bool = False,
) -> Written:
    """Write the table to `target` (Parquet, CSV or NDJSON by its ending) and return what is in it.

    `escape_formulas` puts a `'` before cells of a CSV that a spreadsheet would run. An old file
    stays until the new one is whole. Raises StoreError, and ChangedError when the input has changed since it
    was read.
    """
    try:
        make_folder(target.parent)
        clear_drafts(target.parent, target.name)
        with whole_file(target) as draft:
            return write_table(
                source, parts, standing, layout, draft, ending=target.suffix, escape_formulas=escape_formulas
            )
    except OSError as exc:
        raise StoreError(
            f"the output `{target}` cannot be written: {exc.strerror or exc}",
            "free some space or choose another path with `--output`, then run the same command again: "
            "all answers are kept, nothing is asked twice",
        ) from exc


def write_table(
    source: Source,
    parts: Parts,
    standing: Standing,
    layout: Layout,
    draft: Path,
    *,
    ending: str,
    escape_formulas: bool = False,
) -> Written:
    """Write the table to `draft`, as `write_output` does for a target of this `ending`.

    Raises OSError where `draft` cannot be written, and what `write_output` does for all else.
    """
    written, start = Written(), 0
    window = Window(parts, standing)
    with _opener(ending, escape=escape_formulas)(draft, _schema(source, layout)) as append:
        for chunk in source.tables():
            rows = _answers(chunk, window, standing, start)
            if rows is None:
                raise source.change()
            start += len(rows)
            written.count(rows)
            append(layout.finish(_arrow(chunk.frame), rows))
            pa.default_memory_pool().release_unused()
        if start != len(standing.rows):
            raise source.change()
        source.check_unchanged()
    return written


def check_types(schema: pa.Schema, target: Path) -> None:
    """Raise OutputError for a column that a file of the target's format cannot hold."""
    if target.suffix.lower() == ".parquet":
        return
    for column in schema:
        if bad := _unwritten(column.type):
            raise OutputError(
                f"column `{column.name}` holds {bad}, which a `{target.suffix}` file cannot",
                "write Parquet: let the output's path end in `.parquet`",
            )


def _unwritten(kind: pa.DataType) -> str | None:
    """Return what neither CSV nor NDJSON can hold, if the type has it anywhere."""
    is_ = pa.types
    if is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_fixed_size_binary(kind):
        return "bytes"
    if is_.is_duration(kind):
        return "durations"
    inner = [kind.field(n).type for n in range(kind.num_fields)] if is_.is_nested(kind) else []
    return next((bad for one in inner if (bad := _unwritten(one))), None)


def first_rows(target: Path, rows: int) -> pl.DataFrame:
    """Return the first rows of a written table."""
    match target.suffix.lower():
        case ".parquet":
            scan = pl.scan_parquet(target)
        case ".csv":
            scan = pl.scan_csv(target, infer_schema=False)
        case _:
            scan = pl.scan_ndjson(target, infer_schema_length=None)
    return scan.head(rows).collect()


def count(parts: Parts, standing: Standing) -> Written:
    """Return what the answers are that the table would hold if it were written now.

    Rows are those of the input, so equal ones count each; what an answer took counts once.
    """
    written = Written()
    starts = standing.index.starts
    used = np.zeros(starts[-1], np.bool_)
    ok = failed = shared = 0
    for _, rows in standing.rows.slices():
        answered = rows["place"] >= 0
        used[rows["place"][answered]] = True
        ok += int((answered & rows["ok"]).sum())
        failed += int((answered & ~rows["ok"]).sum())
        shared += int((answered & ~rows["first"]).sum())
    for start, table in zip(starts, parts.columns(COUNTED), strict=False):
        mask = used[start : start + len(table)]
        if mask.any():
            written.count(table.filter(pa.array(mask)))
    written.ok, written.failed, written.shared = ok, failed, written.shared + shared
    return written


def _schema(source: Source, layout: Layout) -> pa.Schema:
    return layout.output(_arrow(pl.DataFrame(schema=source.types)).schema)


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _answers(chunk: Chunk, window: Window, standing: Standing, start: int) -> pa.Table | None:
    """Return the part rows of a chunk, None where they answer other rows than it has.

    What an answer took stands only where it is used first.
    """
    rows = standing.rows.read(start, start + len(chunk.keys))
    if len(rows) < len(chunk.keys) or (rows["place"] < 0).any():
        return None
    found = window.take(start, len(rows))
    for name, now in (("_key", chunk.keys), ("_digest", chunk.digests)):
        if not np.array_equal(column_heads(found[name]), heads(now)):
            return None
    if found["_key"].to_pylist() != chunk.keys:
        raise StoreError(
            "two rows have keys that begin alike, which is next to impossible",
            "name `key` columns in [input], or others than now, and run again",
        )
    again = pa.array(~rows["first"])
    return found if rows["first"].all() else _without_cost(found, again)


def _without_cost(rows: pa.Table, again: pa.Array) -> pa.Table:
    """Mark the rows in `again` as served from an answer that another row of the table has paid for."""
    instead: dict[str, object] = {
        **dict.fromkeys([*TOKENS, "_attempts"], 0),
        "_cost_usd": 0.0,
        "_latency_ms": None,
        "_source": "cache",
    }
    for name, value in instead.items():
        field = rows.schema.field(name)
        column = pc.if_else(again, pa.scalar(value, field.type), rows[name])
        rows = rows.set_column(rows.schema.get_field_index(name), field, column)
    return rows


def _opener(ending: str, *, escape: bool) -> Opener:
    return {".parquet": _parquet, ".csv": _harmless_csv if escape else _csv}.get(ending.lower(), _ndjson)


@contextmanager
def _parquet(draft: Path, schema: pa.Schema) -> Iterator[Append]:
    kept: list[pa.Table] = []

    with pq.ParquetWriter(draft, schema, compression="zstd") as writer:

        def append(table: pa.Table) -> None:
            kept.append(table)
            if sum(map(len, kept)) >= GROUP:
                write()

        def write() -> None:
            # each group adds to what the writer keeps until its end, so a chunk alone is no group
            writer.write_table(pa.concat_tables(kept).unify_dictionaries())
            kept.clear()

        yield append
        if kept:
            write()


@contextmanager
def _csv(draft: Path, schema: pa.Schema) -> Iterator[Append]:
    with draft.open("wb") as file:
        _flat(schema.empty_table()).write_csv(file)

        def append(table: pa.Table) -> None:
            _flat(table).write_csv(file, include_header=False)

        yield append


@contextmanager
def _harmless_csv(draft: Path, schema: pa.Schema) -> Iterator[Append]:
    with draft.open("wb") as file:
        # the names as a row of cells: two of them may be the same once they are escaped
        names = pl.DataFrame([schema.names], schema=[str(n) for n in range(len(schema.names))], orient="row")
        _harmless(names).write_csv(file, include_header=False)

        def append(table: pa.Table) -> None:
            _harmless(_flat(table)).write_csv(file, include_header=False)

        yield append


def _harmless(frame: pl.DataFrame) -> pl.DataFrame:
    """Put a `'` before texts that a spreadsheet would run; numbers and dates are none."""
    text = (cs.string() | cs.categorical() | cs.enum()).cast(pl.String)
    return frame.with_columns(
        pl.when(text.str.contains(FORMULA)).then("'" + text).otherwise(text).name.keep()
    )


@contextmanager
def _ndjson(draft: Path, _schema: pa.Schema) -> Iterator[Append]:
    with draft.open("wb") as file:

        def append(table: pa.Table) -> None:
            _frame(table).write_ndjson(file)

        yield append


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101 - a table never becomes a Series
    return frame


def _flat(table: pa.Table) -> pl.DataFrame:
    """Return the table with nested values as JSON text, since a CSV cell holds only text."""
    for number, column in enumerate(table.schema):
        if pa.types.is_nested(column.type):
            cells = [
                None if cell is None else json.dumps(cell, ensure_ascii=False, default=str)
                for cell in table[column.name].to_pylist()
            ]
            table = table.set_column(number, column.name, pa.array(cells, pa.string()))
    return _frame(table)
