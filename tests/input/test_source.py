"""The input reaches rows and tables as it stands, in order, or is refused with one clear line."""

import csv
import gzip
import io
import os
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.flow import Row
from pipeline.input.source import Source, open_source
from tests.conftest import as_nobody, open_to_all

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
KINDS = ["csv", "tsv", "parquet", "ndjson", "ipc"]


def opened(
    path: Path,
    key: Sequence[str] = (),
    used: Sequence[str] | None = None,
    *,
    limit: int | None = None,
    kind: str | None = None,
) -> Source:
    """Open an input by fewer words."""
    return open_source(path, key=key, used=used, limit=limit, kind=kind)


def all_rows(source: Source) -> list[Row]:
    """Return every row."""
    return [row for some in source.rows(np.ones(source.survey().rows, np.bool_)) for row in some]


def read(source: Source) -> list[tuple[object, ...]]:
    """Return the cells of every row."""
    return [tuple(row.values.values()) for row in all_rows(source)]


def refusal(folder: Path, act: Callable[[], object]) -> str:
    """Return message and hint of the InputError that is raised, without the folder."""
    with pytest.raises(InputError) as caught:
        act()
    said, hint = caught.value.message, caught.value.hint
    assert "\n" not in said + hint
    assert said[0] == said[0].lower()
    assert not said.endswith(".")
    return f"{said}; {hint}".replace(f"{folder}/", "")


