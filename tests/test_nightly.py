"""The same job every night: only what is new or changed is asked, whatever the input has become."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import polars as pl
import pytest

from pipeline.errors import Exit, OutputError
from pipeline.store.salvage import open_to_read
from tests.conftest import Emulator, Project, emulating
from tests.test_scratch import files_of_at_most

FAULTS = ["400-key~<refused>", "finish-safety~<unsafe>"]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator without quotas that refuses some rows."""
    with emulating(*(flag for fault in FAULTS for flag in ("--fault", fault))) as running:
        yield running


def partition(project: Project, night: int, texts: list[str]) -> None:
    """Add a night's file, in a folder of its own."""
    folder = project.folder / "in" / f"night={night}"
    folder.mkdir(parents=True)
    frame = pl.DataFrame({"id": [f"{night}-{n}" for n in range(len(texts))], "text": texts})
    frame.write_parquet(folder / "rows.parquet")


def test_an_unchanged_night_asks_nothing(project: Project, emulator: Emulator) -> None:
    """It ends well and leaves the same table, without a connection to the API."""
    project.rows(["good", "bad"])
    project.run(emulator.address)
    first = project.table()
    report = project.run("http://127.0.0.1:9")
    assert (report.exit_code, report.requests) == (Exit.OK, 0)
    assert project.table().equals(first)


def test_answers_to_equal_prompts_are_those_of_the_night_that_asked(
    project: Project, emulator: Emulator
) -> None:
    """A night that asks nothing says that they came before it."""
    project.rows(["good", "good"])
    first = "\n".join(project.run(emulator.address).sentences())
    second = "\n".join(project.run(emulator.address).sentences())
    assert "saved: 1 row shared a request" in first
    assert "in the table" not in first
    assert "in the table: 1 row took the answer to an equal prompt, asked in an earlier run" in second


def test_requests_that_never_left_are_told_apart(project: Project, emulator: Emulator) -> None:
    """They count against no quota, so they are no requests in the summary either."""
    project.rows(["good"])
    report = project.run(emulator.address)
    assert "this run: 1 request, 3 more never left this machine, " in "\n".join(
        replace(report, unsent=3).sentences()
    )
    assert "no request was made, 6 never left this machine" in "\n".join(
        replace(report, requests=0, unsent=6).sentences()
    )


def test_requests_without_an_answer_are_named(project: Project) -> None:
    """The API may bill what it has answered over a connection that broke; the cost cannot count it."""
    project.rows([f"good {n}" for n in range(5)])
    with emulating("--fault", "cut@2", "--fault", "503@3") as emulator:
        report = project.run(emulator.address)
    assert report.as_json()["this_run"]["unanswered"] == 1  # type: ignore[index]  # JSON
    said = "1 request left and had no answer: the API may bill them"
    assert said in "\n".join(report.sentences())
    assert said not in "\n".join(replace(report, free=True).sentences())


@pytest.mark.parametrize("ending", ["csv", "ndjson", "parquet"])
@pytest.mark.parametrize("path", ["in", "in/*", "in/**"])
def test_a_table_among_the_files_of_its_input_is_refused(project: Project, path: str, ending: str) -> None:
    """From the first night on, whatever else is wrong: the second one would read it."""
    (project.folder / "in").mkdir()
    (project.folder / "in" / "1.csv").write_text("number,word\n1,good\n")
    project.change('path = "rows.csv"', f'path = "{path}"')
    project.change("out/labels.parquet", f"in/labels.{ending}")
    with pytest.raises(
        OutputError, match=r"among the files of the input.*the next run would read it"
    ) as told:
        project.run("http://127.0.0.1:9")
    assert told.value.hint == "name a path outside of it under [output] or with `--output`"
    (project.folder / "in" / f"labels.{ending}").touch()
    with pytest.raises(OutputError) as told:
        project.run("http://127.0.0.1:9")
    assert told.value.hint.endswith(f"labels.{ending}` out of there if an earlier run has written it")


def test_replies_that_the_disk_did_not_take_are_named(project: Project, emulator: Emulator) -> None:
    """Every request of a run that ended by a full disk is answered, unanswered or not written down."""
    project.rows([f"good {n}" for n in range(300)])
    with files_of_at_most(200_000):
        report = project.run(emulator.address)
    assert report.exit_code is Exit.STORE
    with closing(open_to_read(report.folder / "replies.sqlite")) as db:
        ((kept,),) = db.execute("SELECT count(*) FROM reply")
    assert report.unwritten > 0
    assert report.requests == kept + report.unanswered + report.unwritten
    assert "arrived and could not be written" in "\n".join(report.sentences())


