"""With `bad_rows = "skip"` bad rows are left out and named, and all others are answered, once."""

import gc
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.disk import is_draft, whole_file
from pipeline.errors import Exit, InputError
from pipeline.input.recode import PREFIX
from pipeline.input.source import open_source
from pipeline.report import RunReport
from pipeline.status import job_status
from pipeline.store import census as subject
from pipeline.store.census import census
from pipeline.store.folder import Folder
from pipeline.verify import verify_job
from tests.conftest import Emulator, Project, emulating
from tests.test_cli import Shell, shell

__all__ = ["shell"]  # a fixture


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator without quotas."""
    with emulating() as running:
        yield running


def skipping(project: Project, content: str, name: str = "rows.csv") -> Path:
    """Write the input and let bad rows of it be left out."""
    project.change('path = "rows.csv"', f'path = "{name}"\nbad_rows = "skip"')
    path = project.folder / name
    path.write_text(content)
    return path


def asked(project: Project, emulator: Emulator) -> tuple[RunReport, int]:
    """Run the job and count the requests that came in."""
    emulator.reset()
    report = project.run(emulator.address)
    return report, emulator.stats()["requests"]


DOUBLE = "id,text\n1,one\n2,two\n1,uno\n,none\n3,three\n2,dos\n4,four\n"


def test_rows_without_a_key_of_their_own_are_left_out(project: Project, emulator: Emulator) -> None:
    """The first row of a key stays; later ones and empty keys are named with their rows."""
    path = skipping(project, DOUBLE)
    report, requests = asked(project, emulator)
    assert (report.rows, requests, report.exit_code) == (4, 4, Exit.ROWS_FAILED)
    assert project.table()["text"].to_list() == ["one", "two", "three", "four"]
    assert report.left_out.rows == 3
    assert report.left_out.first == (
        f"row 3 of `{path}`: the key `1` is that of row 1",
        f"row 4 of `{path}`: key column `id` is empty",
        f"row 6 of `{path}`: the key `2` is that of row 2",
    )
    assert project.plan().bad_rows.read_text().count('{"id": ') == 3


def test_a_run_without_bad_rows_leaves_nothing_out(project: Project, emulator: Emulator) -> None:
    """A mended input ends with 0, without the file of the last run, and nothing is asked twice."""
    path = skipping(project, DOUBLE)
    asked(project, emulator)
    path.write_text("id,text\n1,one\n2,two\n3,three\n4,four\n5,none\n")
    report, requests = asked(project, emulator)
    assert (report.rows, requests, report.exit_code, report.left_out.rows) == (5, 1, Exit.OK, 0)
    assert not project.plan().bad_rows.exists()


def test_each_input_has_a_file_of_its_bad_rows(project: Project, emulator: Emulator) -> None:
    """A run of another input leaves it, also under the same name; only its own run removes it."""
    path = skipping(project, DOUBLE)
    first = asked(project, emulator)[0].left_out.file
    (project.folder / "later").mkdir()
    later = project.folder / "later" / "rows.csv"
    later.write_text("id,text\n5,five\n")
    project.change('"rows.csv"', '"later/rows.csv"')
    assert asked(project, emulator)[0].left_out.file is None
    later.write_text("id,text\n5,five\n,six\n")
    second = asked(project, emulator)[0].left_out.file
    assert first is not None
    assert second is not None
    assert [one.read_text().count("# row ") for one in (first, second)] == [3, 1]
    assert verify_job(project.plan()).findings == []
    project.change('"later/rows.csv"', '"rows.csv"')
    path.write_text("id,text\n1,one\n")
    asked(project, emulator)
    assert [one.exists() for one in (first, second)] == [False, True]


@pytest.mark.parametrize("name", ["ü" * 100 + ".csv", "a*?\udcff b/[x].csv", "in", "x.csv.1.tmp"])
def test_any_input_can_have_a_file_of_bad_rows(tmp_path: Path, name: str) -> None:
    """However long its name is, and whatever stands in it; none looks like half a file."""
    path = Folder(tmp_path).bad_rows(name)
    path.parent.mkdir()
    with whole_file(path) as draft:
        assert not re.search(r"[*?\[/ ]", path.name)
        assert is_draft(draft)
    assert path.exists()
    assert not is_draft(path)


def test_status_and_summary_name_what_is_left_out(project: Project, emulator: Emulator) -> None:
    """The summary has the file, `status` the rows; both have them as JSON."""
    path = skipping(project, DOUBLE)
    report, _ = asked(project, emulator)
    said = "\n".join(report.sentences())
    listed = f"listed in {project.plan().bad_rows}; mend them in `{path}`"
    assert f"left out: 3 bad rows of the input, {listed}" in said
    found = job_status(project.plan(), None, 0.0)
    assert f"    row 4 of `{path}`: key column `id` is empty" in found.sentences()
    assert found.as_json()["left_out"] == report.left_out.as_json() | {"file": None}


def test_an_input_of_which_most_rows_have_no_key_is_refused(project: Project) -> None:
    """A column that is empty everywhere, or that has few values, is no matter of single rows."""
    path = skipping(project, "id,text\n,one\n,two\n")
    with pytest.raises(InputError, match=r"2 of 2 rows have no key of their own: row 1 of .* `id` is empty"):
        project.plan().source.survey()
    path.write_text("id,text\n" + "".join(f"{n % 9},text {n}\n" for n in range(20)))
    with pytest.raises(
        InputError, match=r"11 of 20 rows have no key of their own: row 10 of .* that of row 1"
    ):
        project.plan().source.survey()
    path.write_text("id,text\n" + "".join(f"{n % 10},text {n}\n" for n in range(20)))
    assert project.plan().source.survey().rows == 10


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_keys_of_any_format_are_left_out(tmp_path: Path, ending: str) -> None:
    """Rows of Parquet and Arrow files keep their order; a key of two columns is a key as a whole."""
    frame = pl.DataFrame({"a": [1, 1, None, 1, 2], "b": ["x", "y", "x", "x", "x"], "n": range(5)})
    path = tmp_path / f"rows.{ending}"
    frame.write_parquet(path) if ending == "parquet" else frame.write_ipc(path)
    source = open_source(path, key=["a", "b"], used=["n"], skip=True)
    survey = source.survey()
    assert source.left_out.rows == 2
    assert pl.concat(chunk.frame for chunk in source.tables(2))["n"].to_list() == [0, 1, 4]
    rows = [row for some in source.rows(np.array([False, True, True])) for row in some]
    assert [(row.index, row.values["n"]) for row in rows] == [(1, 1), (2, 4)]
    assert [row.key for row in rows] == [chunk.keys[0] for chunk in source.tables(1)][1:]
    assert survey.rows == 3


def test_very_many_rows_of_few_keys(tmp_path: Path) -> None:
    """Every repetition is found, also beyond the pairs that an error is chosen from."""
    path = tmp_path / "rows.csv"
    pl.DataFrame({"id": [n % 12_000 for n in range(20_000)], "n": range(20_000)}).write_csv(path)
    source = open_source(path, key=["id"], used=["n"], skip=True)
    assert source.survey().rows == 12_000
    assert source.survey().rows == 12_000
    assert source.left_out.rows == 8_000
    assert source.left_out.first[0] == f"row 12,001 of `{path}`: the key `0` is that of row 1"
    assert source.sample([0, 11_999])["n"].to_list() == ["0", "11999"]


def test_rows_after_those_left_out_are_read_from_anywhere(tmp_path: Path) -> None:
    """A run that goes on begins in the middle, in rows as they are counted without those left out."""
    path = tmp_path / "rows.csv"
    ids = [n if n % 3 else 3 for n in range(9_000)]
    pl.DataFrame({"id": ids, "n": range(9_000)}).write_csv(path)
    source = open_source(path, key=["id"], used=["n"], skip=True)
    survey = source.survey()
    stays = [n for n in range(9_000) if n % 3 or not n]
    assert survey.rows == len(stays)
    for first in [0, 1, 2, 3, 1_999, 2_000, 5_999, 6_000]:
        rows = [row for some in source.rows(np.arange(survey.rows) >= first) for row in some]
        assert [row.index for row in rows] == list(range(first, survey.rows))
        assert [row.values["n"] for row in rows] == [str(n) for n in stays[first:]]


@pytest.mark.parametrize(("limit", "left_out"), [(1, 0), (2, 0), (3, 2), (4, 3), (9, 3)])
def test_rows_that_are_left_out_do_not_count_for_a_limit(tmp_path: Path, limit: int, left_out: int) -> None:
    """As many rows are taken as were asked for, and what comes after them is not told."""
    path = tmp_path / "rows.csv"
    path.write_text(DOUBLE)
    source = open_source(path, key=["id"], used=["text"], limit=limit, skip=True)
    assert (source.survey().rows, source.left_out.rows) == (min(limit, 4), left_out)
    texts = [text for chunk in source.tables() for text in chunk.frame["text"].to_list()]
    assert texts == ["one", "two", "three", "four"][:limit]


def test_rows_that_are_left_out_decide_no_type(project: Project, emulator: Emulator) -> None:
    """A column is of numbers where all rows that are asked about have numbers there."""
    skipping(project, "id,text,n\n1,one,1\n,none,x\n2,two,2\n1,uno,y\n")
    asked(project, emulator)
    assert project.table()["n"].to_list() == [1, 2]


def test_rows_are_refused_or_left_out_without_being_asked_twice(project: Project, emulator: Emulator) -> None:
    """What becomes of bad rows is no part of what was asked."""
    path = skipping(project, DOUBLE)
    asked(project, emulator)
    project.change('bad_rows = "skip"', 'bad_rows = "refuse"')
    with pytest.raises(InputError, match="rows 1 and 3"):
        project.run(emulator.address)
    path.write_text("id,text\n1,one\n2,two\n3,three\n4,four\n")
    _, requests = asked(project, emulator)
    assert requests == 0


def test_a_table_without_rows_that_are_left_out_is_verified(project: Project, emulator: Emulator) -> None:
    """It is the table of this input, and the file of bad rows is no leftover."""
    skipping(project, DOUBLE)
    asked(project, emulator)
    verdict = verify_job(project.plan())
    assert (verdict.findings, verdict.rows, verdict.compared) == ([], 4, True)


def many_rows(good: int, bad: int) -> tuple[str, str]:
    """Return a table as CSV with so many bad rows of eight kinds among the good ones, and without them."""
    kinds = [
        "{n}",
        "{n},text,1,2",
        '{n},"text"more,1',
        '{n},"text,1',
        '{n},te"xt,1',
        "{n},t\udcffxt,1",
        "0,text,x",
        ",text,x",
    ]
    rows = [f'{n},"text, ""{n}""\nmore",{n / 2}' if n % 7 else f"{n},text {n},{n / 2}" for n in range(good)]
    mixed = list(rows)
    for number in range(bad):
        mixed.insert(1 + number * (good // bad + 1), kinds[number % len(kinds)].format(n=good + number))
    return tuple("\n".join(["id,text,n", *some, ""]) for some in (mixed, rows))  # type: ignore[return-value]


def test_a_run_over_many_bad_rows_ends_with_the_table_of_the_others(
    project: Project, emulator: Emulator
) -> None:
    """Of 1,000 rows and 40 bad ones in eight kinds the table is the one without these."""
    mixed, good = many_rows(1_000, 40)
    path = skipping(project, "")
    path.write_bytes(mixed.encode(errors="surrogateescape"))
    report, requests = asked(project, emulator)
    assert (report.rows, report.left_out.rows, report.exit_code) == (1_000, 40, Exit.ROWS_FAILED)
    assert requests == 1_000
    assert verify_job(project.plan()).findings == []
    table = project.table()
    told = project.plan().bad_rows.read_bytes().split(b"\n")
    assert sum(line.startswith(b"# ") for line in told) == 40
    path.write_text(good)
    report, requests = asked(project, emulator)
    assert (report.left_out.rows, requests, report.exit_code) == (0, 0, Exit.OK)
    assert project.table().equals(table)
    assert table.schema["n"] == pl.Float64


def test_mended_records_are_asked_and_they_alone(project: Project, emulator: Emulator) -> None:
    """Rows keep their answers when what stood between them is mended, or left out no longer."""
    path = skipping(project, 'id,text\n1,one\n2\n3,three\n4,fo"ur\n5,"five"\n6,six\n')
    report, requests = asked(project, emulator)
    assert (report.rows, report.left_out.rows, requests) == (4, 2, 4)
    path.write_text('id,text\n1,one\n2,two\n3,three\n4,"fo""ur"\n5,"five"\n6,six\n')
    project.change('bad_rows = "skip"', 'bad_rows = "refuse"')
    report, requests = asked(project, emulator)
    assert (report.rows, requests, report.exit_code) == (6, 2, Exit.OK)


def test_bad_records_do_not_count_for_a_limit(tmp_path: Path) -> None:
    """As many rows are taken as were asked for."""
    path = tmp_path / "rows.csv"
    path.write_text("id,text\n1\n2\n3,three\n4,four\n5\n6,six\n7,seven\n")
    source = open_source(path, key=["id"], used=["text"], limit=3, skip=True)
    assert source.survey().rows == 3
    assert [row.values["text"] for some in source.rows(np.ones(3, np.bool_)) for row in some] == [
        "three",
        "four",
        "six",
    ]


def test_every_command_says_what_is_left_out(project: Project, shell: Shell) -> None:
    """As text and as JSON; a run ends with 1."""
    path = skipping(project, "id,text\n1,one\n2\n1,uno\n3,three\n")
    first = [
        f"`{path}`, line 3: 1 cell where the header has 2",
        f"row 3 of `{path}`: the key `1` is that of row 1",
    ]
    for command in ("estimate", "run", "status"):
        said = shell(command, project.job, "--offline", "--json")
        assert said.code == (1 if command == "run" else 0)
        told = json.loads(said.out)["left_out"]
        assert (told["rows"], told["first"]) == (2, first)
        shown = shell(command, project.job, "--offline")
        assert "left out: 2 bad rows of the input" in " ".join((shown.out + shown.err).split())


@pytest.mark.parametrize("flags", [["--quiet"], ["--json"], ["--quiet", "--json"]])
def test_a_quiet_run_says_that_rows_were_left_out(project: Project, shell: Shell, flags: list[str]) -> None:
    """In one line on standard error, which cron mails: no table shows them, as it does rows that failed."""
    skipping(project, "id,text\n1,one\n2\n3,three\n")
    file = project.plan("emulator").bad_rows
    for _ in "12":
        said = shell("run", project.job, "--offline", *flags)
        assert said.code == 1
        mend = f"mend it in `{project.folder / 'rows.csv'}`"
        assert said.err == f"left out: 1 bad row of the input, listed in {file}; {mend}\n"
    assert said.out == "" or json.loads(said.out)["left_out"]["file"] == str(file)


def test_copies_without_bad_rows_go_with_their_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One copy of a file stands as long as its source lives, and none of one that is refused."""
    folder, path = tmp_path / "temporary", tmp_path / "rows.csv"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    path.write_bytes("id,text\n1,früh\n2\n3,spät\n".encode("utf-16"))
    source = open_source(path, key=["id"], used=["text"], skip=True)
    assert len(list(folder.glob(f"{PREFIX}*/*-copy"))) == 1
    assert source.survey().rows == 2
    del source
    gc.collect()
    assert not list(folder.iterdir())
    with pytest.raises(InputError, match="key column"):
        open_source(path, key=["name"], used=["text"], skip=True)
    assert not list(folder.iterdir())


