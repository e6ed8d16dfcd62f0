"""Runs that ask by the Batch API, against the emulator's own bill."""

import json
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.batch import Stage
from pipeline.errors import Exit, JobError, StoreError
from pipeline.job import load_job
from pipeline.plan import Plan, check_batches, check_job
from pipeline.removal import Choice
from pipeline.runs import find_runs
from pipeline.status import job_status
from pipeline.store.batches import Paths, Table, open_batches_of
from pipeline.verify import verify_job
from tests.conftest import TODAY, Emulator, Project
from tests.reviews import ROWS, labels, texts, word
from tests.test_cli import started, wait_for


def limit(project: Project, **keys: object) -> None:
    """Set keys of [batch]."""
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in keys.items())
    project.change("[output]", f"[batch]\n{lines}\n\n[output]")


def bill(emulator: Emulator) -> tuple[int, int]:
    """Return how many answers were paid for in batches and one by one."""
    told = emulator.stats()["billed"]
    online = sum(tier["answered"] for name, tier in told.items() if name != "batch")
    return told.get("batch", {}).get("answered", 0), online


def listed(emulator: Emulator) -> str:
    """Return the list of jobs as the emulator gives it."""
    url = urllib.request.Request(f"{emulator.address}/v1beta/batches", headers={"x-goog-api-key": "any"})
    with urllib.request.urlopen(url) as answer:
        return str(answer.read(), "utf-8")


def open_batches(project: Project, endpoint: str = "test") -> list[Stage]:
    """Return the stages of all batches of the run folder."""
    table = Table(Paths(project.plan(endpoint).folder.path).table)
    try:
        return [batch.stage for batch in table.all()]
    finally:
        table.close()


def test_a_batch_costs_half_and_answers_every_row(batched: Project, emulator: Emulator) -> None:
    """Each row has its own answer at half of the price, and the sums are those of the bill."""
    report = batched.run(emulator.address)
    table = batched.table()
    assert report.exit_code is Exit.OK
    assert table["label"].to_list() == labels()
    assert bill(emulator) == (ROWS, 0)
    assert table["_prompt_tokens"].sum() == emulator.stats()["billed"]["batch"]["prompt_tokens"]
    usd = (report.usage.prompt * 0.25 + report.usage.output * 1.5) / 2 / 1e6
    assert table["_cost_usd"].sum() == pytest.approx(usd, abs=1e-12)
    assert report.cost_usd == pytest.approx(usd, abs=1e-12)
    assert set(table["_attempts"]) == {1}


def test_the_same_command_again_asks_nothing(batched: Project, emulator: Emulator) -> None:
    """A finished job makes neither a file nor a job."""
    batched.run(emulator.address)
    before = emulator.stats()["operations"]
    report = batched.run(emulator.address)
    assert report.requests == 0
    assert emulator.stats()["operations"] == before


def test_equal_prompts_are_one_line(batched: Project, emulator: Emulator) -> None:
    """Rows with keys of their own and one text share a line, also beyond the borders of a job."""
    batched.rows([f"good {word(n % 10)}" for n in range(ROWS)])
    limit(batched, requests=7)
    report = batched.run(emulator.address)
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (10, 0))
    assert (batched.table()["_source"] == "cache").sum() == ROWS - 10


def test_rows_are_put_into_several_jobs(batched: Project, emulator: Emulator) -> None:
    """No job holds more requests than it may, and their files are gone afterwards, here and there."""
    limit(batched, requests=25)
    assert batched.run(emulator.address).exit_code is Exit.OK
    told = emulator.stats()["operations"]
    assert (told["batch-create"], told["file-delete"]) == (3, 6)
    assert open_batches(batched) == [Stage.CLOSED] * 3
    assert not list((batched.plan().folder.path / "batches").iterdir())