def test_a_grown_input_costs_the_new_rows(project: Project, emulator: Emulator) -> None:
    """Wherever they stand; the order of the input is that of the table."""
    project.rows(["good", "bad"])
    project.run(emulator.address)
    frame = pl.read_csv(project.folder / "rows.csv")
    new = pl.DataFrame({"id": [7, 8], "text": ["warm", "cold"]})
    pl.concat([new, frame.reverse()]).write_csv(project.folder / "rows.csv")
    assert project.run(emulator.address).requests == 2
    assert project.table()["text"].to_list() == ["warm", "cold", "bad", "good"]


def test_a_changed_text_is_asked_under_its_old_key(project: Project, emulator: Emulator) -> None:
    """The answer to the old text is not passed off as one to the new."""
    project.rows(["good", "good coat", "good box"])
    project.run(emulator.address)
    project.rows(["good", "awful coat", "good box"])
    assert project.run(emulator.address).requests == 1
    assert project.table()["label"].to_list() == ["positive", "negative", "positive"]


def test_a_column_that_the_prompt_does_not_use_costs_nothing(project: Project, emulator: Emulator) -> None:
    """It may change every night; the table has its present cells."""
    project.rows(["good", "bad"])
    project.run(emulator.address)
    frame = pl.read_csv(project.folder / "rows.csv").with_columns(seen=pl.lit("tonight"))
    frame.write_csv(project.folder / "rows.csv")
    assert project.run(emulator.address).requests == 0
    assert project.table()["seen"].to_list() == ["tonight", "tonight"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("You label reviews.", "You label reviews of a shop."),
        ("Review: {{ text }}", "A review: {{ text }}"),
        ("gemini-3.1-flash-lite", "gemini-2.5-flash-lite"),
        ("max_output_tokens = 200", "max_output_tokens = 200\nseed = 7"),
    ],
)
def test_what_changes_answers_asks_every_row_anew(
    project: Project, emulator: Emulator, old: str, new: str
) -> None:
    """And no answer of before stands in the table; going back costs nothing."""
    project.rows(["good", "bad"])
    before = project.run(emulator.address)
    answered = emulator.stats()["answered"]
    project.change(old, new)
    after = project.run(emulator.address)
    assert (after.requests, emulator.stats()["answered"] - answered) == (2, 2)
    assert after.folder != before.folder
    assert after.notes
    project.change(new, old)
    assert project.run(emulator.address).requests == 0


def test_a_changed_schema_asks_every_row_anew(project: Project, emulator: Emulator) -> None:
    """Under the same name and in the same file."""
    project.rows(["good", "bad"])
    project.run(emulator.address)
    schema = project.folder / "schemas" / "label.py"
    schema.write_text(schema.read_text().replace("reason: str", "reason: str\n    certain: bool"))
    report = project.run(emulator.address)
    assert report.requests == 2
    assert "schema" in report.notes[0]
    assert project.table()["certain"].null_count() == 0


def test_rows_gone_leave_the_table_and_come_back_for_nothing(project: Project, emulator: Emulator) -> None:
    """Their answers stay in the store, with what they cost."""
    project.rows(["good", "bad", "fine"])
    project.run(emulator.address)
    first = project.table()
    project.rows(["good"])
    assert project.run(emulator.address).requests == 0
    assert project.table()["text"].to_list() == ["good"]
    project.rows(["good", "bad", "fine"])
    assert project.run(emulator.address).requests == 0
    assert project.table().equals(first)


def test_a_new_file_every_night_shares_the_answers(project: Project, emulator: Emulator) -> None:
    """What stood in an earlier file under the same key and text is not asked again."""
    nights = [["good", "bad"], ["good", "bad", "warm"], ["cold"]]
    asked = []
    for night, texts in enumerate(nights):
        project.rows(texts)
        (project.folder / "rows.csv").rename(project.folder / f"night-{night}.csv")
        project.change("rows.csv" if not night else f"night-{night - 1}.csv", f"night-{night}.csv")
        asked.append(project.run(emulator.address).requests)
        assert project.table()["text"].to_list() == texts
    assert asked == [2, 1, 1]


@pytest.mark.parametrize("path", ["in", "in/*/*.parquet", "in/**/rows.parquet"])
def test_a_folder_that_grew_by_a_file_costs_that_file(
    project: Project, emulator: Emulator, path: str
) -> None:
    """Partitions keep their column, whether the folder is named or a pattern."""
    project.change("rows.csv", path)
    partition(project, 1, ["good", "bad"])
    assert project.run(emulator.address).requests == 2
    partition(project, 2, ["warm"])
    assert project.run(emulator.address).requests == 1
    assert project.table()["id"].to_list() == ["1-0", "1-1", "2-0"]
    assert project.table()["night"].to_list() == [1, 1, 2]


