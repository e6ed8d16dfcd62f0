"""`rowmill cancel`: open batch jobs are given up, and nothing that they have answered is."""

import io
import json
import time
from dataclasses import replace

import pytest

from pipeline.batch import Stage, room
from pipeline.errors import Exit
from pipeline.models import Limits
from pipeline.status import job_status
from pipeline.store.batches import Paths, Table, open_batches_of
from pipeline.store.folder import claimed
from pipeline.verify import verify_job
from tests.conftest import QUICK, Emulator, Project
from tests.reviews import ROWS, labels
from tests.test_batch_run import bill, limit, listed
from tests.test_batch_trouble import altered
from tests.test_cli import KEY, Shell, shell, started, wait_for

__all__ = ["shell"]


@pytest.fixture
def cancelling(shell: Shell, batched: Project, another: Emulator) -> Shell:
    """Return the command in a project with an open job, whose answers are long in coming."""
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    another.change(batch_wait=600)
    batched.run(another.address, detach=True)
    return shell


def cancel(shell: Shell, project: Project, emulator: Emulator, *flags: str) -> tuple[int, str]:
    """Call it; return its exit code and what it said."""
    found = shell("cancel", project.job, "--base-url", emulator.address, *flags)
    return found.code, found.err


def test_rows_of_a_cancelled_job_are_asked_in_another(
    cancelling: Shell, batched: Project, another: Emulator
) -> None:
    """By whichever way the next run asks, and each of them once; doing it again does no harm."""
    code, said = cancel(cancelling, batched, another, "--yes")
    assert code == Exit.OK
    assert "1 batch job with 60 requests, estimated at no more than $" in said
    assert "cancelled: 1 batch job with 60 requests" in said
    assert f"hint: `rowmill run {batched.job}`, with the settings that it had, takes in what" in said
    status = "\n".join(job_status(batched.plan(), None, time.time()).sentences())
    assert "open at the API (1 cancelling), the oldest" in status  # it had not begun, and costs nothing
    assert cancel(cancelling, batched, another, "--yes")[0] == Exit.OK
    another.change(batch_wait=0)
    report = batched.run(another.address)
    assert (report.exit_code, bill(another)) == (Exit.OK, (ROWS, 0))
    assert another.stats()["operations"]["batch-create"] == 2
    assert batched.table()["label"].to_list() == labels()


def test_an_estimate_asks_the_rows_of_a_cancelled_job(
    cancelling: Shell, batched: Project, another: Emulator
) -> None:
    """All of them: nobody knows yet what it has answered."""
    batched.run(another.address, detach=True, endpoint=another.address)
    cancel(cancelling, batched, another, "--yes")
    words = ("estimate", batched.job, "--base-url", another.address)
    found = json.loads(cancelling(*words, "--json").out)
    assert (found["prompts"], found["batch_jobs"], found["enqueued"]) == (ROWS, 0, 0)
    assert (found["cancelled_jobs"], found["cancelled"]) == (1, ROWS)
    assert found["ways"][0]["cost_usd"]["expected"] > 0
    said = cancelling(*words).out
    assert f"1 batch job with {ROWS} prompts is being cancelled: they are counted below" in said
    assert "nothing is left to ask" not in said


def test_what_a_cancelled_job_has_answered_is_taken_in(
    cancelling: Shell, batched: Project, another: Emulator
) -> None:
    """The next run asks only what had no answer."""
    another.change(batch_wait=0, batch_work=20)
    wait_for(lambda: bill(another)[0] > 5)
    assert cancel(cancelling, batched, another, "--yes")[0] == Exit.OK
    wait_for(lambda: '"done":true' in listed(another))
    answered = bill(another)[0]
    batched.change('mode = "batch"', 'mode = "online"')
    report = batched.run(another.address)
    assert (report.exit_code, bill(another)) == (Exit.OK, (answered, ROWS - answered))
    assert batched.table()["_cost_usd"].sum() == pytest.approx(report.cost_usd, abs=1e-12)