def test_later_jobs_are_packed_like_the_first(
    batched: Project, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What answers of the first took is learned by row, so that a pack of twenty stays one."""
    batched.rows(texts(600))
    batched.change("[output]", "[packing]\nrows = 20\noutput_tokens = 2_100\n\n[output]")
    whole = Project.plan

    def narrow(project: Project, endpoint: str = "test", *, limit: int | None = None) -> Plan:
        plan = whole(project, endpoint, limit=limit)
        limits = replace(plan.checked.limits, batch_tokens=6_000)
        return replace(plan, checked=replace(plan.checked, limits=limits))

    monkeypatch.setattr(Project, "plan", narrow)
    assert batched.run(emulator.address).exit_code is Exit.OK
    assert emulator.stats()["operations"]["batch-create"] > 2
    packs = batched.table()["_pack"]
    assert packs.min() == 20, packs.value_counts()


@pytest.mark.parametrize("fault", [None, "line/pack-missing%0.5", "line/pack-cut%0.5", "line/badjson%0.5"])
def test_lines_hold_packs(batched: Project, emulator: Emulator, fault: str | None) -> None:
    """Twenty rows share a line; what a damaged answer leaves out is asked again, and sums stay exact."""
    batched.change("[output]", "[packing]\nrows = 20\n\n[output]")
    emulator.change(faults=[fault] if fault else [])
    report = batched.run(emulator.address)
    table = batched.table()
    assert (report.exit_code, table["label"].to_list()) == (Exit.OK, labels())
    assert table["_prompt_tokens"].sum() == report.usage.prompt
    assert table["_cost_usd"].sum() == pytest.approx(report.cost_usd, abs=1e-12)
    assert fault or (report.requests, set(table["_pack"])) == (3, {20})


def test_an_error_line_in_a_successful_job_is_a_failed_row(batched: Project, emulator: Emulator) -> None:
    """A refusal of one line is final for its row; the others keep their answers."""
    emulator.change(faults=[f"line/400-argument~{word(7)}"])
    report = batched.run(emulator.address)
    kinds = batched.table()["_error_kind"].to_list()
    assert report.exit_code is Exit.ROWS_FAILED
    assert kinds == [None if n != 7 else "bad_request" for n in range(ROWS)]
    assert bill(emulator) == (ROWS - 1, 0)


def test_an_error_that_passes_is_asked_again(batched: Project, emulator: Emulator) -> None:
    """A line that met a fault of the server is asked again by itself, since a few are worth no job."""
    emulator.change(faults=["line/500@1-3"])
    report = batched.run(emulator.address)
    assert (report.exit_code, batched.table()["label"].to_list()) == (Exit.OK, labels())
    assert bill(emulator) == (ROWS - 3, 3)


def test_many_that_are_asked_again_are_another_job(batched: Project, emulator: Emulator) -> None:
    """More than a few go into a batch again."""
    batched.rows(texts(200))
    emulator.change(faults=["line/503@1-90"])
    assert batched.run(emulator.address).exit_code is Exit.OK
    assert bill(emulator) == (199, 1)
    assert emulator.stats()["operations"]["batch-create"] == 2


def test_a_job_that_fails_gives_its_rows_back(batched: Project, emulator: Emulator) -> None:
    """What failed as a whole was not billed, and is asked again."""
    batched.rows(texts(80))
    emulator.change(faults=["batch/fail@1"])
    report = batched.run(emulator.address)
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (80, 0))
    assert any("failed" in note for note in report.notes)


def test_an_expired_job_is_asked_one_by_one(batched: Project, emulator: Emulator) -> None:
    """After two days without any result nobody waits for another batch."""
    emulator.change(faults=["batch/stuck@1"], batch_expiry=0.5)
    report = batched.run(emulator.address)
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (0, ROWS))


def test_when_every_line_is_refused_the_run_stops(batched: Project, emulator: Emulator) -> None:
    """A request that the API refuses whatever the row is no failure of the rows."""
    emulator.change(faults=["line/400-argument@1+"])
    report = batched.run(emulator.address)
    assert (report.exit_code, report.pending) == (Exit.REFUSED, ROWS)
    emulator.change(faults=[])
    assert batched.run(emulator.address).exit_code is Exit.OK


def test_detached_runs_pick_up_where_the_jobs_stand(batched: Project, emulator: Emulator) -> None:
    """A run may leave; a later one finds the job and pays for nothing twice."""
    emulator.change(batch_wait=60)
    first = batched.run(emulator.address, detach=True)
    assert (first.exit_code, first.pending, first.stop is not None) == (Exit.STOPPED, ROWS, True)
    again = batched.run(emulator.address, detach=True)
    assert (again.exit_code, again.requests) == (Exit.STOPPED, 0)
    emulator.change(batch_wait=0)
    last = batched.run(emulator.address)
    assert (last.exit_code, bill(emulator)) == (Exit.OK, (ROWS, 0))
    assert emulator.stats()["operations"]["batch-create"] == 1


def test_a_grown_input_asks_only_what_no_open_job_asks(batched: Project, emulator: Emulator) -> None:
    """Rows that were added while a job is open become a job of their own."""
    emulator.change(batch_wait=60)
    batched.run(emulator.address, detach=True)
    batched.rows(["good and first", *texts()])
    second = batched.run(emulator.address, detach=True)
    assert second.requests == 1
    emulator.change(batch_wait=0)
    assert batched.run(emulator.address).exit_code is Exit.OK
    assert bill(emulator) == (ROWS + 1, 0)


def test_an_online_run_takes_in_what_is_open(batched: Project, emulator: Emulator) -> None:
    """Changing the mode while a job is open asks the others one by one, and never the same row twice."""
    emulator.change(batch_wait=60)
    batched.run(emulator.address, detach=True, limit=20)
    batched.change('mode = "batch"', 'mode = "online"')
    emulator.change(batch_wait=0)
    assert batched.run(emulator.address).exit_code is Exit.OK
    assert bill(emulator) == (20, ROWS - 20)


def test_no_room_for_another_job_is_waited_for(batched: Project, emulator: Emulator) -> None:
    """A 429 on creation holds up the next job until one has ended; nothing is lost or doubled."""
    limit(batched, requests=20)
    emulator.change(batch_jobs=1, batch_work=0.3)
    report = batched.run(emulator.address)
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (ROWS, 0))
    assert emulator.stats()["operations"]["batch-create"] > 3


def test_the_cost_limit_counts_open_jobs(batched: Project, emulator: Emulator) -> None:
    """No job is submitted that may cost more than is left; what is open counts with its estimate."""
    limit(batched, requests=10)
    batched.change('tier = "1"', 'tier = "1"\nmax_cost = 0.0006')
    report = batched.run(emulator.address)
    assert (report.exit_code, report.stop is not None) == (Exit.STOPPED, True)
    assert 0 < report.cost_usd <= 0.0006
    assert 0 < report.pending < ROWS


def test_no_line_is_tried_online_for_which_there_is_no_money(batched: Project, another: Emulator) -> None:
    """As standard it costs twice as much as in a batch, where it is still asked."""
    batched.rows(texts(120))
    batched.change("[model]", '[model]\nservice_tier = "standard"')
    batched.change('tier = "1"', 'tier = "1"\nmax_cost = 0.00017')
    batched.run(another.address)
    assert bill(another) == (1, 0)


def test_no_job_may_cost_more_than_the_limit(batched: Project, another: Emulator) -> None:
    """Before any answer has come, each line counts as if it used all the output tokens that it may."""
    another.change(batch_wait=60)
    limit(batched, requests=3)
    batched.change('tier = "1"', 'tier = "1"\nmax_cost = 0.002')
    report = batched.run(another.address, detach=True)
    table = Table(Paths(report.folder).table)
    lines = sum(batch.lines for batch in table.all())
    table.close()
    assert 3 < lines <= 0.002 / (200 * 0.75e-6)
    another.change(batch_wait=0)
    assert batched.run(another.address).exit_code is Exit.OK


def test_a_result_that_is_cut_is_fetched_again(batched: Project, emulator: Emulator) -> None:
    """Half a file is no file."""
    emulator.change(faults=["file-download/cut@1"])
    assert batched.run(emulator.address).exit_code is Exit.OK
    assert bill(emulator) == (ROWS, 0)


STEPS = ["upload-start", "upload-bytes", "batch-create", "batch-get", "file-download", "file-delete"]


@pytest.mark.parametrize("fault", [f"{step}/{kind}" for step in STEPS for kind in ("503", "done-reset")])
def test_a_fault_at_any_step_costs_nothing(batched: Project, emulator: Emulator, fault: str) -> None:
    """Each call may fail before or after it was done; creation is found again and not repeated."""
    emulator.change(faults=[f"{fault}@1"])
    report = batched.run(emulator.address)
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (ROWS, 0))
    assert batched.table()["label"].to_list() == labels()


@pytest.mark.parametrize("fault", ["upload-bytes/done-hang", "batch-create/hang", "batch-create/done-hang"])
def test_a_kill_neither_loses_nor_doubles_a_job(batched: Project, emulator: Emulator, fault: str) -> None:
    """Killed while the API has done a step and has not said so, the next run finds out."""
    emulator.change(faults=[f"{fault}@1"])
    with started(batched, emulator) as process:
        wait_for(lambda: fault in emulator.stats()["held"])
        process.kill()
        process.communicate()
    emulator.change(faults=[])
    report = batched.run(emulator.address, endpoint=emulator.address)
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (ROWS, 0))
    assert batched.table()["label"].to_list() == labels()


@pytest.mark.parametrize("keeps", [True, False])
def test_what_is_late_is_cancelled_and_asked_one_by_one(
    batched: Project, emulator: Emulator, keeps: bool
) -> None:
    """A job older than `spill` is cancelled; what it has answered is taken, the rest is asked online."""
    emulator.change(batch_wait=60, cancel_keeps=keeps)
    limit(batched, spill="1m")
    batched.run(emulator.address, detach=True)
    folder = Paths(batched.plan().folder.path)
    table = Table(folder.table)
    (batch,) = table.open()
    table.put(replace(batch, planned=batch.planned - 120))
    table.close()
    report = batched.run(emulator.address)
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (0, ROWS))
    assert emulator.stats()["operations"]["batch-cancel"] >= 1


@pytest.mark.parametrize("ends", [True, False])
def test_a_cancelled_job_is_looked_at_before_it_is_given_up(
    batched: Project, another: Emulator, ends: bool
) -> None:
    """A run that comes back long after it has cancelled a job takes what that has answered since."""
    another.change(batch_wait=600, faults=["batch-cancel/400-argument@1+"])
    batched.run(another.address, detach=True)
    another.change(batch_wait=0 if ends else 600)
    table = Table(Paths(batched.plan().folder.path).table)
    (batch,) = table.open()
    wait_for(lambda: not ends or '"done":true' in listed(another))
    long_ago = time.time() - 90_000
    table.put(replace(batch, stage=Stage.CANCELLING, since=long_ago, planned=long_ago, due=0, spilled=True))
    table.close()
    report = batched.run(another.address)
    assert report.exit_code is Exit.OK
    assert bill(another)[1] == (0 if ends else ROWS)
    assert any("does not end" in note for note in report.notes) is not ends


def test_a_tier_without_batches_is_refused(batched: Project) -> None:
    """Before anything is asked, with what to do."""
    batched.change('tier = "1"', 'tier = "free"')
    checked = check_job(load_job(batched.job), TODAY)
    with pytest.raises(JobError, match="not offered"):
        check_batches(checked, vertex=False)
    with pytest.raises(JobError, match="Developer API"):
        check_batches(checked, vertex=True)


def test_commands_know_of_open_jobs(batched: Project, another: Emulator) -> None:
    """Status names them, runs counts them, clean keeps their folder, and verify finds nothing wrong."""
    another.change(batch_wait=60)
    batched.run(another.address, detach=True)
    plan = batched.plan()
    status = job_status(plan, None, time.time())
    assert [(batch.lines, batch.state) for batch in status.batches] == [(ROWS, "PENDING")]
    assert any(
        "1 batch job with 60 requests open at the API (1 queued), estimated at no more than $" in line
        for line in status.sentences()
    )
    (run,) = find_runs(batched.folder / ".rowmill")
    assert (run.batches, run.cells()["state"]) == (1, "unfinished, 1 batch job open")
    assert not Choice(run, named=False).may_go(None, unfinished=False)
    with pytest.raises(StoreError, match="open jobs"):
        Choice(run, named=True).may_go(None, unfinished=False)
    assert Choice(run, named=True).may_go(None, unfinished=True)
    assert verify_job(plan).findings == []


def test_verify_finds_what_a_table_of_batches_lacks(batched: Project, another: Emulator) -> None:
    """Lines that are gone, a file that is missing and one of no batch are named."""
    another.change(batch_wait=60)
    batched.run(another.address, detach=True)
    paths = Paths(batched.plan().folder.path)
    with closing(sqlite3.connect(paths.table, isolation_level=None)) as db:
        db.execute("DELETE FROM member WHERE line = 3")
        db.execute("UPDATE batch SET stage = 'planned'")
    paths.lines(1).rename(paths.lines(7))
    found = [finding.what for finding in verify_job(batched.plan()).findings]
    assert found == [
        "batch 1 does not have its 60 lines",
        "the file of an open batch is missing",
        "it is of no open batch",
    ]


def test_a_table_that_a_kill_left_half_written_is_read(batched: Project, emulator: Emulator) -> None:
    """A transaction that was not ended is undone by the next run; status looks at it without changing it."""
    emulator.change(batch_wait=60)
    batched.run(emulator.address, detach=True)
    paths = Paths(batched.plan().folder.path)
    half = f"""
import os, sqlite3
db = sqlite3.connect({str(paths.table)!r}, isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("PRAGMA cache_spill = ON")
db.execute("BEGIN IMMEDIATE")
add = "INSERT INTO member VALUES (9, ?, 0, ?, x'00', x'00', 1, '')"
db.executemany(add, [(n, b"%d" % n) for n in range(9000)])
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", half], check=False)
    assert Path(f"{paths.table}-journal").exists()
    assert [batch.number for batch in open_batches_of(paths.folder)] == [1]
    emulator.change(batch_wait=0)
    assert batched.run(emulator.address).exit_code is Exit.OK
    assert bill(emulator) == (ROWS, 0)


def test_a_stranger_to_the_job_is_told(batched: Project, another: Emulator) -> None:
    """A job that the API does not know under this key is not asked again under it."""
    another.change(batch_wait=60)
    batched.run(another.address, detach=True)
    table = Table(Paths(batched.plan().folder.path).table)
    (batch,) = table.open()
    table.put(replace(batch, job="batches/of-somebody-else", scope="another"))
    table.close()
    report = batched.run(another.address)
    assert report.exit_code is Exit.REFUSED
    assert report.stop is not None
    assert "another key" in report.stop.message


def test_answers_of_batches_are_shared_with_other_jobs(batched: Project, emulator: Emulator) -> None:
    """The cache of the project has them, so that an online job of another name asks nothing."""
    batched.run(emulator.address)
    batched.change('name = "labels"\nmode = "batch"', 'name = "other"')
    report = batched.run(emulator.address)
    assert (report.exit_code, report.requests, report.saved.cached) == (Exit.OK, 0, ROWS)


def test_failed_rows_are_asked_again_in_a_batch(batched: Project, emulator: Emulator) -> None:
    """`--retry-failed` puts them into a job of their own, and their rounds add up."""
    emulator.change(faults=[f"line/finish-safety~{word(7)}"])
    assert batched.run(emulator.address).exit_code is Exit.ROWS_FAILED
    emulator.change(faults=[])
    report = batched.run(emulator.address, retry_failed=True)
    assert (report.exit_code, report.requests, bill(emulator)) == (Exit.OK, 1, (ROWS + 1, 0))
    assert batched.table()["_attempts"].to_list() == [1 if n != 7 else 2 for n in range(ROWS)]


def test_a_cancellation_that_is_refused_stops_nothing(batched: Project, emulator: Emulator) -> None:
    """The job may have ended in between: the next look tells."""
    emulator.change(batch_work=2, faults=["batch-cancel/400-argument@1+"])
    limit(batched, spill="1s")
    report = batched.run(emulator.address)
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (ROWS, 0))


def test_a_signal_leaves_jobs_open(batched: Project, another: Emulator) -> None:
    """Ctrl-C while a run waits ends it at once with 3, and the same command takes the answers in."""
    another.change(batch_wait=600)
    with started(batched, another) as process:
        wait_for(lambda: another.stats()["operations"].get("batch-get"))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == Exit.STOPPED
    assert "1 batch job with 60 requests open at the API, estimated at no more than $" in said
    another.change(batch_wait=0)
    report = batched.run(another.address, endpoint=another.address)
    assert (report.exit_code, report.requests, bill(another)) == (Exit.OK, 0, (ROWS, 0))
    assert "from batches of earlier runs: 60 rows" in report.sentences()[2]


def test_results_that_are_read_again_are_counted_once(batched: Project, another: Emulator) -> None:
    """Where the API tells of more answers than the file holds, fetching it again costs nothing."""
    another.change(batch_wait=60)
    batched.run(another.address, detach=True)
    another.change(batch_wait=0)
    wait_for(lambda: '"done":true' in listed(another))
    table = Table(Paths(batched.plan().folder.path).table)
    (batch,) = table.open()
    results = batch.job.replace("batches/", "files/batch-")
    batch = replace(batch, stage=Stage.OVER, state="SUCCEEDED", told=ROWS + 5, results=results)
    table.put(replace(batch, due=0, tries=0))
    table.close()
    report = batched.run(another.address)
    assert another.stats()["operations"]["file-download"] > 1
    assert batched.table()["_cost_usd"].sum() == pytest.approx(report.cost_usd, abs=1e-12)


def test_rows_in_an_open_job_are_known_whatever_the_pack(batched: Project, another: Emulator) -> None:
    """Another size of packs asks nothing again, also where the job sets no cap of output tokens."""
    batched.change("max_output_tokens = 200\n", "")
    another.change(batch_wait=60)
    batched.run(another.address, detach=True)
    batched.change("[output]", "[packing]\nrows = 20\n\n[output]")
    another.change(batch_wait=0)
    report = batched.run(another.address)
    assert (report.exit_code, report.requests, bill(another)) == (Exit.OK, 0, (ROWS, 0))


def test_an_online_run_creates_no_job(batched: Project, emulator: Emulator) -> None:
    """What was never created is asked one by one, so that a refused creation holds up nobody."""
    emulator.change(faults=["batch-create/400-argument@1+"])
    assert batched.run(emulator.address).exit_code is Exit.REFUSED
    batched.change('mode = "batch"', 'mode = "online"')
    report = batched.run(emulator.address)
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (0, ROWS))


def test_a_job_that_is_missing_once_is_not_given_up(batched: Project, another: Emulator) -> None:
    """One 404 may be a lag or a gateway's; only the second says that the job is gone."""
    another.change(batch_wait=60)
    batched.run(another.address, detach=True)
    another.change(batch_wait=0, faults=["batch-get/404-model@1"])
    report = batched.run(another.address)
    assert (report.exit_code, bill(another)) == (Exit.OK, (ROWS, 0))
