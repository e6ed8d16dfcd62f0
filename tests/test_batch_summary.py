"""What the summary of a run by batches says: what was submitted, what came in, and from whom."""

import shutil
import time
from datetime import timedelta

import pytest

from pipeline.batch import Stage
from pipeline.errors import Exit
from pipeline.leases import Moment
from pipeline.ledger import Ledger
from pipeline.quota import Amount, pacific_day
from pipeline.report import RunReport
from pipeline.retry import more_money
from tests.conftest import Emulator, Project
from tests.reviews import texts
from tests.test_batch_run import bill, limit, listed
from tests.test_batch_trouble import altered
from tests.test_cli import KEY, Shell, shell, wait_for

__all__ = ["shell"]  # a fixture

ROWS = 120  # enough for a first line to be asked online


@pytest.fixture
def batched(batched: Project) -> Project:
    """Return a project that asks for more rows by batches."""
    batched.rows(texts(ROWS))
    return batched


def said(report: RunReport) -> str:
    """Return the summary as one text."""
    return "\n".join(report.sentences())


def forget(project: Project) -> None:
    """Remove the run folders; the cache of all jobs stays."""
    shutil.rmtree(project.folder / ".rowmill" / "labels")


def sent(ledger: Ledger) -> int:
    """Return how many requests a ledger has counted in these two days."""
    today = pacific_day(time.time())
    return ledger.count(today) + ledger.count(today - timedelta(1))


def ended(emulator: Emulator) -> None:
    """Wait until its jobs are done."""
    emulator.change(batch_wait=0)
    wait_for(lambda: '"done":false' not in listed(emulator) and '"done":true' in listed(emulator))


def test_detached_calls_count_what_each_has_done(batched: Project, another: Emulator) -> None:
    """Rows out of the cache, out of earlier jobs and into new ones are counted once, each time anew."""
    batched.change('mode = "batch"', 'mode = "online"')
    batched.run(another.address, limit=2)
    forget(batched)
    batched.change('mode = "online"', 'mode = "batch"')
    another.change(batch_wait=60)
    first = batched.run(another.address, detach=True)
    assert (first.requests, first.asked, first.saved.cached) == (ROWS - 2, ROWS - 2, 2)
    assert f"this run: {ROWS - 2} requests in 1 batch job, not answered yet" in said(first)
    ended(another)
    another.change(batch_wait=60)
    batched.rows(texts(ROWS + 5))
    second = batched.run(another.address, detach=True)
    assert (second.requests, second.asked, second.saved.cached) == (5, 5, 0)
    assert "this run: 5 requests in 1 batch job, not answered yet" in said(second)
    third = batched.run(another.address, detach=True)
    assert (third.requests, third.asked, third.exit_code) == (0, 0, Exit.STOPPED)


def test_the_line_that_is_asked_before_a_batch_is_told_apart(batched: Project, another: Emulator) -> None:
    """It is a request of its own, for a row of its own."""
    another.change(batch_wait=60)
    report = batched.run(another.address, detach=True)
    assert f"{ROWS - 1} requests in 1 batch job and 1 request online, " in said(report)
    assert (report.requests, report.asked) == (ROWS, ROWS)


def test_the_line_that_is_asked_before_a_batch_counts_for_its_day(
    batched: Project, another: Emulator
) -> None:
    """Lines of jobs do not: the API counts them apart."""
    ledger = Ledger(None, "test")
    batched.run(another.address, ledger=ledger)
    assert bill(another) == (ROWS - 1, 1)
    assert sent(ledger) == 1


def test_no_line_is_tried_on_a_day_that_is_used_up(batched: Project, another: Emulator) -> None:
    """By whichever run; the line stands in the first job then."""
    batched.change('tier = "1"', 'tier = "1"\nrpd = 2')
    ledger = Ledger(None, "test")
    clock = lambda: Moment(time.monotonic(), pacific_day(time.time()))  # noqa: E731 - it is one expression
    ledger.lease(Amount(1), 2, [], rpd=None, clock=clock)
    assert batched.run(another.address, ledger=ledger).exit_code is Exit.OK
    assert (bill(another), sent(ledger)) == ((ROWS, 0), 2)


