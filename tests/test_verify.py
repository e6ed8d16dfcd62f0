"""Verifying a job: nothing wrong is overlooked, nothing right is blamed, nothing is changed."""

import math
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from pipeline.backlog import backlog
from pipeline.comparison import Columns, differences
from pipeline.errors import Exit, StoreError, UsageError
from pipeline.plan import RUNS
from pipeline.report import RunReport
from pipeline.runs import find_runs
from pipeline.status import job_status
from pipeline.store.folder import owned
from pipeline.store.journal import Journal
from pipeline.store.salvage import INDEX, LOG, fault_at_a_glance, open_to_read
from pipeline.verify import Verdict, verify_job
from tests.conftest import Emulator, Project, emulating
from tests.store.test_journal import REPLIED, ROW
from tests.test_runs import contents
from tests.test_scratch import files_of_at_most

TEXTS = ["good", "<finish-safety>", "bad", "good", "so so", "fine"]
ENDINGS = ["parquet", "csv", "ndjson"]
Spoil = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator that refuses some rows."""
    with emulating("--fault", "finish-safety~<finish-safety>") as running:
        yield running


def ran(project: Project, emulator: Emulator) -> RunReport:
    """Run a job to its end."""
    project.rows(TEXTS)
    return project.run(emulator.address)


def verify(project: Project) -> Verdict:
    """Verify the job."""
    return verify_job(project.plan())


def said(project: Project) -> list[str]:
    """Return what is found wrong."""
    verdict = verify(project)
    assert verdict.exit_code is (Exit.STORE if verdict.findings else Exit.OK)
    return [finding.what for finding in verdict.findings]


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_well_is_not_blamed(project: Project, emulator: Emulator, ending: str) -> None:
    """A finished job is well in every format, with retried rows and shared answers; no file changes."""
    project.change("out/labels.parquet", f"out/labels.{ending}")
    project.change('key = ["id"]', "key = []")
    ran(project, emulator)
    project.run(emulator.address, retry_failed=True)
    before = contents(project.folder)
    verdict = verify(project)
    assert verdict.findings == []
    assert (verdict.rows, verdict.pending, verdict.parts, verdict.replies) == (6, 0, 2, 6)
    assert verdict.compared
    assert contents(project.folder) == before


def test_a_stopped_job_is_well(project: Project, emulator: Emulator) -> None:
    """Rows that are still to be asked are no inconsistency."""
    project.change("rpm = 600000", "rpm = 600000\nrpd = 2")
    ran(project, emulator)
    verdict = verify(project)
    assert (verdict.findings, verdict.pending, verdict.compared) == ([], 3, False)


def doubled(frame: pl.DataFrame) -> pl.DataFrame:
    """Write the first row once more at the end."""
    return pl.concat([frame, frame.head(1)])


def without_a_row(frame: pl.DataFrame) -> pl.DataFrame:
    """Leave out the second row."""
    return pl.concat([frame.head(1), frame.slice(2)])


def with_a_strange_row(frame: pl.DataFrame) -> pl.DataFrame:
    """Add a row that no input has."""
    return pl.concat([frame, frame.head(1).with_columns(pl.lit(99).cast(frame.schema["id"]).alias("id"))])


def with_another_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Change what the third row asks."""
    third = pl.int_range(pl.len()) == 2
    return frame.with_columns(text=pl.when(third).then(pl.lit("other")).otherwise("text"))


def with_another_answer(frame: pl.DataFrame) -> pl.DataFrame:
    """Change what the third row answers."""
    third = pl.int_range(pl.len()) == 2
    return frame.with_columns(reason=pl.when(third).then(pl.lit("other")).otherwise("reason"))


def with_another_cost(frame: pl.DataFrame) -> pl.DataFrame:
    """Make the third row dearer."""
    third = pl.int_range(pl.len()) == 2
    return frame.with_columns(_cost_usd=pl.when(third).then(1.5).otherwise("_cost_usd"))


SPOILS: list[tuple[Spoil, str]] = [
    (doubled, "row 7 of the output is there a second time"),
    (without_a_row, "row 2 of the input is missing"),
    (with_a_strange_row, "row 7 is no row of the input, and no part is known to answer it"),
    (with_another_text, "row 3 has another text than the row of the input with its key"),
    (with_another_answer, "row 3: `reason` is not what the row's part says"),
    (with_another_cost, "row 3: `_cost_usd` is not what the row's part says"),
    (pl.DataFrame.reverse, "row 1 and others are not in the order of the input"),
    (lambda frame: frame.drop("label"), "column `label` is missing"),
    (lambda frame: frame.with_columns(more=1), "column `more` is not one of this job"),
]