def write(frame: pl.DataFrame, path: Path, kind: str) -> None:
    """Write a table in one of the formats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "csv":
            frame.write_csv(path)
        case "tsv":
            frame.write_csv(path, separator="\t")
        case "parquet":
            frame.write_parquet(path, row_group_size=3)
        case "ndjson":
            frame.write_ndjson(path)
        case _:
            frame.write_ipc(path, record_batch_size=3)


def check_agreement(source: Source, size: int = 2) -> list[Row]:
    """Check that survey, rows and tables tell of the same rows; return these."""
    survey = source.survey()
    rows = all_rows(source)
    chunks = list(source.tables(size))
    keys = [key for chunk in chunks for key in chunk.keys]
    digests = [one for chunk in chunks for one in chunk.digests]
    assert [row.index for row in rows] == list(range(survey.rows))
    assert [row.key for row in rows] == keys
    assert [row.digest for row in rows] == digests
    assert [int.from_bytes(key[:8], "little") for key in keys] == survey.names.read()["key"].tolist()
    assert [int.from_bytes(one[:8], "little") for one in digests] == survey.names.read()["digest"].tolist()
    assert all(chunk.frame.height == len(chunk.keys) <= size for chunk in chunks)
    assert all(chunk.frame.schema == source.types for chunk in chunks)
    return rows


# The letters that CSV, JSON and terminals trip over
letters = st.sampled_from(
    ['"', ",", "\t", "\n", "\r", "\r\n", " ", "#", "\\", "'", "a", "é", "\u2028", "\0", "👍"]
)
texts = st.lists(letters, max_size=5).map("".join)
tables = st.lists(st.tuples(st.none() | texts, st.none() | texts), min_size=1, max_size=8)


# --- the same rows everywhere


@shared_folder
@given(tables, st.sampled_from(KINDS), st.integers(1, 3))
def test_cells_arrive_as_they_were_written(
    tmp_path: Path, rows: list[tuple[str | None, str | None]], kind: str, files: int
) -> None:
    """Survey, rows and tables agree on any table in any format, in one file or several."""
    frame = pl.DataFrame(rows, schema={"x": pl.String, 'y "z"': pl.String}, orient="row")
    for old in tmp_path.iterdir():
        old.unlink()
    share = -(-frame.height // files)
    for number in range(0, frame.height, share):
        write(frame[number : number + share], tmp_path / f"{number:03}.{kind}", kind)
    source = opened(tmp_path)
    assert [tuple(row.values.values()) for row in check_agreement(source)] == rows


@shared_folder
@given(tables, st.integers(1, 10))
def test_the_limit_takes_the_first_rows(
    tmp_path: Path, rows: list[tuple[str | None, str | None]], limit: int
) -> None:
    """With a limit all three tell of the first rows only."""
    frame = pl.DataFrame(rows, schema={"x": pl.String, "y": pl.String}, orient="row")
    for kind in KINDS:
        path = tmp_path / f"t.{kind}"
        write(frame, path, kind)
        found = check_agreement(opened(path, limit=limit))
        assert [tuple(row.values.values()) for row in found] == rows[:limit]


@shared_folder
@given(
    st.lists(st.lists(texts, min_size=2, max_size=2), min_size=1, max_size=6),
    st.sampled_from([",", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_what_the_csv_module_writes_is_read(
    tmp_path: Path, rows: list[list[str]], separator: str, end: str, all_quoted: bool
) -> None:
    """Cells of another writer arrive as they were; an empty cell without quotes is null.

    The writer does not quote a carriage return; where Polars would drop that, the file is refused.
    """
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        dialect = csv.unix_dialect if all_quoted else csv.excel
        writer = csv.writer(file, dialect, delimiter=separator, lineterminator=end)
        writer.writerows([["x\ny", 'a "b"', "end"], *([*row, "."] for row in rows)])
    try:
        source = opened(path, kind="csv" if separator == "," else "tsv")
    except InputError as exc:
        assert "a carriage return at the end of a cell" in exc.message  # noqa: PT017 - it may come or not
        assert any(cell.endswith("\r") for row in rows for cell in row)
        return
    assert source.columns == ("x\ny", 'a "b"', "end")
    expected = [(*(cell if cell or all_quoted else None for cell in row), ".") for row in rows]
    assert [tuple(row.values.values()) for row in check_agreement(source)] == expected


def read_by_the_csv_module(content: str) -> list[list[str]]:
    """Return the records without the header; blank lines of several columns are left out."""
    header, *rows = csv.reader(io.StringIO(content, newline=""), strict=True)
    return [row or [""] for row in rows if row or len(header) == 1]


@shared_folder
@given(
    st.sampled_from(["x,y\n", "x\n", '"x",y\r\n', "\ufeffx,y\n"]),
    st.lists(st.sampled_from(['"', '""', ",", "\n", "\r\n", "a", "b ", '","', ',"', '",']), max_size=14),
)
@example("x,y\n", ['a"b,c\n', '"1\n', '2",3\n', 'd"e,4\n'])
@example("x,y\n", ["\n", "1,2\n", ",\n", "\n"])
def test_any_csv_text_is_read_as_the_csv_module_reads_it(
    tmp_path: Path, header: str, pieces: list[str]
) -> None:
    """Whatever stands in the file, its cells are those of the standard reader, or it is refused."""
    path = tmp_path / "t.csv"
    content = header + "".join(pieces)
    path.write_text(content, encoding="utf-8", newline="")
    try:
        rows = check_agreement(opened(path))
    except InputError:
        return
    found = [["" if cell is None else cell for cell in row.values.values()] for row in rows]
    assert found == read_by_the_csv_module(content.removeprefix("\ufeff"))


def test_quotes_mean_themselves_where_no_cell_stands_in_quotes(tmp_path: Path) -> None:
    """TSV files are often written without any quoting."""
    path = tmp_path / "t.tsv"
    path.write_text('size\tnote\n5" pipe\tthe "best"\n6"\tx\n')
    assert read(opened(path)) == [('5" pipe', 'the "best"'), ('6"', "x")]


def test_a_stray_quote_among_quoted_cells_is_refused(tmp_path: Path) -> None:
    """Where cells stand in quotes, a single quote inside a bare one hides the end of its row."""
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"1,0",2\n5" pipe,3\n"x\ny",4\n')
    said = refusal(tmp_path, lambda: opened(path))
    assert said.startswith("`t.csv`, line 3: a quote in a cell without quotes around it; a cell that holds")


def test_blank_lines_are_left_out_and_empty_cells_are_not(tmp_path: Path) -> None:
    """A row of empty cells is a row, also beside blank lines and in several files."""
    for name in "ab":
        (tmp_path / f"{name}.csv").write_bytes(b"x,y\n\n1,2\n,\n\n3,4\n\n")
    rows = check_agreement(opened(tmp_path))
    assert [tuple(row.values.values()) for row in rows] == [("1", "2"), (None, None), ("3", "4")] * 2


def test_pending_rows_keep_their_index(tmp_path: Path) -> None:
    """Only the wanted rows come, with their place in the whole input, over many batches."""
    path = tmp_path / "t.csv"
    pl.DataFrame({"id": range(5_000), "text": "x"}).write_csv(path)
    source = opened(path, ["id"], ["text"])
    pending = np.zeros(source.survey().rows, np.bool_)
    wanted = [0, 999, 1000, 1001, 3500, 4999]
    pending[wanted] = True
    rows = [row for some in source.rows(pending) for row in some]
    assert [row.index for row in rows] == wanted
    assert all(row.values == {"text": "x"} for row in rows)
    by_index = {row.index: row.key for row in all_rows(source)}
    assert [row.key for row in rows] == [by_index[index] for index in wanted]


def test_key_and_digest_depend_on_their_columns_only(tmp_path: Path) -> None:
    """The same key and cells give the same names in any format and whatever stands beside them."""
    frame = pl.DataFrame({"id": ["1", "2"], "text": ["a", "b"]})
    names = []
    for number, kind in enumerate(KINDS):
        write(frame.with_columns(pl.lit(str(number)).alias("other")), tmp_path / f"t.{kind}", kind)
        source = opened(tmp_path / f"t.{kind}", ["id"], ["text"])
        names.append([(row.key, row.digest) for row in all_rows(source)])
    assert all(one == names[0] for one in names)


def test_without_key_columns_the_text_is_the_key(tmp_path: Path) -> None:
    """Rows of equal text have equal keys, and that is no error."""
    path = tmp_path / "t.csv"
    path.write_text("id,text\n1,a\n2,a\n")
    first, second = all_rows(opened(path, used=["text"]))
    assert first.key == first.digest == second.key


# --- types


def test_csv_columns_get_types_in_the_output_only(tmp_path: Path) -> None:
    """A prompt sees the text, the output the value."""
    path = tmp_path / "t.csv"
    path.write_text("zip,n,x,ok,empty\n007,1,1.50,true,\n010,,2,false,\n")
    source = opened(path)
    assert read(source)[0] == ("007", "1", "1.50", "true", None)
    (chunk,) = source.tables()
    assert chunk.frame.rows() == [("007", 1, 1.5, True, None), ("010", None, 2.0, False, None)]


def test_columns_of_any_type_can_be_key_and_prompt(tmp_path: Path) -> None:
    """Large integers, decimals, dates, nested and binary columns arrive as Python values."""
    frame = pl.DataFrame(
        {
            "big": [2**63 - 1, -(2**63)],
            "unsigned": pl.Series([2**64 - 1, 0], dtype=pl.UInt64),
            "decimal": [Decimal("1.10"), Decimal("-99999999999999999999999999999999999.99")],
            "date": [date(1, 1, 1), date(9999, 12, 31)],
            "zoned": [datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)],
            "span": [timedelta(days=-1), timedelta(microseconds=1)],
            "list": [["a", None], []],
            "struct": [{"a": 1, "b": [1.5]}, {"a": None, "b": []}],
            "array": pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int8, 2)),
            "binary": [b"\xff", b""],
            "category": pl.Series(["x", "y"], dtype=pl.Categorical),
            "enum": pl.Series(["x", "y"], dtype=pl.Enum(["y", "x"])),
            "null": [None, None],
            "flag": [True, False],
            "nan": [float("inf"), 0.5],
        }
    )
    keys = [name for name in frame.columns if name != "null"]
    for kind in ("parquet", "ipc"):
        write(frame, tmp_path / f"t.{kind}", kind)
        rows = check_agreement(opened(tmp_path / f"t.{kind}", keys))
        assert [row.values for row in rows] == frame.to_dicts()
        assert opened(tmp_path / f"t.{kind}").types == frame.schema


def test_keys_differ_in_their_nanoseconds(tmp_path: Path) -> None:
    """Timestamps of pandas have nanoseconds, which Python's have not."""
    stamps = pl.Series("at", [1_000, 1_001, 1_002]).cast(pl.Datetime("ns"))
    times = stamps.cast(pl.Int64).cast(pl.Time).alias("time")
    pl.DataFrame([stamps, times]).write_parquet(tmp_path / "t.parquet")
    assert opened(tmp_path / "t.parquet", ["at"]).survey().rows == 3
    assert opened(tmp_path / "t.parquet", ["time"]).survey().rows == 3


