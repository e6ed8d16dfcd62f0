"""CSV, TSV and NDJSON files are refused with the line at fault, and what passes is read as it stands."""

import codecs
import csv
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.input.delimited import Delimited, check, text_types, typed
from pipeline.input.ndjson import check_ndjson, ndjson_fault

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def refusal(folder: Path, content: bytes, separator: str = ",") -> str:
    """Return the message for a file, without its path."""
    path = folder / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        check(path, separator)
    assert "\n" not in caught.value.message + caught.value.hint
    return caught.value.message.replace(f"`{path}`", "it")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbf", "it is empty"),
        (b"\na,b\n1,2\n", "it has no header: line 1 is blank"),
        (b"a,b,a\n1,2,3\n", "it has two columns `a`"),
        (b"a,b\n1,2\n3\n", "it, line 3: 1 cell where the header has 2"),
        (b"a,b\n1,2\n\n3,4,5\n", "it, line 4: 3 cells where the header has 2"),
        (b'a,b\n"1\n\n2",2\n3\n', "it, line 5: 1 cell where the header has 2"),
        (b'a,b\n1,"2\n3,4\n5,6\n', "it ends inside a quoted cell of the row that begins at line 2"),
        (b'a,b\n1,"2" x\n', "it, line 2: text after the closing quote of a cell"),
        (
            b'a,b\n1,"2\n3,"4"\n',
            "it, line 3 (the row begins at line 2): text after the closing quote of a cell",
        ),
        (b"a,b\n1,2\nx\r,3\n", "it, line 3: a carriage return at the end of a cell without quotes"),
        (b"a\r1\r2\r", "it, line 1: a carriage return in the header that does not end it"),
        (b"a,b\r\r\n1,2\r\r\n", "it, line 1: a carriage return in the header that does not end it"),
        (b"a,b\n1,2\ncaf\xe9,3\n", "it, line 3: byte 0xe9 is not UTF-8; it may be Windows-1252"),
        (b"a,b\n1,caf\xc3", "it, line 2: byte 0xc3 is not UTF-8: the file ends in the middle of a letter"),
        ("a,b\n1,2\n".encode("utf-16-le"), "it seems to be UTF-16 text without a byte order mark"),
        ("名前,é\n1,2\n".encode("utf-16-be"), "it seems to be UTF-16 text without a byte order mark"),
        (b"a\0,b\n1,2\n", "the header of it holds NUL characters"),
        ("a,b\n1,2\n".encode("utf-32-le"), "the header of it holds NUL characters"),
        (b"a,b\n1,\0\xe9\n", "it, line 2: byte 0xe9 is not UTF-8; it may be Windows-1252"),
        (b"\x1f\x8b\x08\x00", "it is compressed with gzip"),
        (b"PK\x03\x04\xff", "it is a ZIP archive or a spreadsheet"),
        (b"PAR1\x15\x04\xff", "it is a Parquet file"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    """The message names the line where the row at fault begins, and a guess where there is one."""
    assert refusal(tmp_path, content) == message


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    "text",
    ["id,text\n1,good\n", "id,text\n1,é\n", "名前,文\n一," + "長い文章" * 30 + "\n", '{"a":"é"}\n'],
)
def test_the_hint_names_the_form_of_utf_16(tmp_path: Path, codec: str, text: str) -> None:
    """What it says to set is right, whether or not the bytes would be UTF-8, too."""
    path = tmp_path / "t"
    path.write_bytes(text.encode(codec))
    with pytest.raises(InputError) as caught:
        check_ndjson(path) if text.startswith("{") else check(path, ",")
    assert caught.value.hint == f'set `encoding = "{codec}"` in [input], or save the file as UTF-8'


def test_a_cell_may_be_larger_than_the_standard_limit(tmp_path: Path) -> None:
    """The 128 KiB limit of the csv module does not hold here."""
    path = tmp_path / "t.csv"
    path.write_text(f"a,b\n1,{'x' * 200_000}\n")
    assert check(path, ",").records == 1


def test_blank_lines_are_counted_apart(tmp_path: Path) -> None:
    """In a table of several columns a blank line is no record, and its position is known."""
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b\r\n\r\n1,2\r\n\r\n\r\n3,4\r\n,\r\n")
    found = check(path, ",")
    assert (found.records, found.blank) == (3, (0, 2, 3))


def test_a_blank_line_of_one_column_is_a_record(tmp_path: Path) -> None:
    """Where a table has one column, a blank line is an empty cell."""
    path = tmp_path / "t.csv"
    path.write_bytes(b"a\n\n1\n")
    assert (check(path, ",").records, check(path, ",").blank) == (2, ())


