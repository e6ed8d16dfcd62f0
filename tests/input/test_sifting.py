"""Bad records are left out of text files, each by itself, and the others are read as if it were not there."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.input import sifting as subject
from pipeline.input.bad import BadRows
from pipeline.input.delimited import check
from pipeline.input.faults import Faults
from pipeline.input.sifting import sift
from pipeline.input.source import Source, open_source

GOOD = ['1,one,"a, b"', "2,two,", '3,"say ""three""",c', '4,"four\nlines",d', "5,fünf,e", "6,six,f"]
BAD = {
    "too few cells": ("7,seven", "2 cells where the header has 3"),
    "too many cells": ("7,seven,g,h", "4 cells where the header has 3"),
    "too many in several lines": ('7,"seven\nlines",g,h', "4 cells where the header has 3"),
    "text after a closing quote": ('7,"seven"n,g', "text after the closing quote of a cell"),
    "a quote in a bare cell": ('7,se"ven,g', "a quote in a cell without quotes around it"),
    "a quote that is never closed": ('7,"seven,g', "a quote opens a cell and is not closed"),
    "bytes that are no UTF-8": ("7,s\udcffven,g", "bytes that are not UTF-8"),
    "such bytes in several lines": ('7,"sev\n\udcffen",g', "bytes that are not UTF-8"),
    "such bytes and a NUL": ("7,s\udcffv\0en,g", "bytes that are not UTF-8"),
    "a bare carriage return": ("7,seven\r,g", "a carriage return at the end of a cell without quotes"),
}


def opened(path: Path, lines: list[str], key: str = "id") -> Source:
    """Write a CSV file and open it without its bad rows."""
    path.write_text("\n".join(["id,text,more", *lines, ""]), errors="surrogateescape", newline="")
    return open_source(path, key=[key], used=["text"], skip=True)


def table(source: Source) -> pl.DataFrame:
    """Read all rows."""
    source.survey()
    return pl.concat(chunk.frame for chunk in source.tables())


@pytest.mark.parametrize("place", range(len(GOOD) + 1))
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_record_is_left_out_alone(tmp_path: Path, kind: str, place: int) -> None:
    """Wherever it stands, all others are read, and it is named with its line and told as it stood."""
    record, why = BAD[kind]
    source = opened(tmp_path / "rows.csv", [*GOOD[:place], record, *GOOD[place:]])
    found = table(source)
    assert found.equals(table(opened(tmp_path / "good.csv", GOOD)))
    line = 2 + sum(1 + one.count("\n") for one in GOOD[:place])
    assert source.left_out.rows == 1
    assert source.left_out.first[0].startswith(f"`{tmp_path / 'rows.csv'}`, line {line}: {why}")
    source.write_left_out(tmp_path / "bad.txt")
    told = (tmp_path / "bad.txt").read_bytes().decode(errors="surrogateescape")
    assert told == f"# {source.left_out.first[0]}\n{record}\n"


def test_a_file_without_bad_records_is_read_in_place(tmp_path: Path) -> None:
    """No copy of it is made."""
    source = opened(tmp_path / "rows.csv", GOOD)
    assert source._files.read == (tmp_path / "rows.csv",)
    assert source.left_out.rows == 0


@pytest.mark.parametrize("lines", [["1,one"] * 11 + GOOD, ["1,one"] * 2])
def test_a_file_of_which_most_is_bad_is_refused(tmp_path: Path, lines: list[str]) -> None:
    """Then its format is not what it seems."""
    with pytest.raises(InputError, match="line 2: 2 cells where the header has 3"):
        opened(tmp_path / "rows.csv", lines)


def test_a_file_that_is_bad_from_its_beginning_is_not_read_to_the_end(tmp_path: Path) -> None:
    """A thousand bad records in a row are enough to see that it is no matter of rows."""
    path, bad = tmp_path / "rows.csv", BadRows()
    path.write_text("id,text\n" + "1\n" * 3_000)
    with pytest.raises(InputError, match="as it stands"):
        sift(path, ",", Faults(InputError("as it stands", ""), bad, str))
    assert bad.count == 1_000


def test_a_broken_header_is_refused(tmp_path: Path) -> None:
    """There is no table without one."""
    path = tmp_path / "rows.csv"
    for header in ['"id,text', "id,id", "id,t\udcffxt", "id\0,text"]:
        path.write_text(f"{header}\n" + "1,a\n" * 20, errors="surrogateescape")
        with pytest.raises(InputError):
            open_source(path, key=["id"], used=["text"], skip=True)