def test_a_whole_microsecond_has_the_key_of_any_unit(tmp_path: Path) -> None:
    """The same instant is the same key in micro- and nanoseconds."""
    keys = []
    for unit in ("us", "ns"):
        frame = pl.DataFrame({"at": [datetime(2026, 11, 22, 1, 2, 3, 4)]}, schema={"at": pl.Datetime(unit)})
        frame.write_parquet(tmp_path / "t.parquet")
        keys.append(opened(tmp_path / "t.parquet", ["at"]).survey().names.read()["key"].tolist())
    assert keys[0] == keys[1]


def test_a_date_that_python_cannot_hold_is_refused(tmp_path: Path) -> None:
    """Parquet holds years beyond 9999."""
    pl.DataFrame({"day": [10_000_000]}).select(pl.col("day").cast(pl.Date)).write_parquet(
        tmp_path / "t.parquet"
    )
    said = refusal(tmp_path, opened(tmp_path / "t.parquet").survey)
    assert said.startswith("column `day` holds a value that cannot be used: year 29349")


@pytest.mark.parametrize("kind", ["parquet", "ipc"])
def test_integers_of_128_bits_are_refused(tmp_path: Path, kind: str) -> None:
    """No other program could read them in the output."""
    write(pl.DataFrame({"n": pl.Series([2**100], dtype=pl.Int128)}), tmp_path / f"t.{kind}", kind)
    said = refusal(tmp_path, lambda: opened(tmp_path / f"t.{kind}"))
    assert said.startswith(f"`t.{kind}` holds what cannot be read: Integers with more than 64 bits")
    assert "such as text" in said


def test_a_struct_without_fields_is_refused(tmp_path: Path) -> None:
    """Parquet has no such column, so the output could not be written."""
    write(pl.DataFrame({"o": [{}]}, schema={"o": pl.List(pl.Struct({}))}), tmp_path / "t.ipc", "ipc")
    said = refusal(tmp_path, lambda: opened(tmp_path / "t.ipc"))
    assert said.startswith("column `o` has the type List(Struct({})), which a table for others cannot hold")


def test_ndjson_integers_of_any_size_are_text(tmp_path: Path) -> None:
    """Of an integer beyond 64 bits no digit is lost; an object without keys is text as well."""
    path = tmp_path / "t.ndjson"
    path.write_text('{"n":123456789012345678901234567890,"o":{},"l":[{}]}\n')
    source = opened(path)
    assert read(source) == [("123456789012345678901234567890", "{}", ["{}"])]
    assert source.types == {"n": pl.String(), "o": pl.String(), "l": pl.List(pl.String)}


def test_ndjson_rows_may_have_different_keys(tmp_path: Path) -> None:
    """The columns are those of all rows of all files; what a row lacks is null."""
    (tmp_path / "1.ndjson").write_text('{"a":1}\n{"b":[1]}\n\n')
    (tmp_path / "2.ndjson").write_text('{"c":"x","a":2.5}\n{}\n')
    source = opened(tmp_path)
    assert source.columns == ("a", "b", "c")
    rows = [tuple(row.values.values()) for row in check_agreement(source)]
    assert rows == [(1.0, None, None), (None, [1], None), (2.5, None, "x"), (None, None, None)]


# --- which files


def test_paths_with_signs_of_patterns_are_names(tmp_path: Path) -> None:
    """Brackets, spaces, stars and letters of other scripts in existing names stand for themselves."""
    folder = tmp_path / "o[d]d é*?"
    for kind in KINDS:
        write(pl.DataFrame({"a": ["x"]}), folder / f"a[1] *~.{kind}", kind)
        assert read(opened(folder / f"a[1] *~.{kind}")) == [("x",)]
        assert read(opened(folder / f"a*.{kind}")) == [("x",)]