def test_rows_that_no_line_has_room_for_are_counted_once(batched: Project, another: Emulator) -> None:
    """A walk that ends early, since the API takes no other job, is made again over the same rows."""
    batched.rows([*texts(20), *texts(20)])
    limit(batched, requests=5)
    another.change(batch_jobs=1, batch_work=0.3)
    report = batched.run(another.address)
    assert (report.exit_code, report.saved.shared, report.table.shared) == (Exit.OK, 20, 20)


def test_what_earlier_batches_have_answered_is_told_apart(batched: Project, another: Emulator) -> None:
    """Tokens and money of jobs of earlier runs do not stand beside the requests of this one."""
    another.change(batch_wait=60)
    batched.run(another.address, detach=True, limit=50)
    ended(another)
    batched.change('mode = "batch"', 'mode = "online"')
    report = batched.run(another.address)
    billed = another.stats()["billed"]
    online, batch = billed["standard"], billed["batch"]
    assert f"{ROWS - 50} requests, {online['prompt_tokens']:,} tokens in" in said(report)
    assert f"of earlier runs: 50 rows, {batch['prompt_tokens']:,} tokens in" in said(report)
    told = report.as_json()["this_run"]
    assert isinstance(told, dict)
    assert told["earlier_batches"]["rows"] == 50
    assert told["tokens"]["prompt"] == online["prompt_tokens"] + batch["prompt_tokens"]


def test_rows_that_max_cost_holds_back_are_named(batched: Project, another: Emulator) -> None:
    """With the worst that the next request may cost, what open jobs may, and the limit itself."""
    another.change(batch_wait=60)
    batched.rows(texts(40))
    limit(batched, requests=3)
    batched.change('tier = "1"', 'tier = "1"\nmax_cost = 0.002')
    report = batched.run(another.address, detach=True)
    held = [note for note in report.notes if note.startswith("`max_cost` holds back")]
    (jobs,) = [note for note in report.notes if "open at the API" in note]
    lines = report.shipped.requests
    assert f"back {40 - lines} rows: the next request may cost up to $0.0002" in held[0]
    assert "of open jobs, more than is left of the $0.002 that the run may spend" in held[0]
    assert f"{lines} requests open at the API, estimated at no more than $0.00" in jobs
    assert report.stop is not None
    assert "left to the API" in report.stop.message


def test_jobs_that_are_left_as_was_asked_for_are_no_error(
    shell: Shell, batched: Project, another: Emulator
) -> None:
    """A call from cron says one line with `--quiet`; the exit code tells the rest."""
    another.change(batch_wait=60)
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    words = ("run", batched.job, "--detach", "--base-url", another.address)
    loud = shell(*words)
    assert (loud.code, "error" in loud.err) == (Exit.STOPPED, False)
    assert "hint: run the same command again later" in loud.err
    quiet = shell(*words, "--quiet")
    assert (quiet.code, quiet.err.strip()) == (Exit.STOPPED, "1 batch job left to the API")


def test_what_a_stopped_run_by_batches_has_spent_is_told(batched: Project, another: Emulator) -> None:
    """The error names what was spent in the end, and what the next request may cost."""
    limit(batched, requests=10)
    batched.rows(texts(60))
    batched.change('tier = "1"', 'tier = "1"\nmax_cost = 0.0006')
    report = batched.run(another.address)
    assert report.stop is not None
    assert f"the run has spent ${report.cost_usd:,.4f}, and the next request may cost" in report.stop.message
    assert not [note for note in report.notes if "holds back" in note]


def test_open_jobs_that_leave_no_money_are_in_the_hint(batched: Project, another: Emulator) -> None:
    """Else it seems that the same command had as much to spend again."""
    another.change(batch_wait=60)
    batched.rows(texts(40))
    batched.run(another.address, detach=True)
    batched.rows(texts(60))
    batched.change('tier = "1"', 'tier = "1"\nmax_cost = 0.0001')
    (held,) = [note for note in batched.run(another.address, detach=True).notes if "holds back" in note]
    assert "what open jobs may cost counts until they have ended" in held
    assert "what open batch jobs may cost counts as long as they are open" in more_money("`max_cost`", 0.0061)
    assert "batch" not in more_money("`max_cost`", 0.0)


