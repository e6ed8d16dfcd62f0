"""Batch jobs of an emulator that has ended, with its run (`--offline`) or not: their rows wait for nobody."""

import io
import json
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.batch import ASKING, Batch, Pace, Stage, Vain
from pipeline.errors import Exit
from pipeline.executors.stranded import take_back
from pipeline.store.batches import Kept, Member, Paths, Table, open_batches_of
from pipeline.store.folder import claimed
from tests.conftest import Emulator, Project, emulating
from tests.reviews import ROWS, labels
from tests.test_batch_trouble import altered
from tests.test_cli import KEY, ROOT, Shell, inherited, shell, wait_for

__all__ = ["shell"]

FLAGS = ("--offline", "--batch")
PATIENT = Pace(first=0.02, longest=0.2, settle=600.0)  # what another look decides would take minutes


def started_and_ended(project: Project, by: signal.Signals) -> str:
    """End an offline run by a signal while its job is open; return what it said."""
    command = [sys.executable, "-m", "pipeline", "run", str(project.job), *FLAGS]
    folder = project.plan("emulator").folder.path
    with (
        inherited(signal.SIGINT, signal.SIG_DFL),
        subprocess.Popen(command, cwd=ROOT, stderr=-1, text=True) as process,
    ):
        wait_for(lambda: [batch.stage for batch in open_batches_of(folder)] == [Stage.CREATED])
        process.send_signal(by)
        return process.communicate(timeout=30)[1]


def test_a_killed_offline_run_goes_on_at_once(shell: Shell, batched: Project) -> None:
    """The same command takes the rows back, says so, and answers every one."""
    started_and_ended(batched, signal.SIGKILL)
    said = shell("run", batched.job, *FLAGS)
    assert (said.code, batched.table()["label"].to_list()) == (Exit.OK, labels())
    assert f"ended with the emulator of an earlier run (`--offline`): its {ROWS} rows" in said.err


def test_an_offline_run_that_is_stopped_promises_nothing(shell: Shell, batched: Project) -> None:
    """Its jobs end with it; an online run takes their rows, too."""
    said = started_and_ended(batched, signal.SIGINT)
    assert "1 batch job with 60 requests ends with the emulator of this run" in " ".join(said.split())
    assert shell("run", batched.job, "--offline", "--online").code == Exit.OK
    assert batched.table()["label"].to_list() == labels()


def test_cancel_frees_the_rows_of_an_offline_run(shell: Shell, batched: Project) -> None:
    """Without a key, since there is nobody to ask."""
    started_and_ended(batched, signal.SIGKILL)
    assert "ended with the emulator" in shell("status", batched.job, *FLAGS).out
    shell.monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert shell("cancel", batched.job).code == Exit.BAD_INPUT  # nobody is there to ask
    assert open_batches_of(batched.plan("emulator").folder.path)
    said = shell("cancel", batched.job, "--yes")
    assert (said.code, "ended with the emulator of an offline run" in said.err) == (Exit.OK, True)
    assert "taken back: 1 batch job with 60 requests" in said.err
    assert not open_batches_of(batched.plan("emulator").folder.path)


def test_an_estimate_counts_the_rows_of_an_offline_run_that_was_killed(
    shell: Shell, batched: Project
) -> None:
    """As the next run asks for them; a run that goes on still has its emulator."""
    started_and_ended(batched, signal.SIGKILL)
    found = json.loads(shell("estimate", batched.job, *FLAGS, "--json").out)
    assert (found["batch_jobs"], found["enqueued"]) == (0, 0)
    assert found["prompts"] + found["replied"] == ROWS
    with claimed(batched.plan("emulator").folder):
        found = json.loads(shell("estimate", batched.job, *FLAGS, "--json").out)
    assert (found["batch_jobs"], found["enqueued"]) == (1, ROWS - found["replied"])