@pytest.mark.parametrize(
    ("content", "quoted", "stray"),
    [
        (b"a,b\n1,2\n", False, None),
        (b'a,b\n1\r2,"3\r,\r\n4"\r\n', True, None),
        (b'a,b\n"1\n2","3 ""x"""\n', True, None),
        (b'a,b\n1,"2"\n', True, None),
        (b'a,b\n5" pipe,2\n', False, 2),
        (b'a,b\nthe "x" one,2\n', False, None),
        (b'a,b\n1,2\nx "y",""\n5","x"\n', True, 4),
        (b'a,b\n1"2"3,"4\n5"\n', True, 2),
        (b'a"b,c\n1,2\n', False, 1),
    ],
)
def test_stray_quotes_are_found(tmp_path: Path, content: bytes, quoted: bool, stray: int | None) -> None:
    """A quote in a bare cell is told from one that encloses a cell."""
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    found = check(path, ",")
    assert (found.quoted, found.stray) == (quoted, stray)


texts = st.text(st.sampled_from('ab ,"\n\ré👍'), max_size=6)
cells = st.text(st.sampled_from('ab ,\t"\n\r\u2028é\0'), max_size=6)


@shared_folder
@given(st.lists(st.tuples(cells, cells), max_size=5), st.sampled_from([",", "\t"]), st.booleans())
def test_what_the_csv_module_writes_has_clean_quotes(
    tmp_path: Path, rows: list[tuple[str, str]], separator: str, all_quoted: bool
) -> None:
    """A file from a writer that quotes by the rules has all its records and no stray quote."""
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        dialect = csv.unix_dialect if all_quoted else csv.excel
        csv.writer(file, dialect, delimiter=separator).writerows([("x", "y"), *rows])
    found = check(path, separator)
    assert (found.records, found.header) == (len(rows), ("x", "y"))
    assert found.stray is None


def outcome(path: Path, separator: str, block: int) -> Delimited | str:
    """Return what the check found with blocks of this size, or why it refused the file."""
    try:
        return check(path, separator, block)
    except InputError as exc:
        return exc.message


pieces = st.sampled_from(
    [
        "a,b",
        "1,2\n",
        '"x","y"\n',
        '"',
        '""',
        ",",
        "\n",
        "\r\n",
        "\r",
        "é",
        "👍",
        "\t",
        "\0",
        ' "',
        '",',
        '"\n"',
    ]
).map(str.encode)


@shared_folder
@given(
    st.sampled_from([b"x,y\n", b"x\n", b'"x",y\r\n', b"\xef\xbb\xbfx,y\n", b"x\ty\n"]),
    st.lists(pieces | st.sampled_from([b"\xc3", b"\xf0\x9f"]), max_size=30) | st.lists(pieces, max_size=60),
    st.integers(1, 40),
)
def test_blocks_change_nothing(tmp_path: Path, header: bytes, found: list[bytes], block: int) -> None:
    """Whatever stands in a file and wherever its blocks end, each record is seen as if it were read alone."""
    path = tmp_path / "t.csv"
    path.write_bytes(header + b"".join(found))
    separator = "\t" if b"\t" in header else ","
    assert outcome(path, separator, block) == outcome(path, separator, 0)


@shared_folder
@given(st.lists(st.tuples(texts, texts), max_size=40), st.integers(1, 200), st.booleans())
def test_blocks_change_nothing_in_a_good_file(
    tmp_path: Path, rows: list[tuple[str, str]], block: int, all_quoted: bool
) -> None:
    """Quoted cells, letters of several bytes and line ends may lie across two blocks."""
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        dialect = csv.unix_dialect if all_quoted else csv.excel
        csv.writer(file, dialect).writerows([("x", "y"), *rows])
    assert outcome(path, ",", block) == outcome(path, ",", 0)


def test_a_fault_far_into_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    """Lines are counted also where blocks of them are looked at together."""
    good, bad = '1,"x\ny"\r\n2,é\n' * 50_000, 'ü,"z" x\n'
    assert refusal(tmp_path, f"a,b\n{good}{bad}".encode()) == (
        "it, line 150002: text after the closing quote of a cell"
    )


def ndjson_refusal(folder: Path, content: bytes) -> str:
    """Return the message of the check for an NDJSON file, without its path."""
    path = folder / "t.ndjson"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        check_ndjson(path)
    return caught.value.message.replace(f"`{path}`", "it")


