"""What many tests share: the emulator as a server of its own, jobs on disk, and runs in this process."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import settings

from benchmarks.account import private_key as make_private_key
from pipeline.asking import Service
from pipeline.batch import Pace
from pipeline.job import load_job
from pipeline.ledger import Ledger
from pipeline.offline import offline_endpoint
from pipeline.plan import Plan, check_job, make_plan
from pipeline.progress import Watched
from pipeline.report import RunReport
from pipeline.retry import LONGEST_OUTAGE
from pipeline.run import run_job
from tests.reviews import texts

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")  # machines are slow at times; every test has a time limit of its own

QUICK = Pace(first=0.02, longest=0.2, settle=0.2, patience=20.0)
NOBODY = 65_534  # a user without rights
TODAY = date(2026, 11, 22)
SCHEMA = """
from typing import Literal
from pydantic import BaseModel

class Label(BaseModel):
    label: Literal["positive", "negative", "neutral"]
    reason: str
"""


@dataclass(frozen=True)
class Emulator:
    """A running emulator."""

    address: str

    def change(self, **settings: object) -> None:
        """Change its settings while it runs."""
        body = json.dumps(settings).encode()
        with urllib.request.urlopen(f"{self.address}/emulator/settings", data=body) as answer:
            answer.read()

    def reset(self) -> None:
        """Let it count from zero."""
        url = f"{self.address}/emulator/reset"
        urllib.request.urlopen(urllib.request.Request(url, method="POST")).close()

    def stats(self) -> dict[str, Any]:
        """Return what it has counted."""
        with urllib.request.urlopen(f"{self.address}/emulator/stats") as answer:
            counted: dict[str, Any] = json.load(answer)
        return counted


@contextlib.contextmanager
def emulating(*flags: str) -> Iterator[Emulator]:
    """Run an emulator with these flags for the time of the block."""
    command = [sys.executable, "-m", "pipeline.emulator", "--port", "0", "--exit-with-parent", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield Emulator(server.stdout.readline().split()[-1])
        finally:
            server.terminate()


JOB = """
name = "labels"
schema = "schemas/label.py:Label"
[input]
path = "rows.csv"
key = ["id"]
[prompt]
system = "You label reviews."
row = "Review: {{ text }}"
[model]
id = "gemini-3.1-flash-lite"
max_output_tokens = 200
[limits]
tier = "1"
rpm = 600000
tpm = 600000000
[output]
path = "out/labels.parquet"
"""


@dataclass(frozen=True)
class Project:
    """A folder with a job, its schema and its input."""

    folder: Path

    @property
    def job(self) -> Path:
        """The job file."""
        return self.folder / "jobs" / "labels.toml"

    @property
    def output(self) -> Path:
        """The table that the job writes."""
        return self.folder / "out" / "labels.parquet"

    def rows(self, texts: Sequence[str]) -> None:
        """Write the input: one row for each text, with ids 0, 1, 2 ..."""
        pl.DataFrame({"id": [str(n) for n in range(len(texts))], "text": texts}).write_csv(
            self.folder / "rows.csv"
        )

    def change(self, old: str, new: str) -> None:
        """Replace something in the job file."""
        text = self.job.read_text()
        assert old in text
        self.job.write_text(text.replace(old, new))

    def plan(self, endpoint: str = "test", limit: int | None = None) -> Plan:
        """Load and check the job."""
        return make_plan(check_job(load_job(self.job), TODAY), endpoint=endpoint, runs=None, limit=limit)

    def run(
        self,
        address: str,
        *,
        limit: int | None = None,
        retry_failed: bool = False,
        ledger: Ledger | None = None,
        detach: bool = False,
        endpoint: str = "test",
        longest_outage: float = LONGEST_OUTAGE,
        pace: Pace = QUICK,
    ) -> RunReport:
        """Run the job in this process against an emulator, whose batches are looked at often."""
        counted = ledger or Ledger(None, "test")
        service = Service(
            offline_endpoint(address),
            counted,
            free=False,
            longest_outage=longest_outage,
            detach=detach,
            pace=pace,
        )
        plan = self.plan(endpoint, limit=limit)
        return run_job(plan, service, watch=unwatched, retry_failed=retry_failed)

    def table(self) -> pl.DataFrame:
        """Read the output."""
        return pl.read_parquet(self.output)


async def unwatched(_run: Watched) -> None:
    """Show no progress."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project with a job and its schema, still without rows."""
    for name, file, text in [("jobs", "labels.toml", JOB), ("schemas", "label.py", SCHEMA)]:
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(text)
    return Project(tmp_path)


@pytest.fixture
def batched(project: Project) -> Project:
    """Return a project that asks by batches, whose rows have words of their own."""
    project.change('name = "labels"', 'name = "labels"\nmode = "batch"')
    project.rows(texts())
    return project


@pytest.fixture(scope="module")
def server() -> Iterator[Emulator]:
    """Run an emulator of the paid tier for all tests of a file."""
    with emulating("--tier", "paid") as emulator:
        yield emulator


@pytest.fixture
def emulator(server: Emulator) -> Emulator:
    """Return the emulator of the file as it was at first."""
    server.change(
        faults=[],
        batch_wait=0,
        batch_work=0,
        batch_expiry=172_800,
        batch_lag=0,
        batch_jobs=100,
        cancel_keeps=True,
    )
    server.reset()
    return server


@pytest.fixture
def another() -> Iterator[Emulator]:
    """Return an emulator of one test alone, which leaves jobs open there."""
    with emulating("--tier", "paid") as emulator:
        yield emulator


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Give up the rights of root, where the tests have them."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def open_to_all(folder: Path) -> None:
    """Let everybody into a test's own folder, which pytest keeps from others."""
    for one in (folder, *folder.parents[:3]):
        if one.owner() == folder.owner() and one.stat().st_mode & 0o005 != 0o005:
            one.chmod(0o755)


@pytest.fixture(scope="session")
def private_key() -> str:
    """Return the key of a service account that exists nowhere."""
    return make_private_key()
