"""What a run by batches asks again, and in which packs."""

import time

import pytest

from pipeline.batch import Stage
from pipeline.errors import Exit
from tests.conftest import Emulator, Project
from tests.reviews import labels, texts
from tests.test_batch_run import bill, limit
from tests.test_batch_trouble import DAY, altered, answered, delete

ROWS = 160  # in 40 packs, of which 20 are a job


@pytest.fixture
def packs(batched: Project) -> Project:
    """Return a project that asks by batches in packs of four, twenty of them in a job."""
    batched.rows(texts(ROWS))
    batched.change("[output]", "[packing]\nrows = 4\n\n[output]")
    limit(batched, requests=20)
    return batched


def sizes(project: Project) -> set[int]:
    """Return in how many rows' company answers came; equal labels are checked by the way."""
    table = project.table()
    assert table["label"].to_list() == labels(ROWS)
    return set(table["_pack"])


def test_a_job_that_fails_as_a_whole_says_nothing_about_its_packs(packs: Project, emulator: Emulator) -> None:
    """So that its rows are asked again in as many requests, and not at four times the instructions."""
    emulator.change(faults=["batch/fail@2"])
    report = packs.run(emulator.address)
    assert (report.exit_code, report.requests, bill(emulator)) == (Exit.OK, 60, (40, 0))
    assert sizes(packs) == {4}


def test_packs_of_a_job_that_fails_again_are_smaller(packs: Project, emulator: Emulator) -> None:
    """One of its lines may be to blame: the second time a quarter of the rows share a request."""
    emulator.change(faults=["batch/fail@2-3"])
    report = packs.run(emulator.address)
    assert (report.exit_code, bill(emulator)) == (Exit.OK, (20 + 80, 0))
    assert report.requests == 40 + 20 + 80
    assert sizes(packs) == {1, 4}


def test_results_that_are_gone_say_nothing_about_packs(packs: Project, another: Emulator) -> None:
    """Nor does a job that the API does not know any more."""
    packs.change("requests = 20", "requests = 40")
    results = answered(packs, another)
    delete(another, results)
    past = time.time() - 3 * DAY
    altered(packs, stage=Stage.OVER, state="SUCCEEDED", results=results, ended=past, since=past, due=0)
    report = packs.run(another.address)
    assert (report.exit_code, report.requests) == (Exit.OK, 40)
    assert sizes(packs) == {4}


def test_a_pack_that_meets_a_fault_is_asked_in_parts(packs: Project, emulator: Emulator) -> None:
    """A line that has its own error may be too much for the API."""
    emulator.change(faults=["line/503@1-20"])
    report = packs.run(emulator.address)
    assert (report.exit_code, report.requests) == (Exit.OK, 40 + 80)
    assert sizes(packs) == {1, 4}
