"""Faults of the network in a run: each row once, with its own answer, and outages outlasted or named."""

import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from benchmarks.proxy import FAULTS, PAID, Proxy, proxying
from pipeline.asking import Service, Watch
from pipeline.errors import Exit
from pipeline.flow import FailureKind
from pipeline.ledger import Ledger
from pipeline.offline import offline_endpoint
from pipeline.progress import Watched, words_of
from pipeline.quota import pacific_day
from pipeline.report import RunReport
from pipeline.retry import TABLE, Act, Rule
from pipeline.run import run_job
from pipeline.store.counts import sent_on
from tests.conftest import JOB, Emulator, Project, emulating, unwatched

SCHEMA = """
from pydantic import BaseModel

class Label(BaseModel):
    reason: str
"""
QUICK = 'id = "gemini-3.1-flash-lite"\ntimeout = 2.0'


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Return an emulator whose reasons quote the first words of the text they are for."""
    with emulating() as running:
        yield running


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project whose answers tell their rows, and whose requests have little time."""
    return made(tmp_path)


def made(folder: Path) -> Project:
    """Make such a project."""
    job = JOB.replace('id = "gemini-3.1-flash-lite"', QUICK)
    for name, file, text in [("jobs", "labels.toml", job), ("schemas", "label.py", SCHEMA)]:
        (folder / name).mkdir(parents=True)
        (folder / name / file).write_text(text)
    return Project(folder)


def run(
    project: Project,
    address: str,
    *,
    longest_outage: float = 600.0,
    ledger: Ledger | None = None,
    watch: Watch = unwatched,
) -> RunReport:
    """Run the job against an address."""
    ledger = ledger or Ledger(None, "test")
    service = Service(offline_endpoint(address), ledger, free=False, longest_outage=longest_outage)
    return run_job(project.plan(), service, watch=watch)


def numbered(project: Project, rows: int) -> None:
    """Write rows whose first word is their own."""
    project.rows([f"row{n:03d} is a review" for n in range(rows)])


def number(body: bytes) -> int:
    """Return the number of the row that a request is for."""
    return int(body[body.index(b"Review: row") + 11 :][:3])


def all_own(project: Project, rows: int) -> bool:
    """Tell whether the table has each row once, with the answer to its own text."""
    table = project.table()
    pairs = zip(table["text"], table["reason"], strict=True)
    ids = [int(one) for one in table["id"]]
    return ids == list(range(rows)) and all(str(text)[:6] in str(reason) for text, reason in pairs)


def once_each(faults: list[str]) -> Callable[[bytes], str]:
    """Return a plan: row n meets fault n in its first request, and no other."""
    seen: set[int] = set()

    def plan(body: bytes) -> str:
        row = number(body)
        if row in seen or row == 0:  # the first row opens the gate
            return ""
        seen.add(row)
        return faults[row - 1] if row <= len(faults) else ""

    return plan


def test_each_row_gets_its_own_answer_through_every_fault(project: Project, emulator: Emulator) -> None:
    """Three rows meet each fault, among others that meet none; what was paid and lost is asked again."""
    faults = sorted({*FAULTS} - {"", "refused"}) * 3  # `refused` breaks the others' connections as well
    rows = len(faults) + 60
    numbered(project, rows)
    before = emulator.stats()["answered"]
    with proxying(Proxy(emulator.address, once_each(faults))) as proxy:
        report = run(project, proxy.address)
    assert report.exit_code is Exit.OK
    assert all_own(project, rows)
    assert emulator.stats()["answered"] - before >= rows + sum(fault in PAID for fault in faults)
    assert {fault: count for fault, count in proxy.played.items() if fault} == Counter(faults)


@pytest.mark.parametrize("greeting", ["deaf", "reset", "close", "speak"])
def test_every_other_connection_may_break(project: Project, emulator: Emulator, greeting: str) -> None:
    """Connections that never come to anything cost attempts, not rows."""
    numbered(project, 30)
    with proxying(Proxy(emulator.address, greet=lambda n: greeting if n % 4 == 3 else "")) as proxy:
        report = run(project, proxy.address)
        assert proxy.played[greeting]
    assert (report.exit_code, report.table.failed) == (Exit.OK, 0)
    assert all_own(project, 30)


def broken_after(proxy: Proxy, requests: int, seconds: float | None) -> Callable[[bytes], str]:
    """Return a plan: after so many requests the API is gone for so long."""
    left = iter(range(requests))

    def plan(_body: bytes) -> str:
        if next(left, None) is not None:
            return ""
        if next(gone, None) is not None:
            proxy.away(seconds)
            return "silent"
        return ""

    gone = iter(range(1))
    return plan


def planned(proxy: Proxy, plan: Callable[[bytes], str]) -> Proxy:
    """Give a proxy a plan that speaks of it."""
    proxy.plan = plan
    return proxy


def test_a_run_outlasts_an_outage_and_says_so(project: Project, emulator: Emulator) -> None:
    """Gone for some seconds in the middle: no row fails, the run says what it waits for and goes on."""
    project.change("rpm = 600000", "rpm = 600000\nconcurrency = 8")
    numbered(project, 100)
    said: set[str] = set()

    async def watch(run: Watched) -> None:
        while True:
            said.add(words_of(run).reason)
            await anyio.sleep(0.02)

    proxy = Proxy(emulator.address)
    with proxying(planned(proxy, broken_after(proxy, 40, 4.0))):
        report = run(project, proxy.address, watch=watch)
    assert (report.exit_code, report.table.failed) == (Exit.OK, 0)
    assert all_own(project, 100)
    assert any("the API has not answered for" in words for words in said)