def test_the_survey_of_an_input_with_bad_rows_is_kept(
    project: Project, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows are left out and told of by it."""
    monkeypatch.setattr(subject, "WORTH", 1)
    monkeypatch.setattr(subject, "SETTLED", -1.0)
    skipping(project, DOUBLE)
    report, _ = asked(project, emulator)
    told = project.plan().bad_rows.read_text()
    plan = project.plan()
    taken = census(plan.source, plan.folder)
    assert taken.kept
    assert taken.survey.rows == 4
    assert plan.source.left_out.first == report.left_out.first
    again, requests = asked(project, emulator)
    assert (requests, again.left_out, again.exit_code) == (0, report.left_out, Exit.ROWS_FAILED)
    assert plan.bad_rows.read_text() == told
    assert verify_job(project.plan()).findings == []
    project.change('bad_rows = "skip"', 'bad_rows = "refuse"')
    with pytest.raises(InputError, match="rows 1 and 3"):
        project.run(emulator.address)


@pytest.mark.parametrize(
    ("name", "content", "one"),
    [
        ("few.csv", "id,text\n1,a\n2\n", True),
        ("open.csv", 'id,text\n1,a\n2,"b\n', True),
        ("after.csv", 'id,text\n1,"a"a\n', True),
        ("stray.csv", 'id,text\n1,"a"\n2,b "c\n', True),
        ("twice.csv", "id,text\n1,a\n1,b\n", True),
        ("empty.csv", "id,text\n,a\n1,b\n", True),
        ("cut.ndjson", '{"id": 1, "text": "a"}\n{"id":\n', True),
        ("kinds.ndjson", '{"id": 1}\n{"id": [1]}\n{"id": 2}\n', True),
        ("header.csv", 'id,"text\n1,a\n', False),
        ("other.csv", "id;text;n\n1;a,b;2\n", False),
    ],
)
def test_a_bad_row_is_refused_with_the_way_to_leave_it_out(
    tmp_path: Path, name: str, content: str, one: bool
) -> None:
    """The hint names it once, and only where the other rows could be asked."""
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        open_source(tmp_path / name, key=["id"], used=None).survey()
    assert caught.value.hint.count('set `bad_rows = "skip"`') == one


def test_a_file_of_mostly_bad_rows_is_refused_with_their_number(tmp_path: Path) -> None:
    """Whoever leaves bad rows out already is told why that is not enough."""
    path = tmp_path / "rows.csv"
    path.write_text("id,text\n" + "1\n" * 50 + "2,a\n" * 20)
    with pytest.raises(InputError, match="50 of the first 70 rows are bad, too many") as caught:
        open_source(path, key=["id"], used=None, skip=True)
    assert "bad_rows" not in caught.value.hint
