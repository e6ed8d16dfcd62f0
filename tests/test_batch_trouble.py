"""Runs that ask by the Batch API, where something is wrong with the API, its files or the way there."""

import socket
import time
import urllib.request
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from pipeline.batch import Batch, Stage
from pipeline.errors import Exit
from pipeline.store.batches import Paths, Table
from tests.conftest import QUICK, Emulator, Project
from tests.reviews import ROWS, labels, texts
from tests.test_batch_run import bill, limit, listed, open_batches
from tests.test_cli import started, wait_for

DAY = 86_400.0


def kept(project: Project, endpoint: str) -> list[Batch]:
    """Return all batches of a project."""
    with closing(Table(Paths(project.plan(endpoint).folder.path).table)) as table:
        return table.all()


def altered(project: Project, endpoint: str = "test", **changes: Any) -> Batch:
    """Change the only open batch of a project in its table."""
    table = Table(Paths(project.plan(endpoint).folder.path).table)
    try:
        (batch,) = table.open()
        return table.put(replace(batch, **changes))
    finally:
        table.close()


def answered(project: Project, emulator: Emulator) -> str:
    """Leave a job at the API until it has ended; return the name of the file of its results."""
    emulator.change(batch_wait=60)
    project.run(emulator.address, detach=True)
    emulator.change(batch_wait=0)
    wait_for(lambda: '"done":true' in listed(emulator))
    batch = altered(project)
    return batch.job.replace("batches/", "files/batch-")


def delete(emulator: Emulator, name: str) -> None:
    """Delete a file at the API."""
    headers = {"x-goog-api-key": "any"}
    address = f"{emulator.address}/v1beta/{name}"
    urllib.request.urlopen(urllib.request.Request(address, headers=headers, method="DELETE")).close()


@pytest.mark.parametrize("ended", [1, 3])
def test_results_that_are_hidden_are_gone_after_two_days(
    batched: Project, another: Emulator, ended: int
) -> None:
    """The API keeps files for 48 hours; before that, a file that it does not show is another key's."""
    results = answered(batched, another)
    delete(another, results)
    past = time.time() - ended * DAY
    altered(batched, stage=Stage.OVER, state="SUCCEEDED", results=results, ended=past, since=past, due=0)
    report = batched.run(another.address)
    if ended == 3:
        assert (report.exit_code, bill(another)[1]) == (Exit.OK, 0)
        assert any("are gone" in note for note in report.notes)
    else:
        assert (report.exit_code, report.pending) == (Exit.REFUSED, ROWS)
        assert report.stop is not None
        assert "this key cannot see the results" in report.stop.message
        assert "GEMINI_API_KEY" in report.stop.hint


def test_a_lines_file_that_is_gone_is_uploaded_again(batched: Project, another: Emulator) -> None:
    """The API says 403 to a file that it no longer has; a refused key stops the run as ever."""
    another.change(faults=["batch-create/503@1+"])
    assert batched.run(another.address, detach=True).exit_code is Exit.STOPPED
    altered(batched, stage=Stage.UPLOADED, file="files/of-long-ago", due=0)
    another.change(faults=["batch-create/403-echo@1+"])
    refused = batched.run(another.address)
    assert (refused.exit_code, refused.pending) == (Exit.REFUSED, ROWS)
    another.change(faults=[])
    report = batched.run(another.address)
    assert (report.exit_code, bill(another)) == (Exit.OK, (ROWS, 0))


def test_a_page_of_a_proxy_gives_no_job_up(batched: Project, another: Emulator) -> None:
    """However often it says 404: it knows nothing of jobs."""
    another.change(batch_wait=60)
    batched.run(another.address, detach=True)
    another.change(batch_wait=0, faults=["batch-get/404-html@1-2"])
    another.reset()
    report = batched.run(another.address)
    assert another.stats()["operations"]["batch-get"] >= 3
    assert (report.exit_code, bill(another)) == (Exit.OK, (ROWS, 0))


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_creation_that_fails_for_too_long_stops_the_run(
    batched: Project, emulator: Emulator, fault: str
) -> None:
    """As any other call that nobody answers; the list may work meanwhile. Nothing is doubled later."""
    emulator.change(faults=[f"batch-create/{fault}@1+"])
    report = batched.run(emulator.address, longest_outage=0.5)
    assert (report.exit_code, report.pending) == (Exit.STOPPED, ROWS)
    assert report.stop is not None
    assert "cannot be reached" in report.stop.message
    emulator.change(faults=[])
    assert batched.run(emulator.address).exit_code is Exit.OK
    assert bill(emulator) == (ROWS, 0)


