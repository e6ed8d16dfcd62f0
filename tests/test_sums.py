"""The figures of a run are rows of the input, also where several of them are equal."""

import io
import json

from rich.console import Console

from pipeline.asking import Service
from pipeline.ledger import Ledger
from pipeline.offline import offline_endpoint
from pipeline.progress import Progress
from pipeline.run import run_job
from pipeline.status import job_status
from tests.conftest import Project, emulating

TEXTS = ["good", "good", "good", "bad", "fine", "fine"]


def test_ok_failed_and_pending_are_all_rows(project: Project) -> None:
    """After a stop, in the summary and in `status`, for people and for programs."""
    project.change('key = ["id"]', "key = []")
    project.change("rpm = 600000", "rpm = 600000\nrpd = 2")
    project.rows(TEXTS)
    with emulating() as emulator:
        report = project.run(emulator.address)
    assert (report.table.ok, report.table.failed, report.pending) == (4, 0, 2)
    said = report.as_json()
    assert (said["rows"], said["ok"], said["pending"]) == (6, 4, 2)
    status = job_status(project.plan(), None, 0.0)
    assert (status.table.ok, status.table.failed, status.pending) == (4, 0, 2)
    assert "6 rows, 4 ok, 0 failed, 2 pending" in status.sentences()[0]
    assert json.dumps(status.as_json())
    assert status.as_json()["requests_to_go"] == 1


def test_rows_equal_to_one_that_is_to_be_asked_are_not_done_before(project: Project) -> None:
    """On the first run nothing was done before, however many rows share a prompt."""
    project.change('key = ["id"]', "key = []")
    project.rows(["good", "good", "good"])
    told = io.StringIO()
    watch = Progress(Console(file=told), quiet=False).watch
    with emulating("--latency", "0.3") as emulator:
        service = Service(offline_endpoint(emulator.address), Ledger(None, "test"), free=False)
        run_job(project.plan(), service, watch=watch)
    assert "1 row to ask, 0 done before, 2 equal to one of these" in told.getvalue()