def test_a_name_that_exists_is_a_file_before_it_is_a_pattern(tmp_path: Path) -> None:
    """`t[1].csv` is that file and not `t1.csv`."""
    (tmp_path / "t[1].csv").write_text("a\nliteral\n")
    (tmp_path / "t1.csv").write_text("a\npattern\n")
    assert read(opened(tmp_path / "t[1].csv")) == [("literal",)]
    (tmp_path / "t[1].csv").unlink()
    assert read(opened(tmp_path / "t[1].csv")) == [("pattern",)]


def test_a_glob_takes_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Each file comes once, whatever the pattern; folders that look like files are left out."""
    for name in ("b", "a", "sub/c"):
        write(pl.DataFrame({"a": [name]}), tmp_path / f"{name}.csv", "csv")
    (tmp_path / "d.csv").mkdir()
    assert read(opened(tmp_path / "*.csv")) == [("a",), ("b",)]
    assert read(opened(tmp_path / "**/**/*.csv")) == [("a",), ("b",), ("sub/c",)]


def test_a_folder_is_all_its_tables(tmp_path: Path) -> None:
    """Folders below count, hidden names and other files do not; a folder may be named like a file."""
    folder = tmp_path / "out.csv"
    for name in ("b.csv", "a/x.csv", ".hidden.csv", ".ipynb_checkpoints/b.csv"):
        write(pl.DataFrame({"a": [name]}), folder / name, "csv")
    (folder / "README.md").write_text("words")
    (folder / "c.csv").mkdir()
    assert read(opened(folder)) == [("a/x.csv",), ("b.csv",)]


def test_folders_of_a_partitioned_table_are_columns(tmp_path: Path) -> None:
    """`year=2025` in the path of Parquet files becomes a column."""
    for year in (2025, 2026):
        write(pl.DataFrame({"a": [year % 10]}), tmp_path / f"year={year}" / "0.parquet", "parquet")
    source = opened(tmp_path, ["year"])
    assert [tuple(row.values.values()) for row in check_agreement(source)] == [(5, 2025), (6, 2026)]


@pytest.mark.parametrize("pattern", ["in/*/*.parquet", "in/year=202?/0.parquet", "in/**/*.parquet"])
def test_folders_under_a_pattern_are_columns_that_name_no_row(tmp_path: Path, pattern: str) -> None:
    """They are there as under the folder, and keys and digests are those of the files alone."""
    for year in (2025, 2026):
        write(pl.DataFrame({"a": [year % 10]}), tmp_path / "in" / f"year={year}" / "0.parquet", "parquet")
    write(pl.DataFrame({"a": [5, 6]}), tmp_path / "alone.parquet", "parquet")
    source, alone = opened(tmp_path / pattern, used=["a"]), opened(tmp_path / "alone.parquet")
    assert [row for chunk in source.tables() for row in chunk.frame.rows()] == [(5, 2025), (6, 2026)]
    assert [row.digest for row in check_agreement(source)] == [row.digest for row in all_rows(alone)]


def test_a_column_that_files_hold_is_theirs(tmp_path: Path) -> None:
    """A folder that names it as well does not write over its cells."""
    for n in (1, 2):
        write(pl.DataFrame({"a": [n], "c": [n + 0.5]}), tmp_path / f"c={n}" / "0.parquet", "parquet")
    for path in (tmp_path, tmp_path / "*" / "*.parquet"):
        assert read(opened(path)) == [(1, 1.5), (2, 2.5)]


def test_folders_above_the_input_name_no_column(tmp_path: Path) -> None:
    """Where a project lies changes neither columns nor cells; what cannot be told apart is refused."""
    for above in ("env=prod=1", "env=prod", "a=9"):
        for n in (1, 2):
            write(pl.DataFrame({"a": [n]}), tmp_path / above / "in" / f"c={n}" / "0.parquet", "parquet")
    for above in ("env=prod=1", "env=prod"):
        assert read(opened(tmp_path / above / "in")) == [(1, 1), (2, 2)]
        assert read(opened(tmp_path / above / "in" / "*" / "*.parquet")) == [(1, 1), (2, 2)]
    assert "`a`" in refusal(tmp_path, lambda: opened(tmp_path / "a=9" / "in"))
    assert read(opened(tmp_path / "a=9" / "in" / "c=2")) == [(2,)]


def test_a_format_can_be_given(tmp_path: Path) -> None:
    """The ending does not count where the job names the format."""
    (tmp_path / "t.dat").write_text("a\tb\n1\t2\n")
    assert read(opened(tmp_path / "t.dat", kind="tsv")) == [("1", "2")]
    (tmp_path / "t.csv").write_text("other\n")
    (tmp_path / "t.tsv").write_text("a\n1\n")
    assert read(opened(tmp_path, kind="tsv")) == [("1",)]


# --- what is refused


def touch(folder: Path, *names: str) -> None:
    """Write small files of several formats."""
    for name in names:
        kind = name.rsplit(".", maxsplit=1)[-1]
        write(pl.DataFrame({"a": ["1"]}), folder / name, kind)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_file_that_may_not_be_read_is_named(tmp_path: Path, kind: str) -> None:
    """Of many files under a glob it may be any."""
    paths = [tmp_path / f"{name}.{kind}" for name in ("a", "b", "c")]
    for path in paths:
        write(pl.DataFrame({"a": ["1"]}), path, kind)
    paths[1].chmod(0)
    open_to_all(tmp_path)
    with as_nobody():
        said = refusal(tmp_path, lambda: all_rows(opened(tmp_path / f"*.{kind}")))
    assert said.startswith(f"`b.{kind}` cannot be read: permission denied; check the path")


@pytest.mark.parametrize(
    ("files", "path", "said"),
    [
        (
            ["review.csv", "other.csv"],
            "reviews.csv",
            "the input `reviews.csv` does not exist; did you mean `review.csv`? the files there are",
        ),
        (["a.csv"], "no/reviews.csv", "the input `no/reviews.csv` does not exist; the folder `no` does not"),
        (["a.csv"], "*.parquet", "no file matches `*.parquet`; check the pattern"),
        (["a.csv"], "a.csv/b.csv", "the input `a.csv/b.csv` does not exist"),
        (["a.csv"], "x" * 300, "`" + "x" * 300 + "` cannot be read: file name too long"),
        (["s/a.csv", "s/b.parquet"], "s", "the input mixes formats: `s/a.csv` and `s/b.parquet`; name one"),
        (["s/a.csv", "s/b.ipc"], "s/*", "the input mixes formats: `s/a.csv` and `s/b.ipc`"),
        (["s/a.csv"], ".", "the input mixes formats"),
    ],
)
def test_a_path_without_table_is_refused(tmp_path: Path, files: list[str], path: str, said: str) -> None:
    """The message says what is wrong with the path, the hint what is there."""
    touch(tmp_path, *files)
    if path == ".":
        touch(tmp_path, "b.parquet")
    assert refusal(tmp_path, lambda: opened(tmp_path / path)).startswith(said)


def test_an_empty_folder_holds_no_table(tmp_path: Path) -> None:
    """The hint names the endings that are known."""
    (tmp_path / "in").mkdir()
    said = refusal(tmp_path, lambda: opened(tmp_path / "in"))
    assert said.startswith("the folder `in` holds no table; its files must end in one of .arrow, .csv")
    said = refusal(tmp_path, lambda: opened(tmp_path / "in" / "a.csv"))
    assert said == "the input `in/a.csv` does not exist; the folder `in` is empty"


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    """A compressed file must be unpacked first."""
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a\n1\n"))
    said = refusal(tmp_path, lambda: opened(tmp_path / "t.csv.gz"))
    assert said.startswith("the format of `t.csv.gz` is not known by its ending; set format in [input]")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe can be read once only."""
    os.mkfifo(tmp_path / "t.csv")
    said = refusal(tmp_path, lambda: opened(tmp_path / "t.csv"))
    assert said.startswith("the input `t.csv` is neither a file nor a folder")