def test_ndjson_rows_are_lines_that_are_not_blank(tmp_path: Path) -> None:
    """Blank lines are no rows."""
    path = tmp_path / "t.ndjson"
    path.write_bytes(b'{"a":1}\n\n  \r\n{"a":2}')
    assert check_ndjson(path) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (codecs.BOM_UTF8 + b'{"a":1}\n', "it begins with a byte order mark"),
        (b'{"a":1}\n{"a":"caf\xe9"}\n', "it, line 2: byte 0xe9 is not UTF-8; it may be Windows-1252"),
        (b'{"a":"x"}\n{"a":"cut \\ud83d"}\n', "it, line 2: `\\ud83d` is half a letter"),
        (b'{"a":"\\uDE00 cut"}\n', "it, line 1: `\\ude00` is half a letter"),
    ],
)
def test_text_that_polars_would_change_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Polars puts NUL in the place of half a surrogate pair."""
    assert ndjson_refusal(tmp_path, content) == message


def test_a_pair_written_as_escapes_is_a_letter(tmp_path: Path) -> None:
    """JSON writers that stick to ASCII write letters beyond 16 bits as two escapes."""
    path = tmp_path / "t.ndjson"
    path.write_text(json.dumps({"a": "\N{GRINNING FACE} \\ud83d"}))
    assert check_ndjson(path) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":1}\n\n{"a":2\n', "it, line 3: no JSON: expecting ',' delimiter at the end of the line"),
        (b'{"a":1}\n{"a":NaN}\n', "it, line 2: no JSON: `NaN` is no JSON number"),
        (b'{"a":1}{"a":2}\n', "it, line 1: no JSON: extra data at character 8"),
        (b'{"a":"\x07"}\n', "it, line 1: no JSON: invalid control character at character 7"),
        (b'{"a":"\\d"}\n', "it, line 1: no JSON: invalid \\escape at character 7"),
        (b'{"a":"b}\n', "it, line 1: no JSON: unterminated string starting at character 6"),
        (b"[1]\n", "it, line 1: a list where an object should be"),
        (b'{"a":1}\nnull\n', "it, line 2: null where an object should be"),
        (
            b'{"a":1,"b":"x"}\n{"a":null}\n{"a":true,"b":3}\n',
            "it, line 3: `a` is a boolean, but a number in line 1",
        ),
        (b'{"a":{"b":1}}\n{"a":[1]}\n', "it, line 2: `a` is a list, but an object in line 1"),
    ],
)
def test_the_line_that_is_no_ndjson_is_found(tmp_path: Path, content: bytes, message: str) -> None:
    """Polars does not say which line it could not read."""
    path = tmp_path / "t.ndjson"
    path.write_bytes(content)
    fault = ndjson_fault(path)
    assert fault is not None
    assert fault.message.replace(f"`{path}`", "it") == message


def test_nothing_is_said_of_good_ndjson(tmp_path: Path) -> None:
    """Text beside numbers is no fault: Polars reads both as text."""
    path = tmp_path / "t.ndjson"
    path.write_bytes(b'{"a":1}\n\n{"a":"x","b":[1]}\n{"a":2.5,"b":null}\n')
    assert ndjson_fault(path) is None


def natural(column: list[str | None]) -> pl.Series:
    """Return a column of text in the type that is found for it."""
    frame = pl.DataFrame({"a": column}, schema={"a": pl.String})
    types = text_types([frame], ["a"])
    return frame.select(typed("a", types["a"]))["a"]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["1", "-20", None, "0"], [1, -20, None, 0]),
        (["9" * 18], [10**18 - 1]),
        (["1", "2.50", "1e-3"], [1.0, 2.5, 0.001]),
        (["true", None, "false"], [True, None, False]),
        (["TRUE", "FALSE"], [True, False]),
    ],
)
def test_a_column_gets_the_type_of_all_its_cells(column: list[str | None], expected: list[object]) -> None:
    """Integers, plain numbers and booleans of one spelling become such in the output."""
    assert natural(column).to_list() == expected
    assert [type(cell) for cell in natural(column)] == [type(cell) for cell in expected]


@pytest.mark.parametrize(
    "column",
    [
        ["007", "1"],
        ["+1"],
        ["1", ""],
        [" 1"],
        ["1\n"],
        ["1,5"],
        ["1_000"],
        [".5"],
        ["1."],
        ["NaN"],
        ["inf"],
        ["0x1"],
        ["1e999"],
        ["-"],
        ["٣"],
        ["9" * 19],
        ["0.12345678901234567"],
        ["true", "True"],
        ["true", "1"],
        ["yes"],
        [None, None],
        [],
    ],
)
def test_a_cell_that_does_not_fit_keeps_the_column_as_text(column: list[str | None]) -> None:
    """Leading zeros, spaces, other spellings and more digits than a number holds stay as they stand."""
    assert natural(column).dtype == pl.String
    assert natural(column).to_list() == column


@given(st.lists(st.none() | st.integers(-(10**18) + 1, 10**18 - 1).map(str), min_size=1))
def test_typed_integers_read_as_they_stood(column: list[str | None]) -> None:
    """No digit is lost."""
    assert [None if cell is None else str(cell) for cell in natural(column).to_list()] == column


@given(st.lists(st.floats(-1e9, 1e9).map(lambda number: f"{number:.5f}") | st.text(max_size=3), min_size=1))
def test_typed_numbers_have_the_value_of_their_text(column: list[str | None]) -> None:
    """A column becomes numeric only where each cell says the same number as its text."""
    for text, cell in zip(column, natural(column).to_list(), strict=True):
        assert cell == text or (text is not None and isinstance(cell, int | float) and float(text) == cell)