def read(path: Path) -> pl.DataFrame:
    """Read a table of any format."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    return pl.read_csv(path) if path.suffix == ".csv" else pl.read_ndjson(path)


def write(frame: pl.DataFrame, path: Path) -> None:
    """Write a table of any format; Parquet with the types that the output had before."""
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".ndjson":
        frame.write_ndjson(path)
    else:
        schema = pq.read_schema(path)
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        for number, name in enumerate(table.column_names):
            if name in schema.names:
                kind = schema.field(name).type
                table = table.set_column(number, name, table[name].cast(kind))
        pq.write_table(table, path)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("spoil", "what"), SPOILS)
def test_a_wrong_output_is_found(
    project: Project, emulator: Emulator, ending: str, spoil: Spoil, what: str
) -> None:
    """Each way in which a table can be wrong is named by its row, in every format."""
    project.change("out/labels.parquet", f"out/labels.{ending}")
    ran(project, emulator)
    output = project.output.with_suffix(f".{ending}")
    write(spoil(read(output)), output)
    assert what in said(project)
    project.run(emulator.address)
    assert said(project) == []


def test_a_wrong_type_is_found(project: Project, emulator: Emulator) -> None:
    """A column of another type is another table, even with the same values."""
    ran(project, emulator)
    project.table().with_columns(pl.col("_attempts").cast(pl.Int8)).write_parquet(project.output)
    assert "column `_attempts` is int8 and should be int32" in said(project)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("strange", ["_attempts", "_cost_usd", "id"])
def test_a_strange_column_hides_nothing(
    project: Project, emulator: Emulator, ending: str, strange: str
) -> None:
    """Rows and answers are compared by the columns that are as they should be, with the key or without."""
    project.change("out/labels.parquet", f"out/labels.{ending}")
    ran(project, emulator)
    output = project.output.with_suffix(f".{ending}")
    frame = with_another_answer(read(output)).head(5)
    write(frame.rename({strange: "odd"}), output)
    found = said(project)
    assert f"column `{strange}` is missing" in found
    assert "row 3: the answer is not what the row's part says" in found
    assert "row 6 of the input is missing" in found


def test_rows_are_counted_where_nothing_names_them(project: Project, emulator: Emulator) -> None:
    """A table without any column of the input has too few rows, whichever they are."""
    ran(project, emulator)
    project.table().drop("id", "text").head(4).write_parquet(project.output)
    assert "the rows are 4 and should be 6" in said(project)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("left", [0, 20, 0.5])
def test_a_truncated_output_is_found(project: Project, emulator: Emulator, ending: str, left: float) -> None:
    """A cut file is something to report and no crash."""
    project.change("out/labels.parquet", f"out/labels.{ending}")
    ran(project, emulator)
    output = project.output.with_suffix(f".{ending}")
    raw = output.read_bytes()
    output.write_bytes(raw[: int(left * len(raw)) if left < 1 else int(left)])
    assert said(project)


def test_a_missing_output_is_found(project: Project, emulator: Emulator) -> None:
    """Where all is answered there is a table."""
    ran(project, emulator)
    project.output.unlink()
    assert said(project) == ["the output is missing, and every row has an answer"]


@pytest.mark.parametrize("texts", [TEXTS[:-1], [*TEXTS[1:], "good"]])
def test_a_table_of_an_older_input_is_a_notice(
    project: Project, emulator: Emulator, texts: list[str]
) -> None:
    """A row that has left the input or changed in it is no inconsistency; what is no table is one still."""
    project.change('key = ["id"]', "key = []")
    ran(project, emulator)
    project.rows(texts)
    verdict = verify(project)
    assert (verdict.exit_code, len(verdict.findings)) == (Exit.OK, 1)
    assert verdict.findings[0].what.startswith("the input has changed since the last run")
    project.output.write_bytes(b"PAR1")
    assert verify(project).exit_code is Exit.STORE
    project.run(emulator.address)
    assert verify(project).findings == []


def test_parts_that_are_gone_are_found(project: Project, emulator: Emulator) -> None:
    """What was finished and has no answer any more is named by `verify`, by `runs` and by the next run."""
    report = ran(project, emulator)
    for path in (*report.folder.glob("parts/*"), report.folder / "replies.sqlite"):
        path.unlink()
    assert said(project) == ["6 rows that the last run had finished have no answer in the parts"]
    assert [run.state for run in find_runs(project.folder / RUNS)] == ["damaged"]
    (told,) = job_status(project.plan(), None, 0.0).damage
    assert told.startswith("6 rows that the last run had finished have no answer")
    assert "paid for again" in told
    (note,) = [one for one in project.run(emulator.address).notes if one.startswith("6 rows that the last")]
    assert "asked again" in note
    assert said(project) == []


def test_a_damaged_part_is_told_with_what_the_journal_had(project: Project, emulator: Emulator) -> None:
    """The note counts the rows to ask after a part was set aside, and the replies; two rows are equal."""
    folder = ran(project, emulator).folder
    (folder / "parts" / "part-0000001.parquet").write_bytes(b"damaged")
    with closing(sqlite3.connect(folder / "replies.sqlite")) as db, db:
        db.execute("DELETE FROM reply WHERE rowid = 2")
    notes = project.run(emulator.address).notes
    assert len([one for one in notes if "`part-0000001.parquet` was set aside" in one]) == 1
    assert any(one.startswith("of 6 rows to ask after that the journal had the reply to 4;") for one in notes)


def test_what_a_mended_journal_had_is_counted(project: Project, emulator: Emulator) -> None:
    """Beside a damaged part the replies that can be saved from a damaged journal count as had."""
    project.rows([f"good {n}" for n in range(60)])
    folder = project.run(emulator.address).folder
    (folder / "parts" / "part-0000001.parquet").write_bytes(b"damaged")
    (project.folder / RUNS / "cache.sqlite").unlink()
    os.truncate(folder / "replies.sqlite", 20_000)
    report = project.run(emulator.address)
    (taken,) = [one for one in report.notes if one.startswith("the journal was damaged")]
    had = int(re.search(r"(\d+) of its replies", taken)[1])  # type: ignore[index]
    assert (0 < had < 60, report.requests) == (True, 60 - had)
    assert any(
        f"of 60 rows to ask after that the journal had the reply to {had};" in one for one in report.notes
    )


def test_rows_that_have_come_are_not_gone(project: Project, emulator: Emulator) -> None:
    """An input that has grown or become another one has lost nothing; one that lost a part, too, is told."""
    ran(project, emulator)
    project.rows([*TEXTS, "new", "newer"])
    assert said(project) == []
    assert project.run(emulator.address).notes == []
    project.rows([f"other {n}" for n in range(3)])
    assert said(project) == []
    (project.plan().folder.parts / "part-0000001.parquet").unlink()
    assert said(project) == ["6 rows that the last run had finished have no answer in the parts"]


def test_every_byte_of_a_part_counts(project: Project, emulator: Emulator) -> None:
    """A flipped byte in the pages of a part is found wherever it is, unless it changes no value."""
    part = ran(project, emulator).folder / "parts" / "part-0000001.parquet"
    whole, table = part.read_bytes(), pq.read_table(part)
    pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in range(4, pages, max(1, pages // 60)):
        raw = bytearray(whole)
        raw[at] ^= 0x55
        part.write_bytes(raw)
        assert said(project) or pq.read_table(part).equals(table), at
    part.write_bytes(whole)
    assert said(project) == []


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_damaged_part_costs_is_told(project: Project, emulator: Emulator, *, whole: bool) -> None:
    """Where the journal has all replies nothing is paid for again; else the rest is asked."""
    project.rows(["good", "bad", "fine"])
    folder = project.run(emulator.address).folder
    (folder / "parts" / "part-0000001.parquet").write_bytes(b"damaged")
    if not whole:
        with closing(sqlite3.connect(folder / "replies.sqlite")) as db, db:
            db.execute("DELETE FROM reply WHERE rowid = 2")
    said = " ".join(job_status(project.plan(), None, 0.0).sentences())
    assert ("pays for nothing again" in said, "asks for what that has no reply to" in said) == (
        whole,
        not whole,
    )


@pytest.mark.parametrize("where", ["footer", "page"])
def test_status_counts_without_a_damaged_part(project: Project, emulator: Emulator, where: str) -> None:
    """It says so and touches nothing, as `estimate` does with one whose index is out of reach."""
    part = ran(project, emulator).folder / "parts" / "part-0000001.parquet"
    raw = bytearray(part.read_bytes())
    group = pq.read_metadata(part).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    (cost,) = [one for one in columns if one.path_in_schema == "_cost_usd"]
    ends = (cost.dictionary_page_offset or cost.data_page_offset) + cost.total_compressed_size
    raw[-20 if where == "footer" else ends - 2] ^= 0x55
    part.write_bytes(raw)
    status = job_status(project.plan(), None, 0.0)
    assert (status.pending, status.damaged) == (6, [part.name])
    assert any("counted without 1 damaged part (`part-0000001.parquet`)" in one for one in status.sentences())
    if where == "footer":
        scope = backlog(project.plan(), retry_failed=False, enough=1).scope
        assert (scope.pending, scope.damaged_parts) == (6, (part.name,))
    assert part.read_bytes() == raw


def test_a_part_with_impossible_rows_is_found(project: Project, emulator: Emulator) -> None:
    """Types, doubled rows and rows that contradict themselves."""
    parts = ran(project, emulator).folder / "parts"
    part = parts / "part-0000001.parquet"
    table = pq.read_table(part)
    pq.write_table(table.take([0, 1, 2, 3, 4, 5, 0]), part)
    assert "rows 1 and 7 answer the same text of the same key" in said(project)
    status = table.schema.get_field_index("_status")
    pq.write_table(table.set_column(status, "_status", [["failed"] * 6]), part)
    assert any(one.startswith("row 1 has failed and has an answer (") for one in said(project))
    pq.write_table(table.drop_columns(["_model"]), part)
    assert "the part lacks the column `_model`" in said(project)


def spoilt(journal: Path) -> None:
    """Change two replies of a journal without a care for their checksums."""
    with closing(sqlite3.connect(journal)) as db, db:
        db.execute("UPDATE reply SET body = '{' WHERE rowid = 2")
        db.execute("UPDATE reply SET key = x'00' WHERE rowid = 3")


def test_a_wrong_journal_is_found(project: Project, emulator: Emulator) -> None:
    """Bodies that do not parse, names of another length, and a file that is no database."""
    folder = ran(project, emulator).folder
    (folder / "parts" / "part-0000001.parquet").rename(folder / "gone")
    (folder / "finished.json").unlink()
    journal = folder / "replies.sqlite"
    spoilt(journal)
    assert said(project) == ["reply 2 does not match its checksum (2 of this kind: 2, 3)"]
    journal.write_bytes(b"no journal" * 1_000)
    assert said(project) == ["the journal cannot be read: file is not a database"]
    journal.unlink()
    assert said(project) == []


@pytest.mark.parametrize("needed", [True, False])
def test_status_tells_a_truncated_journal(project: Project, emulator: Emulator, *, needed: bool) -> None:
    """It says whether something is lost with it, and what that means."""
    folder = ran(project, emulator).folder
    journal = folder / "replies.sqlite"
    journal.write_bytes(journal.read_bytes()[:-4_096])
    if needed:
        (folder / "parts" / "part-0000001.parquet").unlink()
        (folder / "finished.json").unlink()
    (told,) = job_status(project.plan(), None, 0.0).damage
    assert "`replies.sqlite`" in told
    assert ("paid for again" in told, "nothing is lost" in told) == (needed, not needed)


def test_a_journal_that_is_gone_is_a_notice(project: Project, emulator: Emulator) -> None:
    """It may be deleted, so nothing is wrong; that only the parts hold the answers is worth knowing."""
    journal = ran(project, emulator).folder / "replies.sqlite"
    journal.unlink()
    verdict = verify(project)
    assert (verdict.exit_code, [one.notice for one in verdict.findings]) == (Exit.OK, [True])
    assert verdict.findings[0].what == "the journal is missing, so only the parts hold the answers"
    (told,) = job_status(project.plan(), None, 0.0).damage
    assert told.startswith("the journal (`replies.sqlite`) is missing")


def test_a_broken_mark_is_named(project: Project, emulator: Emulator) -> None:
    """Where `finished.json` cannot be read all say so, and the next run writes it anew."""
    mark = ran(project, emulator).folder / "finished.json"
    mark.write_bytes(mark.read_bytes()[:40])
    assert said(project) == ["it cannot be read"]
    (told,) = job_status(project.plan(), None, 0.0).damage
    assert told.startswith("`finished.json`")
    assert project.run(emulator.address).notes == [told]
    assert said(project) == []


def test_an_emptied_journal_is_named_by_the_next_run(project: Project, emulator: Emulator) -> None:
    """A journal of 0 bytes is set aside as one that is damaged, though no row needs it."""
    journal = ran(project, emulator).folder / "replies.sqlite"
    journal.write_bytes(b"")
    assert verify(project).findings[0].what.startswith("the journal cannot be read")
    (note,) = [one for one in project.run(emulator.address).notes if "`replies.sqlite.damaged`" in one]
    assert "the journal was damaged" in note


def cut_beside_its_log(journal: Path) -> None:
    """Leave half of a journal, and beside it a log of newer pages, with the whole index."""
    with closing(Journal(journal)) as keeping:
        for number in range(400):
            keeping.keep(b"%016d" % number, replace(ROW, key=b"%016d" % number), REPLIED)
        keeping.checkpoint()
        keeping.keep(b"i" * 16, ROW, REPLIED)  # the log is begun anew
        for number in range(400):
            keeping.keep(b"%016d" % number, ROW, REPLIED)  # so that it holds all of the index
        files = [journal, *(journal.with_name(journal.name + ending) for ending in (LOG, INDEX))]
        kept = {path: path.read_bytes() for path in files}
    for path, raw in kept.items():
        path.write_bytes(raw)
    with journal.open("r+b") as file:
        file.truncate(len(kept[journal]) // 8192 * 4096)


def test_a_journal_cut_beside_its_log_is_found(project: Project, emulator: Emulator) -> None:
    """Where the replies can be counted by what the log holds, they still cannot be read."""
    folder = ran(project, emulator).folder
    (folder / "parts" / "part-0000001.parquet").unlink()
    (folder / "finished.json").unlink()
    journal = folder / "replies.sqlite"
    cut_beside_its_log(journal)
    with closing(open_to_read(journal)) as db:
        assert db.execute("SELECT count(*) FROM reply").fetchone() == (806,)
        assert fault_at_a_glance(db, journal, most=0) == "pages at its end are missing"
    (told,) = job_status(project.plan(), None, 0.0).damage
    assert "`replies.sqlite`" in told
    (run,) = find_runs(project.folder / RUNS)
    assert (run.replies, run.shown_state) == (None, "unfinished, the journal cannot be read")
    verdict = verify(project)
    assert (verdict.exit_code, verdict.replies) == (Exit.STORE, None)
    assert "replies" not in verdict.sentences()[0]
    assert "the journal was damaged" in " ".join(project.run(emulator.address).notes)


def test_a_wrong_journal_that_nobody_needs_is_a_notice(project: Project, emulator: Emulator) -> None:
    """Where parts answer every row nothing is lost; the hint names what to do, and the next run mends it."""
    journal = ran(project, emulator).folder / "replies.sqlite"
    spoilt(journal)
    verdict = verify(project)
    assert (verdict.faults, verdict.exit_code, len(verdict.findings)) == (0, Exit.OK, 1)
    raw = bytearray(journal.read_bytes())
    raw[4_096:8_192] = b"\xff" * 4_096
    journal.write_bytes(raw)
    verdict = verify(project)
    assert (verdict.faults, verdict.exit_code) == (0, Exit.OK)
    assert "delete it" in verdict.findings[0].hint
    (note,) = [one for one in project.run(emulator.address).notes if "`replies.sqlite.damaged`" in one]
    assert "the journal was damaged" in note
    assert [one.place.name for one in verify(project).findings] == ["replies.sqlite.damaged"]


def test_what_a_kill_has_left_is_named(project: Project, emulator: Emulator) -> None:
    """Half-written files and what was set aside are named; the next run clears the first."""
    folder = ran(project, emulator).folder
    for path in (folder / "parts" / "part-0000002.parquet.77.tmp", Path(f"{project.output}.77.tmp")):
        path.write_text("half")
    assert said(project) == ["half a file", "half a table"]
    project.run(emulator.address)
    assert said(project) == []


@pytest.mark.parametrize("damage", ["answer", "page", "other"])
def test_a_damaged_cache_is_a_notice(project: Project, emulator: Emulator, damage: str) -> None:
    """The job is well without it; a job that does not use it hears nothing of it."""
    folder = ran(project, emulator).folder
    cache = folder.parent.parent / "cache.sqlite"
    raw = bytearray(cache.read_bytes())
    if damage == "answer":
        raw[raw.rindex(b'"finish"') + 1] ^= 1
    else:
        raw[-4_096 if damage == "page" else 0 :] = bytes(4_096)
    cache.write_bytes(raw)
    verdict = verify(project)
    assert verdict.exit_code is Exit.OK
    assert {(one.place, one.notice) for one in verdict.findings} == {(cache, True)}
    assert "it may be deleted" in verdict.findings[0].hint
    project.change("[output]", "[cache]\nenabled = false\n[output]")
    assert verify(project).findings == []


def test_what_was_set_aside_is_a_notice(project: Project, emulator: Emulator) -> None:
    """It is named and no inconsistency: a nightly check is not red for damage that was mended."""
    folder = ran(project, emulator).folder
    (folder / "parts" / "part-0000009.damaged").write_text("damaged")
    verdict = verify(project)
    assert [finding.what for finding in verdict.findings] == ["it was set aside because it is damaged"]
    assert (verdict.exit_code, verdict.faults) == (Exit.OK, 0)
    assert verdict.findings[0].as_json()["severity"] == "notice"
    assert verdict.sentences()[-1] == "  all is well; 1 notice"
    (folder / "parts" / "part-0000009.parquet").write_text("damaged")
    assert verify(project).exit_code is Exit.STORE


def test_replies_of_an_unfinished_job_are_counted(project: Project, emulator: Emulator) -> None:
    """With their cost: rows whose reply lies in the journal are not told as if they had to be paid for."""
    folder = ran(project, emulator).folder
    for part in (folder / "parts").glob("*.parquet"):
        part.unlink()
    (folder / "finished.json").unlink()
    verdict = verify(project)
    assert (verdict.replied, verdict.pending) == (5, 6)  # two rows are equal
    status = job_status(project.plan(), None, time.time())
    assert verdict.replied_cost_usd == status.paid.cost_usd > 0
    known = f"(5 of them have their reply already, for ${verdict.replied_cost_usd:.4f})"
    assert known in verdict.sentences()[1]
    assert known in status.sentences()[0]
    assert "all answers so far" not in " ".join(status.sentences())
    assert replace(status, replied=1).sentences()[0].count("1 of them has its reply already") == 1
    assert verdict.as_json()["replied_cost_usd"] == pytest.approx(status.paid.cost_usd)


@pytest.mark.parametrize("text", ["{", '{"row": "other"}'])
def test_a_wrong_identity_is_found(project: Project, emulator: Emulator, text: str) -> None:
    """The folder's name is the fingerprint of what stands in it."""
    identity = ran(project, emulator).folder / "identity.json"
    identity.write_text(text)
    assert len(said(project)) == 1
    assert any("`identity.damaged`" in note for note in project.run(emulator.address).notes)
    assert verify(project).exit_code is Exit.OK