def test_a_column_that_a_folder_names_costs_nothing(project: Project, emulator: Emulator) -> None:
    """Rows that were asked before it was there have their answers, also where the prompt names no column."""
    project.change("{{ text }}", "{{ row['te' ~ 'xt'] }}")
    project.change("rows.csv", "in/one.parquet")
    partition(project, 1, ["good", "bad"])
    (project.folder / "in" / "night=1" / "rows.parquet").rename(project.folder / "in" / "one.parquet")
    assert project.run(emulator.address).requests == 2
    (project.folder / "in" / "one.parquet").rename(project.folder / "in" / "night=1" / "rows.parquet")
    project.change("in/one.parquet", "in/*/*.parquet")
    assert project.run("http://127.0.0.1:9").requests == 0
    assert project.table()["night"].to_list() == [1, 1]


def test_a_failed_row_is_not_paid_for_every_night(project: Project, emulator: Emulator) -> None:
    """It stays failed, and says so by the exit code, until somebody asks for it again."""
    project.rows(["good", "<unsafe>"])
    codes = [(report.exit_code, report.requests) for report in [project.run(emulator.address) for _ in "123"]]
    assert codes == [(Exit.ROWS_FAILED, 2), (Exit.ROWS_FAILED, 0), (Exit.ROWS_FAILED, 0)]
    assert project.run(emulator.address, retry_failed=True).requests == 1


def test_a_night_that_stopped_early_is_finished_by_the_next(project: Project, emulator: Emulator) -> None:
    """What the first has paid for is not asked again, with new rows added meanwhile."""
    project.rows([f"good {n}" for n in range(6)])
    project.change("rpm = 600000\n", "rpm = 600000\nrpd = 4\n")
    assert project.run(emulator.address).exit_code is Exit.STOPPED
    project.rows([f"good {n}" for n in range(8)])
    report = project.run(emulator.address)
    assert (report.exit_code, report.requests) == (Exit.OK, 4)
    assert project.table().height == 8


def test_what_all_answers_took_is_no_table_before_there_is_one(project: Project, emulator: Emulator) -> None:
    """The sum stands beside `not written`, so it is called by another name."""
    project.rows([f"good {n}" for n in range(12)])
    project.change("rpm = 600000\n", "rpm = 600000\nrpd = 4\n")
    project.run(emulator.address)
    second = "\n".join(project.run(emulator.address).sentences())
    third = "\n".join(project.run(emulator.address).sentences())
    assert "  all answers so far: $" in second
    assert "  the whole table: $" in third


@pytest.mark.parametrize("output", ["parquet", "csv", "ndjson"])
@pytest.mark.parametrize("key", ['["id"]', "[]"])
def test_an_empty_night_gives_an_empty_table(
    project: Project, emulator: Emulator, output: str, key: str
) -> None:
    """A header without rows is no fault: the table has all columns, a note says so, nothing is lost."""
    project.change('["id"]', key)
    project.change("labels.parquet", f"labels.{output}")
    project.rows(["good", "bad"])
    project.run(emulator.address)
    (project.folder / "rows.csv").write_text("id,text\n")
    report = project.run("http://127.0.0.1:9")
    assert (report.exit_code, report.rows, report.requests) == (Exit.OK, 0, 0)
    assert any("no rows" in note for note in report.notes)
    said = "\n".join(report.sentences())
    assert "no request was made\n" in said
    assert "answers come from" not in said
    assert report.output is not None
    if output == "csv":
        assert report.output.read_text().startswith("id,text,label,reason,_status,")
        assert report.output.read_text().count("\n") == 1
    elif output == "parquet":
        assert (pl.read_parquet(report.output).height, project.table().columns[:3]) == (
            0,
            ["id", "text", "label"],
        )
    else:
        assert report.output.read_bytes() == b""
    project.rows(["good", "bad"])
    assert project.run(emulator.address).requests == 0


def test_an_empty_parquet_file_gives_an_empty_table(project: Project, emulator: Emulator) -> None:
    """With the types of its columns; also as the first thing that a job ever sees."""
    project.change("rows.csv", "rows.parquet")
    frame = pl.DataFrame({"id": [1], "text": ["good"]})
    frame.clear().write_parquet(project.folder / "rows.parquet")
    assert project.run(emulator.address).exit_code is Exit.OK
    assert project.table().schema["id"] == pl.Int64
    frame.write_parquet(project.folder / "rows.parquet")
    assert project.run(emulator.address).requests == 1
    assert project.table().height == 1