def test_a_file_without_the_right_to_read_is_refused(tmp_path: Path) -> None:
    """Permission is named as the cause, for each format."""
    open_to_all(tmp_path)
    for kind in KINDS:
        touch(tmp_path, f"t.{kind}")
        (tmp_path / f"t.{kind}").chmod(0)
        with as_nobody():
            said = refusal(tmp_path, lambda: opened(tmp_path / f"t.{kind}"))  # noqa: B023 - called at once
        assert said.startswith(f"`t.{kind}` cannot be read: permission denied"), said


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_file_is_refused(tmp_path: Path, kind: str) -> None:
    """Nothing at all stands in it."""
    (tmp_path / f"t.{kind}").touch()
    assert refusal(tmp_path, lambda: opened(tmp_path / f"t.{kind}")).startswith(f"`t.{kind}` is empty; get")


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"ndjson"}))
def test_a_table_without_rows_is_a_table(tmp_path: Path, kind: str) -> None:
    """A header alone is what an empty night leaves: columns, and nothing to ask."""
    write(pl.DataFrame({"a": [""]}).clear(), tmp_path / f"t.{kind}", kind)
    source = opened(tmp_path / f"t.{kind}")
    assert (source.survey().rows, source.columns) == (0, ("a",))


def test_ndjson_without_rows_is_refused(tmp_path: Path) -> None:
    """Nothing says which columns it has."""
    (tmp_path / "t.ndjson").write_text("\n \n")
    said = refusal(tmp_path, lambda: opened(tmp_path / "t.ndjson"))
    assert said.startswith("`t.ndjson` has no rows;")


