"""The list of run folders, without a change to any."""

import io
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cli.folders import print_runs
from pipeline.errors import StoreError, UsageError
from pipeline.plan import RUNS
from pipeline.report import RunReport
from pipeline.runs import Run, find_runs, select, size
from pipeline.status import job_status
from pipeline.store.folder import owned
from pipeline.verify import verify_job
from tests.conftest import Emulator, Project, emulating


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator that refuses some rows."""
    with emulating("--fault", "finish-safety~<finish-safety>") as running:
        yield running


def ran(project: Project, emulator: Emulator) -> RunReport:
    """Run a job of three rows, one of which fails."""
    project.rows(["good", "<finish-safety>", "bad"])
    return project.run(emulator.address)


def listed(project: Project) -> list[Run]:
    """List all runs of the project."""
    return find_runs(project.folder / RUNS)


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file of a folder with its size and its last change."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_finished_run_is_described(project: Project, emulator: Emulator) -> None:
    """Rows, failures, replies, size and state are those of the folder, and nothing is changed."""
    report = ran(project, emulator)
    before = contents(report.folder)
    (run,) = listed(project)
    assert (run.answered, run.failed, run.replies, run.state) == (3, 1, 3, "finished")
    assert run.folder.path == report.folder
    assert run.name == f"labels/{report.folder.name}"
    assert run.model == "gemini-3.1-flash-lite"
    assert run.size == sum(number for number, _ in before.values())
    assert run.finished is not None
    assert (run.finished.ok, run.finished.failed, run.finished.output) == (2, 1, project.output)
    assert contents(report.folder) == before


@pytest.mark.parametrize("width", [None, 30, 80, 200])
def test_every_name_can_be_read(project: Project, emulator: Emulator, width: int | None) -> None:
    """Whatever the width, no name and no state is cut; where there is no terminal a run is a line."""
    project.change("labels", "labels-of-a-job-whose-name-is-long")
    ran(project, emulator)
    project.run(emulator.address, limit=2)
    (run,) = listed(project)
    out = io.StringIO()
    print_runs([run, run], out, width)
    shown = out.getvalue()
    assert shown.count(run.name) == 2
    assert " ".join(shown.split()).count("finished (first 2 rows)") == 2
    if width is None:
        assert len(shown.splitlines()) == 4
        assert all(line.strip() for line in shown.splitlines())


@pytest.mark.parametrize("width", range(34, 80, 5))
def test_a_label_stands_beside_its_value(project: Project, emulator: Emulator, width: int) -> None:
    """Lines for each run end between these, wherever that is."""
    project.change("labels", "labels-of-a-job-whose-name-is-long")
    ran(project, emulator)
    (run,) = listed(project)
    out = io.StringIO()
    print_runs([run], out, width)
    told = [line.strip().rstrip(",") for line in out.getvalue().splitlines()[1:]]
    cells = [
        f"{name} {cell}" for name, cell in run.cells().items() if name != "run" and cell not in (None, "")
    ]
    assert ", ".join(told) == ", ".join(cells)
    assert all(any(cell in line for line in told) for cell in cells)
    assert all(len(line) <= width for line in out.getvalue().splitlines()[1:])


@pytest.mark.parametrize("width", [None, 30])
def test_large_counts_can_be_read(project: Project, emulator: Emulator, width: int | None) -> None:
    """In a table and in lines thousands are set apart."""
    ran(project, emulator)
    (run,) = listed(project)
    out = io.StringIO()
    print_runs([replace(run, answered=1_500_000)], out, width)
    assert "1,500,000" in out.getvalue()


def test_a_retried_row_counts_once(project: Project, emulator: Emulator) -> None:
    """The last answer to a row is the one that counts."""
    ran(project, emulator)
    project.run(emulator.address, retry_failed=True)
    (run,) = listed(project)
    assert (run.answered, run.failed) == (3, 1)


def test_a_stopped_run_is_unfinished(project: Project, emulator: Emulator) -> None:
    """A run that begins takes the mark of the one before away, and only its end sets it again."""
    ran(project, emulator)
    project.rows(["good", "<finish-safety>", "bad", "new", "newer"])
    project.change("rpm = 600000", "rpm = 600000\nrpd = 1")
    assert project.run(emulator.address).pending == 1
    assert [run.state for run in listed(project)] == ["unfinished"]
    project.change("rpd = 1", "rpd = 9")
    project.run(emulator.address)
    assert [run.state for run in listed(project)] == ["finished"]


def test_a_run_that_is_refused_before_it_asks_changes_no_state(project: Project, emulator: Emulator) -> None:
    """What was finished stays so where the next run cannot even begin."""
    folder = ran(project, emulator).folder
    (folder / "parts" / "part-0000002.parquet").mkdir()
    project.rows(["good", "<finish-safety>", "bad", "new"])
    with pytest.raises(StoreError, match="cannot be read"):
        project.run(emulator.address)
    (folder / "parts" / "part-0000002.parquet").rmdir()
    assert [run.state for run in listed(project)] == ["finished"]


def test_a_running_run_is_seen(project: Project, emulator: Emulator) -> None:
    """While a process holds the folder the run is running, and says which process that is."""
    ran(project, emulator)
    plan = project.plan()
    with owned(plan.folder, plan.identity):
        running = {run.state: run.running for run in listed(project)}
    assert f"process {os.getpid()} " in str(running["running"])


def test_runs_of_one_job_tell_what_differs(project: Project, emulator: Emulator) -> None:
    """The newest run of a job differs in nothing, an older one in what was changed since."""
    ran(project, emulator)
    project.change("Review: {{ text }}", "Opinion: {{ text }}")
    ran(project, emulator)
    newest, older = listed(project)
    assert (newest.differs, older.differs) == ((), ("row",))
    assert find_runs(project.folder / RUNS, "other") == []


def test_a_log_that_a_kill_has_left_counts(project: Project, emulator: Emulator) -> None:
    """Replies that stand only in the journal's log are counted, too."""
    folder = ran(project, emulator).folder
    journal = folder / "replies.sqlite"
    with closing(sqlite3.connect(journal, isolation_level=None)) as db:
        columns = len(db.execute("SELECT * FROM reply LIMIT 1").fetchone())
        values = ", ".join(["randomblob(16)"] * 3 + ["0"] * (columns - 3))
        db.execute(f"INSERT INTO reply VALUES ({values})")
        assert Path(f"{journal}-wal").stat().st_size
        assert listed(project)[0].replies == 4


