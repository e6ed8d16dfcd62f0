"""CSV and TSV files may have any one sign between their cells."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.input.source import Source, open_source
from pipeline.job import load_job
from pipeline.sections import InputSection
from tests.conftest import Project

SIGNS = ";|:^]-\\*.\x1f\t,'"
ROWS = [("1", "a, b\t;|^"), ("2", 'say "two"'), ("3", "li\nnes"), ("4", "")]


def opened(path: Path, separator: str | None) -> Source:
    """Open a table of two columns."""
    return open_source(path, key=["id"], used=["text"], kind="csv", separator=separator)


def texts(source: Source) -> list[object]:
    """Read a column."""
    source.survey()
    return [text for chunk in source.tables() for text in chunk.frame["text"].to_list()]


def quoted(cell: str) -> str:
    """Return a cell in quotes."""
    return '"' + cell.replace('"', '""') + '"'


@pytest.mark.parametrize("separator", SIGNS)
def test_cells_are_those_between_separators(tmp_path: Path, separator: str) -> None:
    """Whatever else separates cells elsewhere is a letter."""
    path, bare = tmp_path / "rows.csv", "".join(sign for sign in SIGNS if sign != separator)
    lines = [separator.join([key, quoted(text)]) for key, text in ROWS] + [separator.join(["5", bare])]
    path.write_text("\n".join([separator.join(["id", "text"]), *lines, ""]))
    assert texts(opened(path, separator)) == [*(text for _, text in ROWS), bare]


def test_a_separator_wins_over_the_format(tmp_path: Path) -> None:
    """Also where the ending would say another one."""
    path = tmp_path / "rows.tsv"
    path.write_text("id;text\n1;a\tb\n")
    assert texts(open_source(path, key=["id"], used=["text"], separator=";")) == ["a\tb"]


@pytest.mark.parametrize("separator", SIGNS)
def test_bad_records_are_told_by_their_separator(tmp_path: Path, separator: str) -> None:
    """Records with too few cells are left out, also in blocks in which a cell has several lines."""
    path = tmp_path / "rows.csv"
    lines = ["1;one", "2", '3;"three\nlines"', "4;four;4", '5;"five"x', "6;six"]
    path.write_text("\n".join(["id;text", *lines, ""]).replace(";", separator))
    source = open_source(path, key=["id"], used=["text"], kind="csv", separator=separator, skip=True)
    assert (texts(source), source.left_out.rows) == (["one", "three\nlines", "six"], 3)


@given(st.lists(st.tuples(st.integers(), st.text(st.sampled_from('ab;,"\n')))))
def test_the_same_cells_are_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, str]]
) -> None:
    """Keys and digests do not hang on the separator, so nothing is asked twice."""
    folder, found = tmp_path_factory.mktemp("rows"), []
    for separator in ";,":
        path = folder / f"{ord(separator)}.csv"
        lines = [f"{number}{separator}{quoted(text)}\n" for number, (_, text) in enumerate(rows)]
        path.write_text("".join([f"id{separator}text\n", *lines]))
        found.append([chunk.keys + chunk.digests for chunk in opened(path, separator).tables()])
    assert found[0] == found[1]


def test_a_kept_survey_is_of_one_separator(tmp_path: Path) -> None:
    """The same file is another table with another separator."""
    path = tmp_path / "rows.csv"
    path.write_text("id;text,id\n1;a,b\n")
    sources = [open_source(path, key=[], used=[], separator=sign) for sign in (";", ",", None)]
    assert sources[0].reading != sources[1].reading
    assert sources[1].reading == sources[2].reading


def test_other_formats_have_no_separator(tmp_path: Path) -> None:
    """It is refused rather than without effect."""
    path = tmp_path / "rows.ndjson"
    path.write_text('{"id": 1}\n')
    with pytest.raises(InputError, match="`separator` is for CSV and TSV") as caught:
        open_source(path, key=["id"], used=None, separator=";")
    assert "leave `separator` out" in caught.value.hint


@pytest.mark.parametrize("sign", ["", ";;", '"', "\n", "\r", "a", "7", "ü", " ", "\0"])
def test_what_cannot_separate_cells_is_refused(sign: str) -> None:
    """One sign that no cell begins or ends with, and that Polars takes."""
    with pytest.raises(ValueError, match="one sign between cells"):
        InputSection(path="rows.csv", separator=sign)


def test_the_job_says_the_separator(project: Project) -> None:
    """It is no part of the identity, since the answers are the same."""
    project.change('path = "rows.csv"', 'path = "rows.csv"\nseparator = ";"')
    (project.folder / "rows.csv").write_text("id;text\n1;one, two\n")
    assert load_job(project.job).job.input.separator == ";"
    plan = project.plan()
    assert texts(plan.source) == ["one, two"]
    project.change(";", ",")
    (project.folder / "rows.csv").write_text('id,text\n1,"one, two"\n')
    assert project.plan().fingerprint == plan.fingerprint
