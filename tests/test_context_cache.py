"""A long instruction lies in a cache where that pays; the emulator's own bill agrees with ours."""

import math
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime

import pytest

from pipeline.errors import Exit
from pipeline.executors.cached import AHEAD, TTL
from pipeline.rates import PICO
from pipeline.report import RunReport
from tests.bills import STORAGE, billed, caches, stored
from tests.conftest import Emulator, Project, emulating
from tests.reviews import INSTRUCTION, labels, texts, word
from tests.test_cli import started, wait_for
from tests.test_costs import rows_of, runs_of

ROWS = 120


@pytest.fixture
def long(project: Project) -> Project:
    """Return a project with an instruction of some two thousand tokens."""
    project.change('"You label reviews."', f'"{INSTRUCTION}"')
    project.rows(texts(ROWS))
    return project


def whole(project: Project, report: RunReport) -> None:
    """Check that every row has its own answer."""
    assert (report.exit_code, project.table()["label"].to_list()) == (Exit.OK, labels(ROWS))


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("tier", ["standard", "flex"])
def test_a_long_instruction_is_cached_and_the_bill_agrees(long: Project, rows: int, tier: str) -> None:
    """Nearly all requests read it from a cache, which is deleted; tokens and storage reconcile."""
    long.change("[output]", f"[packing]\nrows = {rows}\n\n[output]")
    long.change("max_output_tokens = 200\n", f'service_tier = "{tier}"\n')
    with emulating("--tier", "paid", "--latency", "0.01") as emulator:
        report = long.run(emulator.address)
        whole(long, report)
        assert set(emulator.stats()["billed"]) == {tier}
        assert caches(emulator) == []
        assert rows_of(long) == runs_of(report)
        storage = rows_of(long) - billed(emulator)
        assert stored(emulator) <= storage <= stored(emulator) + 2 * AHEAD * 3_000 * STORAGE
    cached = (long.table()["_cached_tokens"] > 0).sum()
    assert cached > ROWS * 0.5
    assert any("was cached" in note for note in report.notes), report.notes


def test_a_short_instruction_is_not_cached(project: Project) -> None:
    """Below what the API takes, nothing is tried."""
    project.rows([f"good {word(n)}" for n in range(ROWS)])
    with emulating("--tier", "paid") as emulator:
        project.run(emulator.address)
        assert not [name for name in emulator.stats()["operations"] if name.startswith("cache")]


def test_off_is_off(long: Project) -> None:
    """Who does not want a cache gets none."""
    long.change("max_output_tokens = 200", 'max_output_tokens = 200\ncontext_cache = "off"')
    with emulating("--tier", "paid") as emulator:
        whole(long, long.run(emulator.address))
        assert not [name for name in emulator.stats()["operations"] if name.startswith("cache")]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tier", "free"], "limit=0"),
        (["--tier", "paid", "--fault", "cache-create/500@1+"], None),
        (["--tier", "paid", "--fault", "cache-list/503@1+"], None),
    ],
)
def test_what_cannot_be_cached_is_sent(long: Project, flags: list[str], said: str | None) -> None:
    """Whatever the API refuses about caches, every row is answered, and the summary says why."""
    with emulating(*flags) as emulator:
        report = long.run(emulator.address)
        whole(long, report)
    assert (long.table()["_cached_tokens"] == 0).all()
    assert said is None or any(said in note for note in report.notes), report.notes


def test_too_small_is_said(long: Project) -> None:
    """An estimate that was too high is put right by the API's own minimum."""
    long.change(INSTRUCTION, INSTRUCTION[:3_500])
    with emulating("--tier", "paid") as emulator:
        report = long.run(emulator.address)
        whole(long, report)
    assert any("too small" in note for note in report.notes), report.notes


@contextmanager
def stealing(emulator: Emulator) -> Iterator[None]:
    """Delete every cache as soon as it is there."""
    gone = threading.Event()

    def remove() -> None:
        while not gone.is_set():
            for cache in caches(emulator):
                url = f"{emulator.address}/v1beta/{cache['name']}"
                request = urllib.request.Request(url, headers={"x-goog-api-key": "test"}, method="DELETE")
                urllib.request.urlopen(request).close()

    thief = threading.Thread(target=remove)
    thief.start()
    try:
        yield
    finally:
        gone.set()
        thief.join()


@pytest.mark.parametrize("stolen", [True, False])
def test_a_limit_of_the_cost_holds_with_a_cache(long: Project, stolen: bool) -> None:
    """Where the cache goes, too: a request that has lost it before it leaves takes its whole price first."""
    most = 0.03 if stolen else 0.01
    long.change("rpm = 600000\n", f"rpm = 600000\nmax_cost = {most}\n")
    with emulating("--tier", "paid", "--latency", "0.05") as emulator:
        with stealing(emulator) if stolen else nullcontext():
            report = long.run(emulator.address)
        spent = (billed(emulator) + stored(emulator)) / PICO
        each = billed(emulator) / PICO / emulator.stats()["answered"]
    assert report.exit_code is Exit.STOPPED
    assert most <= report.cost_usd
    assert spent <= most + 3 * max(each, 0.0008)


def test_a_cache_that_vanishes_costs_no_row(long: Project) -> None:
    """Requests that meet a deleted cache go out again without it, or with another."""
    with emulating("--tier", "paid", "--latency", "0.05") as emulator:
        with stealing(emulator):
            report = long.run(emulator.address)
        assert emulator.stats()["by_status"].get("403", 0) > 0
    whole(long, report)
    assert rows_of(long) == runs_of(report)


def test_a_killed_run_leaves_one_cache_that_is_used_again(long: Project) -> None:
    """The next run finds it by its name and deletes it in the end; what it stored is paid for once."""
    with emulating("--tier", "paid", "--latency", "0.2") as emulator:
        with started(long, emulator, "--concurrency", "4") as process:
            wait_for(lambda: emulator.stats()["answered"] >= 30)
            process.kill()
            process.communicate()
        left = caches(emulator)
        assert len(left) == 1
        with started(long, emulator, "--concurrency", "4") as last:
            last.communicate(timeout=60)
        assert last.returncode == 0
        assert caches(emulator) == []
        assert emulator.stats()["operations"]["cache-create"] == 1
        answered = emulator.stats()["answered"]
        slack = 4 / answered * billed(emulator) + 2 * AHEAD * 3_000 * STORAGE  # in flight at the kill
        assert math.isclose(rows_of(long), billed(emulator) + stored(emulator), abs_tol=slack)
    assert rows_of(long) / PICO > 0


def test_a_cache_lives_no_longer_than_its_run(long: Project) -> None:
    """It is made for minutes, so that whatever happens to a run nobody pays for hours."""
    with (
        emulating("--tier", "paid", "--latency", "0.2") as emulator,
        started(long, emulator, "--concurrency", "2") as process,
    ):
        wait_for(lambda: bool(caches(emulator)))
        kept = caches(emulator)[0]
        process.kill()
        process.communicate()
    created, expires = (datetime.fromisoformat(kept[name]) for name in ("createTime", "expireTime"))
    assert kept["displayName"].startswith("rowmill-")
    assert (expires - created).total_seconds() <= TTL + 5