def test_cancel_leaves_an_offline_run_alone_that_goes_on(shell: Shell, batched: Project) -> None:
    """Its emulator has the job still; the command says who runs there."""
    started_and_ended(batched, signal.SIGKILL)
    with claimed(batched.plan("emulator").folder):
        said = shell("cancel", batched.job, "--yes")
    assert (said.code, "this job is already running" in said.err) == (Exit.STORE, True)
    assert open_batches_of(batched.plan("emulator").folder.path)
    assert shell("cancel", batched.job, "--yes").code == Exit.OK
    assert "nothing to cancel" in shell("cancel", batched.job, "--yes").err


@pytest.mark.parametrize("stage", ASKING)
def test_only_results_on_this_disk_are_kept(tmp_path: Path, stage: Stage) -> None:
    """Whatever else a job was waiting for is gone, and so are its cache and its file of lines."""
    paths = Paths(tmp_path)
    lines = paths.lines(1)
    lines.parent.mkdir()
    lines.touch()
    with closing(Table(paths.table)) as table:
        table.put(Batch(1, "one", stage, lines=1, rows=1, job="batches/1", cache="cachedContents/1"))
        table.add(1, 0, [Member(b"id", b"key", b"digest", 4, "")])
        table.keep(Kept("cachedContents/1", "mine", 1_100, time.time() + 900, time.time()))
        lost = take_back(table, paths, lambda _id: False)
        gone = stage is not Stage.FETCHED
        assert (len(lost), bool(table.open()), lines.exists()) == (gone, not gone, not gone)
        assert (table.holder(b"id") is None, table.vain(b"id")) == (gone, Vain())
        assert not table.caches()


def left_to_the_first(project: Project) -> int:
    """Leave a job to an emulator that ends then; return the port at which it has listened."""
    with emulating("--tier", "paid", "--batch-wait", "600") as first:
        project.run(first.address, detach=True)
    return int(first.address.rpartition(":")[2])


def goes_on(project: Project, second: Emulator) -> None:
    """Check that a run answers every row by another emulator, and says so."""
    report = project.run(second.address, pace=PATIENT, detach=True)
    assert any("another answers at its address" in note for note in report.notes), report.notes
    report = project.run(second.address, pace=PATIENT)
    assert (report.exit_code, project.table()["label"].to_list()) == (Exit.OK, labels())


@pytest.mark.parametrize("stage", [Stage.CREATED, Stage.CANCELLING, Stage.OVER])
def test_an_emulator_that_was_started_again_has_no_jobs(batched: Project, stage: Stage) -> None:
    """Their rows are asked again at once, though the API would be asked twice and keeps results for days."""
    port = left_to_the_first(batched)
    altered(batched, stage=stage, results="files/of-the-first", spilled=stage is Stage.CANCELLING, due=0.0)
    with emulating("--tier", "paid", "--port", str(port)) as second:
        goes_on(batched, second)


def test_a_job_that_an_emulator_alone_has_lost_is_looked_for_twice(batched: Project) -> None:
    """The same process answers: it may err as the API may."""
    with emulating("--tier", "paid", "--batch-wait", "600") as emulator:
        batched.run(emulator.address, detach=True)
        altered(batched, job="batches/of-somebody", due=0.0)
        batched.run(emulator.address, pace=PATIENT, detach=True)
    (batch,) = open_batches_of(batched.plan().folder.path)
    assert (batch.stage, batch.state) == (Stage.CREATED, "GONE")


def test_cancel_takes_back_what_an_emulator_had_that_was_started_again(
    shell: Shell, batched: Project
) -> None:
    """It is not told to try another key."""
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    port = left_to_the_first(batched)
    with emulating("--tier", "paid", "--port", str(port)) as second:
        said = shell("cancel", batched.job, "--base-url", second.address, "--yes")
    assert (said.code, "ended with their emulator, and taken back: 1 batch job" in said.err) == (
        Exit.OK,
        True,
    )
    assert not open_batches_of(batched.plan().folder.path)