def test_what_cannot_be_read_is_unknown(project: Project, emulator: Emulator) -> None:
    """A damaged part or journal is no reason to show nothing."""
    folder = ran(project, emulator).folder
    (folder / "parts" / "part-0000001.parquet").write_bytes(b"no part")
    (folder / "replies.sqlite").write_bytes(b"no journal" * 1_000)
    (folder / "identity.json").write_text("{")
    (run,) = listed(project)
    assert (run.answered, run.failed, run.replies, run.model) == (0, 0, None, "?")
    assert (run.state, run.shown_state) == (
        "damaged",
        "damaged, `identity.json` cannot be read, 1 part cannot be read, the journal cannot be read",
    )


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (None, "is missing"),
        ("{", "cannot be read"),
        ('{"row": "x"}', "is not the identity of this folder"),
    ],
)
def test_a_run_without_its_identity_is_damaged(
    project: Project, emulator: Emulator, text: str | None, fault: str
) -> None:
    """It is listed, every command says the same of it, and the next run mends it and says so."""
    identity = ran(project, emulator).folder / "identity.json"
    identity.unlink() if text is None else identity.write_text(text)
    (run,) = listed(project)
    assert (run.state, run.shown_state) == ("damaged", f"damaged, `identity.json` {fault}")
    status = job_status(project.plan(), None, 0.0)
    assert (status.pending, status.differs) == (0, [])
    assert f"`identity.json`, which names what was asked here, {fault}" in "\n".join(status.sentences())
    (finding,) = verify_job(project.plan()).findings
    assert finding.what == f"it {fault}"
    assert finding.hint.startswith("`rowmill run JOB` ")
    assert ("aside" in finding.hint) is (text is not None)
    (note,) = project.run(emulator.address).notes
    assert "written anew" in note
    assert [run.state for run in listed(project)] == ["finished"]


def test_other_folders_are_no_runs(tmp_path: Path) -> None:
    """A folder without an identity and answers, with another name, or a link is not listed."""
    (tmp_path / "job" / "0123456789ab").mkdir(parents=True)
    (tmp_path / "job" / "notes").mkdir()
    (tmp_path / "job" / "notes" / "identity.json").write_text("{}")
    assert find_runs(tmp_path) == []
    (tmp_path / "job" / "0123456789ab" / "identity.json").write_text("{}")
    (tmp_path / "job" / "ba9876543210").symlink_to(tmp_path / "job" / "0123456789ab")
    assert [run.name for run in find_runs(tmp_path)] == ["job/0123456789ab"]
    assert find_runs(tmp_path / "missing") == []


def test_a_run_is_named_by_its_beginning(project: Project, emulator: Emulator) -> None:
    """The beginning of a name is enough where it fits one run only; a job stands for all of its runs."""
    ran(project, emulator)
    found = listed(project)
    assert select(found, found[0].name[:10]) == found
    assert select(found * 2, "labels") == found * 2
    for name in ("label", "labels/zz", ""):
        with pytest.raises(UsageError, match="names no run"):
            select(found, name)
    with pytest.raises(UsageError, match="more than one"):
        select(found * 2, found[0].name)


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (12_345_678, "12.3 MB"), (5 * 10**15, "5000.0 TB")],
)
def test_sizes_for_people(number: int, shown: str) -> None:
    """Bytes in powers of a thousand."""
    assert size(number) == shown
