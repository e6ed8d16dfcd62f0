"""Bad lines are left out of NDJSON files, each by itself, and columns have the types of the others."""

import json
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import InputError
from pipeline.input.source import Source, open_source

GOOD = [
    json.dumps({"id": n, "text": f"row {n}", "n": n / 2, "tags": [n], "more": {"a": n}}) for n in range(5)
]
BAD = {
    "no JSON": (b'{"id": 7, "text"', "no JSON"),
    "two objects": (b'{"id": 7} {"id": 8}', "no JSON: extra data"),
    "no number of JSON": (b'{"id": NaN}', "no JSON: `NaN` is no JSON number"),
    "a float without end": (b'{"id": 7, "n": -1e999}', "a number that is too large: `-1e999`"),
    "too large an integer": (b'{"id": %d}' % 2**128, f"a number that is too large: `{str(2**128)[:30]}…`"),
    "one below zero": (b'{"id": %d}' % (-(2**127) - 1), "a number that is too large: `-17014"),
    "one of very many digits": (b'{"id": %s}' % (b"9" * 5_000), "a number that is too large: `999"),
    "blanks that are none in JSON": (b"\v", "no JSON: expecting value"),
    "a list": (b"[7]", "a list where an object should be"),
    "null": (b"null", "null where an object should be"),
    "bytes that are no UTF-8": (b'{"id": 7, "text": "\xff"}', "bytes that are not UTF-8"),
    "half a letter": (b'{"id": 7, "text": "\\ud83d"}', "`\\ud83d` is half a letter"),
    "a NUL": (b'{"id": 7, "text": "\0"}', "no JSON: invalid control character at"),
    "a boolean among numbers": (b'{"id": 7, "n": true}', "`n` is a boolean, but a number in line"),
    "an object among numbers": (b'{"id": {"a": 1}}', "`id` is an object, but a number in line"),
    "an object without a value among them": (b'{"n": {}}', "`n` is an object, but a number in line"),
    "one in lists of numbers": (b'{"tags": [{}]}', "`tags.[]` is an object, but a number in line"),
    "one in an object": (b'{"more": {"a": {}}}', "`more.a` is an object, but a number in line"),
    "a list in lists of numbers": (b'{"tags": [1, [2]]}', "`tags.[]` is a list, but a number in line"),
    "an object in them": (b'{"tags": [{"a": 1}]}', "`tags.[]` is an object, but a number in line"),
    "a list in an object": (b'{"more": {"a": [1]}}', "`more.a` is a list, but a number in line"),
    "a number among lists": (b'{"tags": 1}', "`tags` is a number, but a list in line"),
}


def opened(path: Path, lines: list[bytes]) -> Source:
    """Write an NDJSON file and open it without its bad lines."""
    path.write_bytes(b"\n".join([*lines, b""]))
    return open_source(path, key=["id"], used=["id"], skip=True)


def table(source: Source) -> pl.DataFrame:
    """Read all rows."""
    source.survey()
    return pl.concat(chunk.frame for chunk in source.tables())


@pytest.mark.parametrize("place", [0, 1, len(GOOD)])
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_line_is_left_out_alone(tmp_path: Path, kind: str, place: int) -> None:
    """Wherever it stands, the others are read, and it is named and told as it stood."""
    good, (bad, why), path = [line.encode() for line in GOOD], BAD[kind], tmp_path / "rows.ndjson"
    source = opened(path, [*good[:place], b"", bad, *good[place:]])
    assert table(source).equals(table(opened(tmp_path / "good.ndjson", good)))
    assert source.left_out.rows == 1
    assert source.left_out.first[0].startswith(f"`{path}`, line {place + 2}: {why}")
    source.write_left_out(tmp_path / "bad.txt")
    assert (tmp_path / "bad.txt").read_bytes() == f"# {source.left_out.first[0]}\n".encode() + bad + b"\n"


def test_objects_without_a_value_are_no_fault(tmp_path: Path) -> None:
    """Where a column has nothing else they are text, as is each of them among texts."""
    lines = [b'{"id":1,"a":{},"b":{"c":1},"d":{}}', b'{"id":2,"a":{},"b":{},"d":"x"}']
    read = table(opened(tmp_path / "rows.ndjson", lines))
    assert (read["a"].to_list(), read["d"].to_list()) == (["{}", "{}"], ["{}", "x"])
    assert read["b"].to_list() == [{"c": 1}, {"c": None}]


def test_rows_are_named_as_they_stand_in_the_file(tmp_path: Path) -> None:
    """Bad lines count among the rows that a key is named with, blank ones do not."""
    path = tmp_path / "rows.ndjson"
    source = opened(path, [b"x", b'{"id":1,"text":"a"}', b"", b"y", b'{"id":2,"text":"b"}', b'{"id":1}'])
    source.survey()
    assert source.left_out.first[2] == f"row 5 of `{path}`: the key `1` is that of row 2"


def test_text_among_others_is_no_bad_line(tmp_path: Path) -> None:
    """A column with text is text as a whole, also where a line is bad for something else."""
    lines = [b'{"id":1,"text":"a"}', b'{"id":2,"text":3}', b'{"id":3,"text":true}', b"x"]
    assert table(opened(tmp_path / "rows.ndjson", lines))["text"].to_list() == ["a", "3", "true"]


@pytest.mark.parametrize("number", [2**128 - 1, -(2**127), 1.7e308, 5e-324])
def test_the_largest_numbers_are_no_bad_lines(tmp_path: Path, number: float) -> None:
    """What Polars holds is no reason to leave a line out."""
    lines = [f'{{"id":{number}}}'.encode(), b"x", b'{"id":1}']
    assert table(opened(tmp_path / "rows.ndjson", lines)).height == 2


def test_a_file_of_which_most_lines_are_bad_is_refused(tmp_path: Path) -> None:
    """With the error that it has without anything left out."""
    path = tmp_path / "rows.ndjson"
    with pytest.raises(InputError, match="line 1: no JSON"):
        opened(path, [b"id,text"] * 11 + [line.encode() for line in GOOD])
    with pytest.raises(InputError, match="seems to be UTF-16 text"):
        opened(path, ['{"id": 1}\n{"id": 2}'.encode("utf-16-le")])


def test_a_bad_line_does_not_make_a_column_text(tmp_path: Path) -> None:
    """What is left out does not decide what the others must be."""
    lines = [b'{"id":1}', b'{"id":2}', b'{"id":[3]}', b'{"id":{"a":4}}', b'{"id":"\\ud83d"}', b'{"id":5}']
    source = opened(tmp_path / "rows.ndjson", lines)
    assert (table(source)["id"].to_list(), source.left_out.rows) == ([1, 2, 5], 3)


def test_what_stands_in_text_is_of_any_kind(tmp_path: Path) -> None:
    """A column with text is text with all that is within its cells."""
    lines = [b'{"id":"a"}', b'{"id":[1]}', b'{"id":[[1]]}', b"x"]
    assert table(opened(tmp_path / "rows.ndjson", lines)).height == 3


def test_what_no_line_alone_is_to_blame_for_is_refused(tmp_path: Path) -> None:
    """Polars does not read every mixture with text."""
    lines = [b'{"id":[[1]]}', b'{"id":[{"a":1}]}', b'{"id":["x"]}'] * 3
    with pytest.raises(InputError, match=r"line 2: `id\.\[\]` is an object, but a list in line 1"):
        opened(tmp_path / "rows.ndjson", lines)