@pytest.mark.parametrize("content", [b"\x1f\x8b\n" + b"\xff\n" * 9, "id,text\n1,a\n".encode("utf-16-le")])
def test_what_is_no_text_is_told_as_such(tmp_path: Path, content: bytes) -> None:
    """A compressed file has no bad rows, nor has one whose encoding is to be set."""
    (tmp_path / "rows.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"compressed with gzip|seems to be UTF-16"):
        open_source(tmp_path / "rows.csv", key=[], used=[], skip=True)


def test_rows_are_named_as_they_stand_in_the_file(tmp_path: Path) -> None:
    """Bad records count among the rows that a key is named with, and files by themselves."""
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text("id,text\n1,a\n2\n3,c\n4,d\n5\n6\n7,g\n")
    (folder / "b.csv").write_text("id,text\n8\n3,h\n,i\n9,j\n")
    source = open_source(folder, key=["id"], used=["text"], skip=True)
    assert source.survey().rows == 5
    assert source.left_out.rows == 6
    source.write_left_out(tmp_path / "bad.txt")
    told = [line for line in (tmp_path / "bad.txt").read_text().split("\n") if line.startswith("# row")]
    b = folder / "b.csv"
    assert told == [
        f"# row 2 of `{b}`: the key `3` is that of row 3 of `{folder / 'a.csv'}`",
        f"# row 3 of `{b}`: key column `id` is empty",
    ]


def test_bare_quotes_are_bad_only_where_others_enclose_cells(tmp_path: Path) -> None:
    """In several files as in one; what has no quotes around any cell has quotes as letters."""
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text('id,text\n1,5" pipe\n2,two\n3\n')
    (folder / "b.csv").write_text("id,text\n4,four\n5,five\n")
    source = open_source(folder, key=["id"], used=["text"], skip=True)
    assert (table(source)["text"].to_list(), source.left_out.rows) == (['5" pipe', "two", "four", "five"], 1)
    (folder / "b.csv").write_text('id,text\n4,"four"\n5,five\n')
    source = open_source(folder, key=["id"], used=["text"], skip=True)
    assert (table(source)["text"].to_list(), source.left_out.rows) == (["two", "four", "five"], 2)


def test_lines_are_those_of_the_original_of_a_copy(tmp_path: Path) -> None:
    """Text in another encoding is copied first, and named by its own name."""
    path = tmp_path / "rows.csv"
    path.write_bytes("id,text\n1,früh\n2\n3,spät\n".encode("utf-16"))
    source = open_source(path, key=["id"], used=["text"], skip=True)
    assert table(source)["text"].to_list() == ["früh", "spät"]
    assert source.left_out.first == (f"`{path}`, line 3: 1 cell where the header has 2",)


@pytest.mark.parametrize("name", ["rows.csv", f"{'rows' * 62}.csv"])
@pytest.mark.parametrize("encodings", [("utf-16", "utf-16"), ("utf-16", "utf-8")])
def test_files_of_one_name_have_copies_of_their_own(
    tmp_path: Path, encodings: tuple[str, str], name: str
) -> None:
    """In folders such as `day=1` and `day=2` each is read from its copy, under however long a name."""
    for number, encoding in enumerate(encodings):
        (tmp_path / f"day {number}").mkdir()
        (tmp_path / f"day {number}" / name).write_text(f"id,text\n{number},one\nbad\n", encoding=encoding)
    source = open_source(tmp_path, key=["id"], used=["text"], skip=True)
    assert (table(source)["id"].to_list(), source.left_out.rows) == ([0, 1], 2)


def test_a_quote_that_is_never_closed_takes_no_more_than_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file without any other quote it would take all the rest, and all of that into memory."""
    for most in (subject.MOST_BYTES, 40):
        monkeypatch.setattr(subject, "MOST_BYTES", most)
        source = opened(tmp_path / "rows.csv", ["1,one,a", '2,"two,b', *(f"{n},3,4" for n in range(3, 30))])
        assert table(source)["id"].to_list() == [1, *range(3, 30)]
        by = "" if most > 40 else " by line 9"
        assert source.left_out.first[0].endswith(f"line 3: a quote opens a cell and is not closed{by}")


def test_a_quote_that_closes_elsewhere_takes_no_rows_along(tmp_path: Path) -> None:
    """The rows between are records of their own, also where the first attempt ends with too many cells."""
    source = opened(tmp_path / "rows.csv", [*GOOD, '7,"seven,g', "8,eight,h", '9,", nine",i'])
    assert table(source)["id"].to_list() == [1, 2, 3, 4, 5, 6, 8, 9]
    assert source.left_out.first[0].endswith("line 9: 4 cells where the header has 3")


def test_the_rest_of_a_record_is_no_row(tmp_path: Path) -> None:
    """Its lines are none by themselves where their quotes enclose nothing, whatever others hold."""
    source = opened(tmp_path / "rows.csv", ["1,one,a", '7,"g,h\nseven"x,i,j', '2,5" pipe,b', "3,three,c"])
    assert table(source)["id"].to_list() == [1, 2, 3]
    assert source.left_out.rows == 2


def test_a_shorter_doubt_within_a_longer_one_does_not_end_it(tmp_path: Path) -> None:
    """Up to where the first attempt had come, quotes must be in order in every record."""
    lines = ["1,one,a", '7,"seven,g', '8,""z,q', '9,c,5"" pipe', '10,"x', "3,three,c"]
    source = opened(tmp_path / "rows.csv", lines)
    assert (table(source)["id"].to_list(), source.left_out.rows) == ([1, 3], 4)


def test_blank_lines_are_no_rows(tmp_path: Path) -> None:
    """They do not count in the numbers of rows behind a bad record."""
    source = opened(tmp_path / "rows.csv", ["", "1,one,a", "", "2", "1,uno,b", "3,three,c"])
    assert table(source)["id"].to_list() == [1, 3]
    assert source.left_out.first[1].startswith("row 3 of ")


def test_records_that_others_make_bad_count_among_these(tmp_path: Path) -> None:
    """A file is refused where they are most of it."""
    stray = [f'{n},5" pipe,a' for n in range(11)]
    with pytest.raises(InputError, match="line 2: a quote in a cell without quotes around it"):
        opened(tmp_path / "rows.csv", [*stray, *(f'{n},"six",b' for n in range(20, 30))])


def test_a_bad_record_does_not_decide_what_quotes_mean(tmp_path: Path) -> None:
    """Where it alone has quotes around a cell, they are letters for the others."""
    source = opened(tmp_path / "rows.csv", ['1,"one",5" x', '2,5" pipe,b', "3,three,c"])
    assert (table(source)["text"].to_list(), source.left_out.rows) == (['5" pipe', "three"], 1)


good_cells = st.lists(st.text(st.sampled_from('ab,"\n\ré '), max_size=5), min_size=2, max_size=2)
bad_lines = st.sampled_from(["x", "x,y,z", 'x,"y"z', "x,\udcff", '"x","y"z,'])


def quoted(cells: list[str]) -> str:
    """Return a record with all cells in quotes."""
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)


@given(st.lists(st.one_of(good_cells, bad_lines), max_size=12), st.integers(1, 40))
def test_good_records_are_all_that_is_left(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[str] | str], block: int
) -> None:
    """Every good record stays with its cells, and no other, whatever stands between them."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    records = [line if isinstance(line, str) else quoted(line) for line in lines]
    content = "\n".join(["a,b", *records, ""]).encode(errors="surrogateescape")
    path.write_bytes(content)
    faults = Faults(InputError("refused", ""), BadRows(), str)
    left = sift(path, ",", faults, block)
    good = [record for record, line in zip(records, lines, strict=True) if not isinstance(line, str)]
    assert (left.records, len(faults)) == (len(good), len(records) - len(good))
    kept = np.ones(len(content), np.bool_)
    for where in faults.found.read():
        kept[where["start"] : where["stop"]] = False
    assert np.frombuffer(content, np.uint8)[kept].tobytes().decode() == "\n".join(["a,b", *good, ""])
    path.write_bytes(np.frombuffer(content, np.uint8)[kept].tobytes())
    assert check(path, ",").records == len(good)


@given(st.text(st.sampled_from('ab,"\n\r'), max_size=40), st.integers(1, 20))
def test_what_is_left_of_any_text_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, text: str, block: int
) -> None:
    """A file without its bad records is refused for none of those that are left."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    path.write_text(f"a,b\n{text}\n" + '1,"x"\n' * 40, newline="")
    source = open_source(path, key=[], used=["b"], skip=True)
    assert source.survey().rows >= 40
    faults, others = (Faults(InputError("", ""), BadRows(), str) for _ in range(2))
    assert sift(path, ",", faults, block).records == sift(path, ",", others).records
    assert (faults.found.read() == others.found.read()).all()