@pytest.mark.parametrize("kind", ["parquet", "ipc"])
def test_a_file_cut_in_the_middle_is_refused(tmp_path: Path, kind: str) -> None:
    """An interrupted copy is found before anything is sent."""
    path = tmp_path / f"t.{kind}"
    write(pl.DataFrame({"a": range(1000)}), path, kind)
    whole = path.read_bytes()
    for size in (1, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        said = refusal(tmp_path, lambda: opened(path).survey())
        assert said.startswith(f"`t.{kind}` cannot be read: ")
        assert "get it again" in said


def test_a_damaged_page_is_refused_whatever_column_it_is_of(tmp_path: Path) -> None:
    """A column that the prompt does not use is read as well before anything is paid for."""
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": [1, 2], "b": ["x" * 50, "y" * 50]}).write_parquet(path, compression="uncompressed")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"x" * 50, b"x" * 20 + b"\xff" * 30))
    said = refusal(tmp_path, opened(path, ["a"], ["a"]).survey)
    assert said.startswith("`t.parquet` cannot be read: ")


def test_an_arrow_stream_is_no_arrow_file(tmp_path: Path) -> None:
    """The hint tells the two apart."""
    pl.DataFrame({"a": [1]}).write_ipc_stream(tmp_path / "t.arrow")
    assert "whole Arrow IPC file (not a stream)" in refusal(tmp_path, lambda: opened(tmp_path / "t.arrow"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"a":1}\n{"a":2\n{"a":3}\n', "`t.ndjson`, line 2: no JSON: expecting ',' delimiter"),
        ('{"a":1}\n[1]\n', "`t.ndjson`, line 2: a list where an object should be"),
        ('{"a":1}\n{"a":true}\n', "`t.ndjson`, line 2: `a` is a boolean, but a number in line 1"),
        ('{"a":{"b":1}}\n{"a":3}\n', "`t.ndjson`, line 2: `a` is a number, but an object in line 1"),
        ('{"a":1}\n{"a":1e999}\n', "`t.ndjson`, line 2: a number that is too large: `1e999`"),
        ("x\n" + "[\n" * 100_000, "`t.ndjson`, line 1: no JSON"),
        ("[\n" * 100_000, "`t.ndjson` is a JSON array, not NDJSON"),
        ('[{"a":1}]\n{"a":2}\n', "`t.ndjson`, line 1: a list where an object should be"),
        ('{"a":1}\n\nx\n{"a":"\\ud800"}\n', "`t.ndjson`, line 3: no JSON: expecting value"),
    ],
)
def test_a_broken_line_of_ndjson_is_named(tmp_path: Path, content: str, said: str) -> None:
    """The first line at fault is found, whichever column the prompt uses."""
    (tmp_path / "t.ndjson").write_text(content)
    assert refusal(tmp_path, lambda: opened(tmp_path / "t.ndjson").survey()).startswith(said)


def test_the_broken_file_of_several_is_named(tmp_path: Path) -> None:
    """Not the first of the pattern, but the one at fault."""
    for kind in KINDS:
        touch(tmp_path, f"1.{kind}", f"2.{kind}", f"3.{kind}")
        (tmp_path / f"2.{kind}").write_bytes(b'{"a"\xff')
        said = refusal(tmp_path, lambda: opened(tmp_path / f"*.{kind}").survey())  # noqa: B023
        assert said.startswith(f"`2.{kind}`"), said


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"a": ["x"]}, "`2.KIND` has no column `b`, but `1.KIND` has"),
        ({"a": ["x"], "b": ["y"], "c": ["z"]}, "`1.KIND` has no column `c`, but `2.KIND` has"),
        ({"a": ["x"], "B": ["y"]}, "`2.KIND` has no column `b`, but `1.KIND` has"),
    ],
)
def test_files_of_different_columns_are_refused(
    tmp_path: Path, other: dict[str, list[str]], said: str
) -> None:
    """A column would be lost or empty otherwise; NDJSON alone may differ."""
    for kind in ("csv", "tsv", "parquet", "ipc"):
        write(pl.DataFrame({"a": ["1"], "b": ["2"]}), tmp_path / f"1.{kind}", kind)
        write(pl.DataFrame(other), tmp_path / f"2.{kind}", kind)
        found = refusal(tmp_path, lambda: opened(tmp_path / f"*.{kind}"))  # noqa: B023
        assert found.startswith(said.replace("KIND", kind)), found


def test_files_of_different_types_are_refused(tmp_path: Path) -> None:
    """The column and both types are named."""
    for kind in ("parquet", "ipc"):
        write(pl.DataFrame({"a": [1]}), tmp_path / f"1.{kind}", kind)
        write(pl.DataFrame({"a": [1.5]}), tmp_path / f"2.{kind}", kind)
        said = refusal(tmp_path, lambda: opened(tmp_path / f"*.{kind}"))  # noqa: B023
        assert said.startswith(f"column `a` is Float64 in `2.{kind}`, but Int64 in `1.{kind}`; write all")


def test_csv_files_with_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    """Cells are taken by their place, so places must be the same."""
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("b,a\n1,2\n")
    said = refusal(tmp_path, lambda: opened(tmp_path / "*.csv"))
    assert said.startswith("`2.csv` has its columns in another order than `1.csv`")


def test_parquet_files_with_columns_in_another_order_are_one_table(tmp_path: Path) -> None:
    """Here columns are taken by their names."""
    pl.DataFrame({"a": [1], "b": [2]}).write_parquet(tmp_path / "1.parquet")
    pl.DataFrame({"b": [4], "a": [3]}).write_parquet(tmp_path / "2.parquet")
    assert read(opened(tmp_path)) == [(1, 2), (3, 4)]


def test_a_table_of_mixed_partitions_is_refused(tmp_path: Path) -> None:
    """Some paths name the column and some do not."""
    write(pl.DataFrame({"a": [1]}), tmp_path / "year=2026" / "0.parquet", "parquet")
    write(pl.DataFrame({"a": [1]}), tmp_path / "0.parquet", "parquet")
    for path in (tmp_path, tmp_path / "**" / "*.parquet"):
        said = refusal(tmp_path, lambda: opened(path))  # noqa: B023 - called at once
        assert "stand in folders of different columns" in said
        assert "name a pattern that takes fewer files" in said


def test_a_missing_key_column_is_refused(tmp_path: Path) -> None:
    """The nearest name is offered."""
    (tmp_path / "t.csv").write_text("ID,text\n1,a\n")
    said = refusal(tmp_path, lambda: opened(tmp_path / "t.csv", ["id"]))
    assert said == "key column `id` is not in the input; did you mean `ID`? the columns are `ID`, `text`"


def test_an_empty_key_is_refused_with_its_row(tmp_path: Path) -> None:
    """A null names no row."""
    (tmp_path / "t.csv").write_text("id,text\n1,a\n2,b\n,c\n,d\n")
    said = refusal(tmp_path, opened(tmp_path / "t.csv", ["id"], ["text"]).survey)
    assert said.startswith("key column `id` is empty in row 3 of `t.csv` (not counting the header); fill it")