def test_a_job_that_runs_or_never_ran_is_refused(project: Project, emulator: Emulator) -> None:
    """While a process writes there is nothing to hold against; without a run there is nothing at all."""
    project.rows(TEXTS)
    with pytest.raises(UsageError, match="never been run"):
        verify(project)
    ran(project, emulator)
    plan = project.plan()
    with owned(plan.folder, plan.identity), pytest.raises(StoreError, match="is running"):
        verify(project)
    project.change("Review:", "Opinion:")
    with pytest.raises(UsageError, match="`row`"):
        verify(project)


def test_many_findings_are_counted(project: Project, emulator: Emulator) -> None:
    """A table that is wrong everywhere does not fill the screen."""
    project.rows([f"good {n}" for n in range(60)])
    project.run(emulator.address)
    write(project.table().with_columns(reason=pl.lit("other")), project.output)
    assert said(project) == [
        "row 1: `reason` is not what the row's part says (60 of this kind: 1, 2, 3, 4, 5 …)"
    ]


def test_not_a_number_equals_itself(tmp_path: Path) -> None:
    """Floats that are no numbers, nested values and nulls are compared as what they are."""
    frame = pl.DataFrame({"x": [math.nan, 1.0], "y": [[1, None], None], "cost": [0.0, 0.0]})
    for name in ("one", "other"):
        frame.write_parquet(tmp_path / f"{name}.parquet")
    columns = Columns(["x", "y"], [], "cost")
    assert list(differences(tmp_path / "one.parquet", tmp_path / "other.parquet", columns)) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_full_folder_for_temporary_files_is_named(
    project: Project, emulator: Emulator, ending: str
) -> None:
    """The fault is that of TMPDIR, and nothing is said of the output."""
    project.change("out/labels.parquet", f"out/labels.{ending}")
    ran(project, emulator)
    with files_of_at_most(200), pytest.raises(StoreError) as caught:
        verify(project)
    assert tempfile.gettempdir() in caught.value.message
    assert "TMPDIR" in caught.value.hint