def unknown(monkeypatch: pytest.MonkeyPatch, code: int, times: int) -> None:
    """Let the name `gemini.test` be looked up in vain so many times."""
    look_up, left = socket.getaddrinfo, iter(range(times))

    def found(host: Any, *how: Any, **more: Any) -> Any:
        if host == "gemini.test" and next(left, None) is not None:
            raise socket.gaierror(code, "")
        return look_up("127.0.0.1" if host == "gemini.test" else host, *how, **more)

    monkeypatch.setattr(socket, "getaddrinfo", found)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request's own attempts end soon."""
    monkeypatch.setitem(TABLE, FailureKind.CONNECTION, Rule(Act.AGAIN, tries=1, wait=0.01, ceiling=0.02))


@pytest.mark.usefixtures("impatient")
def test_a_night_waits_for_a_network_that_is_not_up_yet(
    project: Project, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than the first row's attempts, as after the start of the machine."""
    numbered(project, 3)
    unknown(monkeypatch, socket.EAI_AGAIN, 2)
    report = run(project, emulator.address.replace("127.0.0.1", "gemini.test"))
    assert (report.exit_code, report.pending) == (Exit.OK, 0)


@pytest.mark.usefixtures("impatient")
def test_a_night_without_a_network_ends(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time of any other outage, with what to do."""
    numbered(project, 3)
    unknown(monkeypatch, socket.EAI_AGAIN, 10**9)
    report = run(project, "http://gemini.test:80", longest_outage=0.5)
    assert (report.exit_code, report.pending) == (Exit.STOPPED, 3)
    assert report.stop is not None
    assert "no answer since" in report.stop.message
    assert "has no network" in report.stop.hint


def test_a_run_stops_after_the_longest_outage_and_goes_on_later(project: Project, emulator: Emulator) -> None:
    """Past the stated time it exits 3 with all rows still to ask, and the same command finishes the table."""
    project.change("rpm = 600000", "rpm = 600000\nconcurrency = 8")
    numbered(project, 100)
    proxy = Proxy(emulator.address)
    with proxying(planned(proxy, broken_after(proxy, 40, None))):
        began = time.monotonic()
        report = run(project, proxy.address, longest_outage=2.0)
        assert time.monotonic() - began < 15
        assert (report.exit_code, report.table.failed) == (Exit.STOPPED, 0)
        assert report.pending >= 60 - 8
        assert report.stop is not None
        assert "cannot be reached" in report.stop.message
        assert re.search(r"no answer since \w+ \d\d \w+ \d\d:\d\d \w+, for \d+ s$", report.stop.message)
        assert "no connection came about" in report.stop.hint
        proxy.back()
        again = run(project, proxy.address)
    assert (again.exit_code, again.requests) == (Exit.OK, report.pending)
    assert all_own(project, 100)


@pytest.mark.parametrize("fault", ["page 200", "page 502", "page 504", "page 407", "garbage"])
def test_a_proxy_that_answers_everybody_fails_no_row(
    project: Project, emulator: Emulator, fault: str
) -> None:
    """A page in place of the API is an outage, not the fault of a hundred rows."""
    numbered(project, 100)
    left = iter(range(40))
    with proxying(
        Proxy(emulator.address, lambda _body: "" if next(left, None) is not None else fault)
    ) as proxy:
        report = run(project, proxy.address, longest_outage=1.5)
    assert (report.exit_code, report.table.failed) == (Exit.STOPPED, 0)
    assert report.pending >= 60


def test_the_last_row_that_breaks_the_server_fails_alone(project: Project, emulator: Emulator) -> None:
    """Where no other row can tell, its tries end it: the run does not wait for ten minutes."""
    numbered(project, 10)
    plan = lambda body: "page 200" if number(body) == 9 else ""  # noqa: E731 - it is one expression
    with proxying(Proxy(emulator.address, plan)) as proxy:
        report = run(project, proxy.address)
    assert (report.exit_code, report.table.failed, report.pending) == (Exit.ROWS_FAILED, 1, 0)


def tried(folder: Path, address: str) -> tuple[RunReport, int]:
    """Run a job of five rows in a folder of its own; return its report and what it has counted of the day."""
    project = made(folder)
    numbered(project, 5)
    file = folder / "ledger.sqlite"
    with closing(Ledger(file, "test")) as ledger:
        report = run(project, address, ledger=ledger)
    return report, sent_on(file, "test", pacific_day(time.time()))


def test_what_is_wrong_from_the_start_is_named(
    tmp_path: Path, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3, the cause in the hint, no row failed, and the day counts nothing that never left."""
    unknown(monkeypatch, socket.EAI_NONAME, 10**9)
    with proxying(Proxy(emulator.address, lambda _body: "page 200")) as proxy, ThreadPoolExecutor(4) as pool:
        cases = {
            "http://127.0.0.1:1": ("no connection came about", 0),
            "http://gemini.test": ("the name of the host", 0),
            emulator.address.replace("http:", "https:"): ("the encrypted connection failed", 0),
            proxy.address: ("wants a login", 12),
        }
        found = list(pool.map(tried, [tmp_path / str(n) for n in range(len(cases))], cases))
    for (report, counted), (hint, sent) in zip(found, cases.values(), strict=True):
        assert (report.exit_code, report.table.failed, report.pending) == (Exit.STOPPED, 0, 5)
        assert report.stop is not None
        assert hint in report.stop.hint
        assert (report.requests, report.unsent, counted) == (sent, 0 if sent else 6, sent)