def test_two_rows_of_one_key_are_refused(tmp_path: Path) -> None:
    """The value and both rows are named, of several pairs the one that ends first."""
    (tmp_path / "t.csv").write_text("a,b\n1,x\n2,y\n3,x\n2,y\n1,x\n")
    said = refusal(tmp_path, opened(tmp_path / "t.csv", ["a", "b"]).survey)
    assert said.startswith(
        "rows 2 and 4 of `t.csv` have the same key `2`, `y` (not counting the header); name more"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_of_one_key_are_named(tmp_path: Path, kind: str) -> None:
    """Each with the number that the row has there, also behind a file without rows and at the ends."""
    for name, keys in {"1": ["a", "b"], "2": [], "3": ["c", "d", "b"], "4": ["e", "f", "f"]}.items():
        write(pl.DataFrame({"id": keys}, schema={"id": pl.String}), tmp_path / f"{name}.{kind}", kind)
        if not keys and kind == "ndjson":
            (tmp_path / "2.ndjson").write_text("\n")
    below = " (not counting the header)" if kind in ("csv", "tsv") else ""
    said = refusal(tmp_path, opened(tmp_path, ["id"]).survey)
    assert said.startswith(
        f"row 2 of `1.{kind}` and row 3 of `3.{kind}` have the same key `b`{below}; name more"
    )
    said = refusal(tmp_path, opened(tmp_path / f"[14].{kind}", ["id"]).survey)
    assert said.startswith(f"rows 2 and 3 of `4.{kind}` have the same key `f`{below}; name more")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("1,a\n2,b\n1,c\n,d\n", "rows 1 and 3 of `t.csv` have the same key `1`"),
        ("1,a\n,b\n1,c\n,d\n", "key column `id` is empty in row 2 of `t.csv`"),
    ],
)
def test_of_two_faults_the_first_in_the_file_is_told(tmp_path: Path, rows: str, said: str) -> None:
    """An empty key below two equal ones is not told before them."""
    (tmp_path / "t.csv").write_text(f"id,text\n{rows}")
    assert refusal(tmp_path, opened(tmp_path / "t.csv", ["id"], ["text"]).survey).startswith(said)


def test_the_first_row_without_a_whole_key_is_told(tmp_path: Path) -> None:
    """Whichever of the key columns is empty there."""
    (tmp_path / "t.csv").write_text("a,b,text\n1,1,x\n2,,x\n,3,x\n")
    said = refusal(tmp_path, opened(tmp_path / "t.csv", ["a", "b"], ["text"]).survey)
    assert said.startswith("key column `b` is empty in row 2 ")


def test_the_file_of_an_empty_key_is_named(tmp_path: Path) -> None:
    """With the number that the row has there."""
    (tmp_path / "1.csv").write_text("id,text\n1,a\n")
    (tmp_path / "2.csv").write_text("id,text\n2,b\n,c\n")
    said = refusal(tmp_path, opened(tmp_path, ["id"], ["text"]).survey)
    assert said.startswith("key column `id` is empty in row 2 of `2.csv` (not counting the header); fill it")


def test_a_column_without_a_name_can_be_the_key(tmp_path: Path) -> None:
    """Pandas writes its index so."""
    (tmp_path / "t.csv").write_text(",text\n0,a\n1,b\n0,c\n")
    said = refusal(tmp_path, opened(tmp_path / "t.csv", [""], ["text"]).survey)
    assert "rows 1 and 3 of " in said
    assert "have the same key `0`" in said


def test_a_table_written_twice_is_refused(tmp_path: Path) -> None:
    """Also when every one of many keys is there twice, far from the first."""
    path = tmp_path / "t.csv"
    pl.DataFrame({"id": [*range(15_000), *range(15_000)]}).write_csv(path)
    said = refusal(tmp_path, opened(path, ["id"]).survey)
    assert "rows 1 and 15,001 of " in said
    assert "have the same key `0`" in said


# --- while the run goes on


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("change", ["longer", "shorter", "gone"])
def test_a_change_of_the_file_is_noticed(tmp_path: Path, kind: str, change: str) -> None:
    """No row is taken for another one when the file was written to since it was surveyed."""
    path = tmp_path / f"t.{kind}"
    write(pl.DataFrame({"a": ["1", "2", "3"]}), path, kind)
    source = opened(path)
    pending = np.ones(source.survey().rows, np.bool_)
    source.check_unchanged()
    path.unlink()
    if change != "gone":
        cells = ["1", "2", "3", "4", "5"] if change == "longer" else ["1"]
        write(pl.DataFrame({"a": cells}), path, kind)
    how = "removed" if change == "gone" else "changed"
    said = refusal(tmp_path, source.check_unchanged)
    assert said.startswith(f"the input `t.{kind}` was {how} while the run went on; ")
    for stream in (source.rows(pending), source.tables()):
        with pytest.raises(InputError, match=f"was {how}"):
            list(stream)


def test_a_change_whose_traces_were_removed_is_noticed(tmp_path: Path) -> None:
    """The same size and a time of change that was set back hide nothing, in no column."""
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n2\n")
    source = opened(path)
    assert source.types["a"] == pl.Int64
    stamp = path.stat().st_mtime_ns
    path.write_text("a\n1\nx\n")
    os.utime(path, ns=(stamp, stamp))
    for seen in (source.check_unchanged, lambda: list(source.tables())):
        assert refusal(tmp_path, seen).startswith("the input `t.csv` was changed while the run went on")