def test_jobs_of_another_prompt_are_named_while_they_are_open(batched: Project, another: Emulator) -> None:
    """They are paid for: whoever changes the prompt is told how to collect or cancel them."""
    another.change(batch_wait=60)
    batched.rows(texts(5))
    batched.run(another.address, detach=True)
    before = batched.plan().folder.path
    batched.change("You label reviews.", "You label short reviews.")
    for _ in range(2):
        (note,) = [one for one in batched.run(another.address, detach=True).notes if before.name in one]
        assert "1 batch job with 5 requests open at the API, estimated at no more than $" in note
        assert "another `system`" in note
        assert "`rowmill cancel labels/" in note
    batched.change("You label short reviews.", "You label reviews.")
    ended(another)
    batched.run(another.address)
    batched.change("You label reviews.", "You label short reviews.")
    assert not [one for one in batched.run(another.address).notes if before.name in one]


def test_clean_says_that_open_jobs_would_be_lost(batched: Project, another: Emulator, shell: Shell) -> None:
    """Before it asks, and the folders that it keeps for that say so, too."""
    another.change(batch_wait=60)
    batched.rows(texts(5))
    batched.run(another.address, detach=True)
    runs = batched.folder / ".rowmill"
    kept = shell("clean", "--runs-dir", runs)
    assert "(unfinished, 1 batch job open)" in kept.err
    told = shell("clean", "--all", "--yes", "--runs-dir", runs)
    assert "1 batch job of these runs is open at the API" in told.err
    assert not list(runs.glob("labels/*"))


def test_a_job_that_is_too_old_says_so_and_where_its_rows_go(batched: Project, another: Emulator) -> None:
    """With the age that ended it, the tier in which the rest is asked, and how often that turned it away."""
    batched.rows(texts(5))
    limit(batched, spill="1s")
    another.change(batch_wait=60, faults=["503-shed@1-2"])
    notes = batched.run(another.address).notes
    (left,) = [note for note in notes if note.startswith("batch 1 left 5 of 5 rows without an answer: ")]
    assert "since it was older than 1 s (`batch.spill`)" in left
    assert "is asked online, in the service tier `flex`" in left
    assert [note for note in notes if note.startswith("2 requests in the service tier `flex` met a 503")]


def test_refused_calls_of_the_batch_api_are_no_requests_in_flex(batched: Project, another: Emulator) -> None:
    """A 503 to a job's creation or a look at it says nothing of a service tier."""
    batched.rows(texts(5))
    limit(batched)
    another.change(faults=["upload-start/503@1", "batch-get/503@1-2"], batch_work=0.1)
    report = batched.run(another.address)
    assert report.exit_code == 0
    assert [note for note in report.notes if "503" in note] == []


def test_a_batch_leaves_no_row_that_has_failed_for_good(batched: Project, emulator: Emulator) -> None:
    """Only what is asked again is left, and what its requests have met is told as requests."""
    emulator.change(faults=["line/400-argument@1-5", "line/503@6-8"])
    notes = batched.run(emulator.address).notes
    (left,) = [note for note in notes if note.startswith("batch 1 left")]
    assert left == f"batch 1 left 3 of {ROWS - 1} rows without an answer: 3 requests met `overloaded`"


def test_an_expired_job_is_not_said_to_be_damaged(batched: Project, another: Emulator) -> None:
    """It has no results, whatever it had answered by then."""
    another.change(batch_wait=60)
    batched.run(another.address, detach=True)
    altered(batched, stage=Stage.OVER, state="EXPIRED", told=5, results="", due=0)
    notes = batched.run(another.address).notes
    assert [note for note in notes if "without an answer: expired" in note]
    assert not [note for note in notes if "fewer answers" in note]


def test_a_job_that_was_not_created_is_not_open_at_the_api(batched: Project, another: Emulator) -> None:
    """Nobody works on it: the same command goes on with it."""
    batched.rows(texts(5))
    another.change(faults=["upload-start/400-argument@1+"])
    (note,) = batched.run(another.address).notes
    assert note == "1 batch job with 5 requests not created yet: the same command goes on there"
