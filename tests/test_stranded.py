"""Batch jobs of an emulator that ended with its run (`--offline`): their rows wait for nobody."""

import json
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.batch import ASKING, Batch, Stage
from pipeline.errors import Exit
from pipeline.executors.stranded import take_back
from pipeline.store.batches import Kept, Member, Paths, Table, open_batches_of
from pipeline.store.folder import claimed
from tests.conftest import Project
from tests.reviews import ROWS, labels
from tests.test_cli import ROOT, Shell, inherited, shell, wait_for

__all__ = ["shell"]

FLAGS = ("--offline", "--batch")


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
    said = shell("cancel", batched.job, "--yes")
    assert (said.code, "ended with the emulator of an offline run" in said.err) == (Exit.OK, True)
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
        assert (table.holder(b"id") is None, table.vain(b"id")) == (gone, 0)
        assert not table.caches()