def test_another_name_or_other_rights_are_no_change(tmp_path: Path) -> None:
    """A backup by hard links and a `chmod` leave the rows as they are; what is written then is noticed."""
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n2\n")
    source = opened(path)
    os.link(path, tmp_path / "copy")
    source.check_unchanged()
    path.chmod(0o640)
    assert list(source.tables())
    stamp = path.stat().st_mtime_ns
    path.write_text("a\n1\n3\n")
    os.utime(path, ns=(stamp, stamp))
    assert refusal(tmp_path, source.check_unchanged).startswith("the input `t.csv` was changed")


def test_the_changed_file_of_several_is_named(tmp_path: Path) -> None:
    """With what to do; where no file shows a trace of the change, all are in doubt."""
    for name in "123":
        (tmp_path / f"{name}.csv").write_text("a\n1\n")
    source = opened(tmp_path)
    assert (
        str(source.change())
        == f"the input `{tmp_path}/1.csv` or another of the 3 files was changed while the run went on"
    )
    (tmp_path / "2.csv").unlink()
    said = refusal(tmp_path, source.check_unchanged)
    assert said.startswith("the input `2.csv` was removed while the run went on; put the file back or name")
    assert said.endswith("and run the same command again: rows that are still the same are not asked again")


@pytest.mark.parametrize("kind", KINDS)
def test_streams_can_be_left_half_way(tmp_path: Path, kind: str) -> None:
    """Closing rows or tables early ends at once and leaves no thread of ours behind."""
    path = tmp_path / f"t.{kind}"
    write(pl.DataFrame({"a": range(60_000), "b": "x" * 50}), path, kind)
    source = opened(path)
    pending = np.ones(source.survey().rows, np.bool_)
    before = threading.active_count()
    for _ in range(20):
        with closing(source.rows(pending)) as rows:
            assert len(next(rows)) == 1000
        with closing(source.tables(100)) as chunks:
            assert len(next(chunks).keys) == 100
    assert threading.active_count() == before
    assert source.survey().rows == 60_000


# --- whatever stands in the file


def drive(path: Path) -> InputError | None:
    """Do all that a run does with an input; return what it was refused with: InputError is the one way."""
    try:
        source = opened(path)
        dict(source.types)
        check_agreement(source, 7)
        source.check_unchanged()
    except InputError as refused:
        return refused
    return None


def names(refused: InputError, path: Path) -> bool:
    """Tell whether a refusal says in one line where something is wrong, and what to do."""
    said = refused.message
    placed = f"`{path}`" in said or said.startswith("column `")
    return placed and "\n" not in said and bool(refused.hint)


def valid(kind: str) -> bytes:
    """Return a small valid file."""
    frame = pl.DataFrame(
        {
            "a": range(9),
            "b": ['x "y"\nz', None, "c"] * 3,
            "c": [1.5, None, -2.0] * 3,
            "d": [date(2026, 11, 22)] * 9,
            "e": [[1, 2], [], None] * 3,
            "f": [{"x": 1, "y": "é"}] * 9,
            "g": [datetime(2026, 11, 22, 1, 2, 3)] * 9,
        }
    )
    file = io.BytesIO()
    match kind:
        case "parquet":
            frame.with_columns(pl.col("b").cast(pl.Categorical).alias("h")).write_parquet(file)
        case "ipc":
            frame.write_ipc(file, compression="uncompressed")
        case "ndjson":
            frame.write_ndjson(file)
        case _:
            frame.drop("e", "f").write_csv(file, separator="\t" if kind == "tsv" else ",")
    return file.getvalue()


VALID = {kind: valid(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_the_valid_files_are_valid(tmp_path: Path, kind: str) -> None:
    """What the next tests damage is read before."""
    (tmp_path / f"t.{kind}").write_bytes(VALID[kind])
    assert len(check_agreement(opened(tmp_path / f"t.{kind}"), 7)) == 9


@pytest.mark.parametrize("kind", KINDS)
@shared_folder
@given(content=st.binary(max_size=60))
def test_no_bytes_escape_as_a_foreign_error(tmp_path: Path, kind: str, content: bytes) -> None:
    """Any bytes at all are read or refused."""
    path = tmp_path / f"t.{kind}"
    path.write_bytes(content)
    refused = drive(path)
    assert refused is None or names(refused, path)


@pytest.mark.parametrize("kind", KINDS)
@shared_folder
@given(seed=st.integers(0, 2**32), times=st.integers(1, 3))
def test_no_damage_escapes_as_a_foreign_error(tmp_path: Path, kind: str, seed: int, times: int) -> None:
    """A valid file with bytes changed, lost or added is read or refused."""
    chance, content = random.Random(seed), bytearray(VALID[kind])
    for _ in range(times):
        # footers and headers are the ends of a file: half of all damage is done there
        place = chance.randrange(len(content)) if chance.random() < 0.5 else -chance.randrange(1, 300)
        place %= len(content)
        match chance.randrange(4):
            case 0:
                content[place] = chance.randrange(256)
            case 1:
                del content[place : place + chance.randrange(1, 9)]
            case 2:
                content[place:place] = chance.choice([b'"', b"\n", b"\r", b",", b"\0", b"\xff", b"{"])
            case _:
                content[place] ^= 1 << chance.randrange(8)
    path = tmp_path / f"t.{kind}"
    path.write_bytes(content)
    refused = drive(path)
    assert refused is None or names(refused, path)