def test_nothing_is_cancelled_without_a_yes(cancelling: Shell, batched: Project, another: Emulator) -> None:
    """With nobody to ask it ends with 2."""
    cancelling.monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, said = cancel(cancelling, batched, another)
    assert (code, "--yes" in said) == (Exit.BAD_INPUT, True)
    assert "batch-cancel" not in another.stats()["operations"]


def test_a_job_that_has_ended_is_no_error(cancelling: Shell, batched: Project, another: Emulator) -> None:
    """It is left to the next run, and there is nothing to cancel after that."""
    another.change(batch_wait=0)
    wait_for(lambda: '"done":true' in listed(another))
    code, said = cancel(cancelling, batched, another, "--yes")
    assert (code, "had ended before: 1 batch job" in said) == (Exit.OK, True)
    assert "nothing to cancel" in cancel(cancelling, batched, another, "--yes")[1]
    report = batched.run(another.address)
    assert (report.exit_code, report.requests, bill(another)) == (Exit.OK, 0, (ROWS, 0))


def test_an_api_that_does_not_answer_is_named_at_once(
    cancelling: Shell, batched: Project, another: Emulator
) -> None:
    """Nobody sits before a silent command; the first attempt says that there will be others."""
    another.change(faults=["batch-get/503@1"])
    code, said = cancel(cancelling, batched, another, "--yes")
    assert (code, said.count("does not answer, and is asked again for up to 60 s: ")) == (Exit.OK, 1)
    assert "cancelled: 1 batch job" in said


@pytest.mark.parametrize("fault", ["batch-cancel/hang", "batch-cancel/done-hang"])
def test_a_kill_while_a_job_is_cancelled_loses_nothing(
    cancelling: Shell, batched: Project, another: Emulator, fault: str
) -> None:
    """Whether the API has heard of it or not: the next run asks again, however much later it comes."""
    another.change(faults=[f"{fault}@1"])
    with started(batched, another, "--yes", command="cancel") as process:
        wait_for(lambda: fault in another.stats()["held"])
        process.kill()
        process.communicate()
    another.change(faults=[])
    batch = altered(batched, since=time.time() - 2 * QUICK.patience)
    assert (batch.stage, batch.withdrawn) == (Stage.CANCELLING, True)
    assert not verify_job(batched.plan()).findings
    report = batched.run(another.address, detach=True)
    wait_for(lambda: "BATCH_STATE_CANCELLED" in listed(another))
    another.change(batch_wait=0)
    report = batched.run(another.address)
    assert (report.exit_code, bill(another)) == (Exit.OK, (ROWS, 0))
    assert not any("billed twice" in note for note in report.notes)


def test_a_job_that_was_never_created_is_dropped(shell: Shell, batched: Project, another: Emulator) -> None:
    """Its rows are free for the next run at once."""
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    limit(batched, requests=40)
    another.change(faults=["batch-create/400-argument@1+"])
    batched.run(another.address)
    another.change(faults=[])
    code, said = cancel(shell, batched, another, "--yes")
    assert (code, "not created yet, and dropped: 1 batch job" in said) == (Exit.OK, True)
    assert not open_batches_of(batched.plan().folder.path)
    assert not verify_job(batched.plan()).findings
    assert batched.run(another.address).exit_code is Exit.OK
    assert bill(another) == (ROWS, 0)


@pytest.mark.parametrize("ahead", [0.0, 86_400.0])
def test_a_creation_that_nobody_knows_of_is_looked_for(
    shell: Shell, batched: Project, another: Emulator, ahead: float
) -> None:
    """A killed run may have created the job: it is found by its name and cancelled, by whatever clock."""
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    killed_in_creation(batched, another, 1)
    if ahead:  # the clock was set back since
        then = time.time() + ahead
        altered(batched, another.address, since=then, due=then)
    another.change(faults=[])
    code, said = cancel(shell, batched, another, "--yes")
    assert (code, "cancelled: 1 batch job" in said) == (Exit.OK, True)
    another.change(batch_wait=0)
    assert batched.run(another.address, endpoint=another.address).exit_code is Exit.OK
    assert bill(another) == (ROWS, 0)