def test_without_a_connection_a_creation_is_waited_out_and_then_left(
    batched: Project, another: Emulator
) -> None:
    """Nothing has left, so the batch stands where it stood, and the run ends with 3."""
    another.change(faults=["batch-create/400-argument@1+"])
    assert batched.run(another.address).exit_code is Exit.REFUSED
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        report = batched.run(f"http://127.0.0.1:{nobody.getsockname()[1]}", longest_outage=0.0)
    assert (report.exit_code, report.pending) == (Exit.STOPPED, ROWS)
    assert report.stop is not None
    assert "no connection came about" in report.stop.hint
    assert altered(batched).stage is Stage.UPLOADED
    another.change(faults=[])
    report = batched.run(another.address)
    assert (report.exit_code, bill(another)) == (Exit.OK, (ROWS, 0))


def test_a_job_that_no_row_needs_is_named_and_not_waited_for(batched: Project, another: Emulator) -> None:
    """The input has changed since: whoever asks next takes in what it answers by then."""
    another.change(faults=["batch/stuck@1"])
    batched.run(another.address, detach=True)
    another.change(faults=[])
    batched.rows([f"good {text}" for text in texts(5)])
    report = batched.run(another.address)
    assert (report.exit_code, report.requests) == (Exit.OK, 5)
    note = f"1 batch job with {ROWS} requests open at the API"
    for told in (report.notes, batched.run(another.address).notes):
        assert [one for one in told if note in one and "which no row of this run needs" in one]
    assert altered(batched).stage is Stage.CREATED


def test_a_job_that_no_row_needs_is_taken_in_when_it_is_over(batched: Project, another: Emulator) -> None:
    """So that rows which come back are not paid for again."""
    answered(batched, another)
    batched.rows([f"good {text}" for text in texts(5)])
    report = batched.run(another.address)
    assert (report.exit_code, report.notes) == (Exit.OK, [])
    batched.rows(texts())
    assert batched.run(another.address).exit_code is Exit.OK
    assert bill(another) == (ROWS + 5, 0)


def test_a_file_of_lines_that_somebody_deleted_is_made_anew(batched: Project, another: Emulator) -> None:
    """At once: no wait brings it back."""
    another.change(faults=["upload-start/400-argument@1+"])
    assert batched.run(another.address).exit_code is Exit.REFUSED
    assert altered(batched).stage is Stage.PLANNED
    Paths(batched.plan().folder.path).lines(1).unlink()
    another.change(faults=[])
    report = batched.run(another.address, longest_outage=0.0)
    assert (report.exit_code, bill(another)) == (Exit.OK, (ROWS, 0))
    assert any("its file of lines was deleted" in note for note in report.notes)


@pytest.mark.parametrize("fault", ["done-hang", "done-reset"])
def test_a_job_that_the_list_has_only_later_is_not_created_twice(
    batched: Project, emulator: Emulator, fault: str
) -> None:
    """The creation was not heard of, and the list lags: it is looked at until it must know."""
    batched.change("max_output_tokens = 200", "max_output_tokens = 200\ntimeout = 3.0")
    emulator.change(faults=[f"batch-create/{fault}@1"], batch_lag=4.0)
    report = batched.run(emulator.address, pace=replace(QUICK, settle=20.0))
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (ROWS, 0))
    assert emulator.stats()["operations"]["batch-create"] == 1