def test_a_run_that_is_going_on_keeps_no_other_job_open(
    cancelling: Shell, batched: Project, another: Emulator
) -> None:
    """It is named, and the jobs of the job's other run folders are cancelled."""
    first = batched.plan().folder
    batched.change("You label reviews.", "You label opinions.")
    batched.run(another.address, detach=True)
    for folder in (first, batched.plan().folder):
        with claimed(folder):
            code, said = cancel(cancelling, batched, another, "--yes")
        assert (code, f"{folder.path.name}: this job is already running" in said) == (Exit.STORE, True)
    assert listed(another).count("BATCH_STATE_CANCELLED") == 2


@pytest.mark.parametrize("at", [0, 1])
def test_of_several_runs_the_most_serious_code_is_told(
    cancelling: Shell, batched: Project, another: Emulator, at: int
) -> None:
    """Whichever run comes last; each message has the name of its run."""
    folders = [batched.plan().folder]
    batched.change("You label reviews.", "You label opinions.")
    batched.run(another.address, detach=True)
    folders.append(batched.plan().folder)
    altered(batched, job="batches/of-somebody")
    if at:
        batched.change("You label opinions.", "You label reviews.")
        altered(batched, job="batches/of-somebody")
        folders.reverse()
    with claimed(folders[0]):
        code, said = cancel(cancelling, batched, another, "--yes")
    assert code == Exit.REFUSED
    assert f"{folders[1].path.name}: the API knows no job `batches/of-somebody`" in said


def killed_in_creation(project: Project, emulator: Emulator, times: int) -> None:
    """Kill a run when the API has created its job, and it has not heard of that; it is the `times`th."""
    fault = "batch-create/done-hang"
    emulator.change(batch_wait=600, faults=[f"{fault}@{times}"])
    with started(project, emulator) as process:
        wait_for(lambda: emulator.stats()["held"].get(fault) == times)
        process.kill()
        process.communicate()


def test_a_job_that_was_created_twice_is_cancelled_twice(
    shell: Shell, batched: Project, another: Emulator
) -> None:
    """Two killed runs may have created it, where the list had it too late for the second."""
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    killed_in_creation(batched, another, 1)
    altered(batched, another.address, stage=Stage.UPLOADED)
    killed_in_creation(batched, another, 2)
    another.change(faults=[])
    assert cancel(shell, batched, another, "--yes")[0] == Exit.OK
    assert listed(another).count("BATCH_STATE_CANCELLED") == 2


def test_a_job_that_the_api_does_not_know_is_named(
    cancelling: Shell, batched: Project, another: Emulator
) -> None:
    """The key may be another one; the table stays as it is."""
    altered(batched, job="batches/of-somebody")
    code, said = cancel(cancelling, batched, another, "--yes")
    assert code == Exit.REFUSED
    assert "knows no job `batches/of-somebody`" in said
    assert "GEMINI_API_KEY" in said
    assert [batch.stage for batch in open_batches_of(batched.plan().folder.path)] == [Stage.CREATED]


def test_a_cancelled_job_may_hold_its_tokens(cancelling: Shell, batched: Project, another: Emulator) -> None:
    """As one that was given up for its age: the API was seen to count it for two days."""
    cancel(cancelling, batched, another, "--yes")
    table = Table(Paths(batched.plan().folder.path).table)
    (batch,) = table.all()
    table.close()
    over = replace(batch, stage=Stage.CLOSED, state="CANCELLED")
    assert room([over], Limits(batch_tokens=10**6), None, over.since + 60).tokens == 10**6 - over.tokens