@pytest.mark.parametrize("pack", [1, 2])
def test_a_schema_that_is_refused_is_found_before_the_first_job(
    batched: Project, emulator: Emulator, pack: int
) -> None:
    """One line is asked online first; where that is answered, the answer is used and nothing doubled."""
    batched.rows(texts(300))
    batched.change("[output]", f"[packing]\nrows = {pack}\n\n[output]")
    emulator.change(faults=["400-schema@1+", "line/400-schema@1+"])
    report = batched.run(emulator.address)
    assert (report.exit_code, report.pending) == (Exit.REFUSED, 300)
    assert "batch-create" not in emulator.stats()["operations"]
    emulator.change(faults=[])
    report = batched.run(emulator.address)
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (300 // pack - 1, 1))
    assert batched.table()["label"].to_list() == labels(300)
    assert batched.table()["_cost_usd"].sum() == pytest.approx(report.cost_usd, abs=1e-12)


def test_a_kill_after_the_first_line_asks_no_second_one(batched: Project, another: Emulator) -> None:
    """Its answer is in the journal, and says all that is to be known."""
    batched.rows(texts(200))
    another.change(faults=["upload-start/hang@1"])
    with started(batched, another) as process:
        try:
            wait_for(lambda: another.stats()["held"])
        finally:
            process.kill()
            process.communicate()
    Paths(batched.plan(another.address).folder.path).table.unlink()
    another.change(faults=[])
    report = batched.run(another.address, endpoint=another.address)
    assert (report.exit_code, bill(another)) == (Exit.OK, (199, 1))


def test_what_the_first_line_meets_in_passing_stops_nothing(batched: Project, emulator: Emulator) -> None:
    """The day's quota of single requests is none of a batch's; few rows are not asked so at all."""
    batched.rows(texts(200))
    emulator.change(faults=["429-day@1+"])
    assert batched.run(emulator.address).exit_code is Exit.OK
    assert bill(emulator) == (200, 0)
    assert emulator.stats()["operations"]["batch-create"] == 1


def test_rows_wait_until_open_jobs_leave_money_for_them(batched: Project, another: Emulator) -> None:
    """What an open job may cost is as good as spent for those who would be asked online beside it."""
    another.change(batch_wait=60)
    batched.run(another.address, detach=True)
    batched.rows(texts(ROWS + 20))
    batched.change('mode = "batch"', 'mode = "online"')
    cost = altered(batched).cost_usd
    batched.change('tier = "1"', f'tier = "1"\nmax_cost = {cost}')
    report = batched.run(another.address, detach=True)
    assert (report.exit_code, report.pending, bill(another)) == (Exit.STOPPED, ROWS + 20, (0, 0))
    batched.change(f"max_cost = {cost}", f"concurrency = 1\nmax_cost = {cost + 0.00001}")
    report = batched.run(another.address, detach=True)
    assert report.stop is not None
    assert f"beside open batch jobs, which may cost ${cost:,.4f}" in report.stop.message
    assert 0 < bill(another)[1] < 20
    another.change(batch_wait=0)
    assert batched.run(another.address).exit_code is Exit.OK
    assert bill(another) == (ROWS, 20)


def one_late(batched: Project, another: Emulator) -> None:
    """Leave a job that is late, and more rows for another; requests for single rows hang."""
    another.change(batch_wait=600)
    limit(batched, spill="1m")
    batched.run(another.address, detach=True, endpoint=another.address)
    late = altered(batched, another.address)
    altered(batched, another.address, planned=late.planned - 120)
    batched.rows(texts(2 * ROWS))
    another.change(faults=["hang@1+"])


def test_jobs_go_on_while_rows_are_asked_alone(batched: Project, another: Emulator) -> None:
    """A late job's rows are asked one by one, however long that takes; another job is looked at meanwhile."""
    one_late(batched, another)
    with started(batched, another) as process:
        try:
            wait_for(lambda: another.stats()["requests"])
            looks = another.stats()["operations"]["batch-get"]
            wait_for(lambda: another.stats()["operations"]["batch-get"] > looks + 1)
        finally:
            process.kill()
            process.communicate()
    another.change(faults=[], batch_wait=0)
    report = batched.run(another.address, endpoint=another.address)
    assert (report.exit_code, bill(another)) == (Exit.OK, (ROWS, ROWS))


def test_results_are_fetched_while_rows_are_asked_alone(batched: Project, another: Emulator) -> None:
    """That may take days, and the API keeps files for two: a kill, and their end there, lose nothing."""
    one_late(batched, another)
    with started(batched, another) as process:
        try:
            wait_for(lambda: another.stats()["requests"])
            another.change(batch_wait=0)
            wait_for(lambda: Stage.FETCHED in open_batches(batched, another.address))
        finally:
            process.kill()
            process.communicate()
    (batch,) = [one for one in kept(batched, another.address) if one.stage is Stage.FETCHED]
    delete(another, batch.results)
    another.change(faults=[])
    report = batched.run(another.address, endpoint=another.address)
    assert (report.exit_code, bill(another)) == (Exit.OK, (ROWS, ROWS))
