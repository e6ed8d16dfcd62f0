"""Lines of batches name a cache of the instruction where that pays; the emulator's own bill agrees."""

import sqlite3
import time
import urllib.request
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import cast

import pytest

from pipeline.batch import Batch, Vain
from pipeline.errors import Exit
from pipeline.executors.cached import AHEAD
from pipeline.executors.keeping import LONG, Keeping, Terms
from pipeline.gemini.caches import Caches
from pipeline.models import Price
from pipeline.report import RunReport
from pipeline.store.batches import FILE, Kept, Paths, Table, open_batches_of
from tests.bills import STORAGE, billed, caches, stored
from tests.conftest import Emulator, Project
from tests.reviews import INSTRUCTION, labels, texts
from tests.test_batch_run import limit
from tests.test_cli import KEY, Shell, shell, started, wait_for
from tests.test_costs import rows_of, runs_of

__all__ = ["shell"]

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # by the SDK

ROWS = 280  # a cache pays from 242 on


@pytest.fixture
def emulator(emulator: Emulator) -> Emulator:
    """Return the emulator as it was at first, without caches."""
    for cache in caches(emulator):
        drop(emulator, cache["name"])
    emulator.reset()
    return emulator


@pytest.fixture
def long(batched: Project) -> Project:
    """Return a project that asks by batches, with an instruction of some two thousand tokens."""
    batched.change('"You label reviews."', f'"{INSTRUCTION}"')
    batched.rows(texts(ROWS))
    return batched


def whole(project: Project, report: RunReport, rows: int = ROWS) -> None:
    """Check that every row has its own answer."""
    assert (report.exit_code, project.table()["label"].to_list()) == (Exit.OK, labels(rows))


def drop(emulator: Emulator, cache: str) -> None:
    """Delete a cache."""
    url = f"{emulator.address}/v1beta/{cache}"
    request = urllib.request.Request(url, headers={"x-goog-api-key": "test"}, method="DELETE")
    urllib.request.urlopen(request).close()


def answered(emulator: Emulator) -> int:
    """Return how many requests were answered, in batches and online, none of them twice."""
    assert emulator.stats()["repeated"] == 0
    return sum(bill["answered"] for bill in emulator.stats()["billed"].values())


def calls(emulator: Emulator, kind: str) -> int:
    """Return how many calls of a kind have come."""
    return int(emulator.stats()["operations"].get(kind, 0))


@pytest.mark.parametrize("rows", [1, 2])
def test_lines_name_a_cache_and_the_bill_agrees(long: Project, emulator: Emulator, rows: int) -> None:
    """All requests read the instruction there; what they and its storage cost is what rows and run say."""
    long.rows(texts(ROWS * rows))
    long.change("[output]", f"[packing]\nrows = {rows}\n\n[output]")
    limit(long, requests=100)
    report = long.run(emulator.address)
    whole(long, report, ROWS * rows)
    assert (long.table()["_cached_tokens"] > 0).sum() == (ROWS - 1) * rows  # the first line is asked online
    assert (calls(emulator, "batch-create"), calls(emulator, "cache-create")) == (3, 1)
    assert caches(emulator) == []
    assert rows_of(long) == runs_of(report)
    storage = rows_of(long) - billed(emulator)
    assert stored(emulator) * 0.99 <= storage <= stored(emulator) + 2 * AHEAD * 3_000 * STORAGE
    assert any("cached for batches" in note for note in report.notes), report.notes


def test_equal_prompts_are_one_line_while_a_cache_is_weighed(long: Project, emulator: Emulator) -> None:
    """Rows with keys of their own share the line of a prompt that was read before it was written."""
    long.rows([*texts(ROWS // 2), *texts(ROWS // 2), *texts(ROWS)])
    report = long.run(emulator.address)
    assert (report.exit_code, report.requests) == (Exit.OK, ROWS)
    assert (long.table()["_source"] == "cache").sum() == ROWS


def test_too_few_lines_carry_the_instruction(long: Project, emulator: Emulator) -> None:
    """Below what pays for a day nothing is rented."""
    long.rows(texts(240))
    whole(long, long.run(emulator.address), 240)
    assert not [name for name in emulator.stats()["operations"] if name.startswith("cache")]


def test_off_is_off(long: Project, emulator: Emulator) -> None:
    """Who does not want a cache gets none."""
    long.change("max_output_tokens = 200", 'max_output_tokens = 200\ncontext_cache = "off"')
    whole(long, long.run(emulator.address))
    assert not [name for name in emulator.stats()["operations"] if name.startswith("cache")]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("cache-create/400-argument@1+", "does not cache it"),
        ("cache-create/500@1", "cached for batches"),
        ("cache-update/400-argument@1+", None),
    ],
)
def test_what_the_api_refuses_costs_no_row(
    long: Project, emulator: Emulator, fault: str, said: str | None
) -> None:
    """A cache that cannot be made or kept leaves the lines with the instruction."""
    emulator.change(faults=[fault])
    report = long.run(emulator.address)
    whole(long, report)
    assert calls(emulator, "cache-create") <= 2
    assert caches(emulator) == []
    assert said is None or any(said in note for note in report.notes), report.notes


def test_the_same_answers_are_known_to_other_jobs(long: Project, emulator: Emulator) -> None:
    """What was asked with a cache is known by the request without it."""
    long.run(emulator.address)
    long.change('name = "labels"\nmode = "batch"', 'name = "other"')
    report = long.run(emulator.address)
    assert (report.requests, report.saved.cached) == (0, ROWS)


def test_lines_whose_cache_is_gone_are_asked_again(long: Project, emulator: Emulator) -> None:
    """Their rows come into another job, as often as before; none fails and none is answered twice."""
    long.rows(texts(2 * ROWS))
    long.change("[output]", "[packing]\nrows = 2\n\n[output]")
    emulator.change(batch_wait=60)
    assert long.run(emulator.address, detach=True).pending == 2 * ROWS - 2
    (cache,) = caches(emulator)
    drop(emulator, cache["name"])
    emulator.change(batch_wait=0)
    report = long.run(emulator.address)
    whole(long, report, 2 * ROWS)
    assert set(long.table()["_pack"]) == {2}
    assert any(f"{ROWS - 1} requests met `cache`" in note for note in report.notes), report.notes
    assert (answered(emulator), emulator.stats()["billed"]["batch"]["answered"]) == (ROWS, ROWS - 1)
    assert caches(emulator) == []


@pytest.mark.parametrize("kind", ["403-cache", "400-cache"])
def test_caches_that_are_of_no_use_end_with_none(long: Project, emulator: Emulator, kind: str) -> None:
    """After two that were gone, or that the lines might not use, the lines carry the instruction."""
    emulator.change(faults=[f"line/{kind}@1-{2 * ROWS}"])
    whole(long, long.run(emulator.address))
    assert calls(emulator, "cache-create") == 2
    assert (long.table()["_cached_tokens"] == 0).all()


def test_a_cache_outlives_the_run_as_long_as_its_job_may(long: Project, emulator: Emulator) -> None:
    """A run that leaves its jobs keeps the cache for two days; the next one deletes it."""
    emulator.change(batch_wait=60)
    long.run(emulator.address, detach=True)
    (cache,) = caches(emulator)
    created, expires = (datetime.fromisoformat(cache[name]) for name in ("createTime", "expireTime"))
    assert (expires - created).total_seconds() == pytest.approx(LONG, abs=60)
    emulator.change(batch_wait=0)
    whole(long, long.run(emulator.address))
    assert caches(emulator) == []


def test_who_cancels_rents_no_cache_any_more(shell: Shell, long: Project, emulator: Emulator) -> None:
    """It goes with the last job that needs it; what is taken in later bears what it cost till then."""
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    limit(long, requests=100)
    emulator.change(batch_work=3)
    long.run(emulator.address, detach=True)
    wait_for(lambda: answered(emulator) > 50)
    said = shell("cancel", long.job, "--base-url", emulator.address, "--yes")
    assert (said.code, "deleted: 1 context cache of the instruction" in said.err) == (Exit.OK, True)
    assert caches(emulator) == []
    emulator.change(batch_work=0)
    report = long.run(emulator.address)
    whole(long, report)
    storage = rows_of(long) - billed(emulator)
    assert stored(emulator) * 0.99 <= storage <= stored(emulator) + 4 * AHEAD * 3_000 * STORAGE


def test_a_cache_that_cannot_be_deleted_is_named(shell: Shell, long: Project, emulator: Emulator) -> None:
    """With the time until which it is billed."""
    shell.monkeypatch.setenv("GEMINI_API_KEY", KEY)
    emulator.change(batch_wait=60, faults=["cache-delete/400-argument@1"])
    long.run(emulator.address, detach=True)
    said = shell("cancel", long.job, "--base-url", emulator.address, "--yes")
    assert said.code == Exit.OK
    assert "a cache of the instruction could not be deleted, it is billed until" in said.err
    assert len(caches(emulator)) == 1


def test_a_kill_before_the_job_leaves_a_cache_for_minutes(long: Project, emulator: Emulator) -> None:
    """Nobody pays for days of storage where no job was created; the next run uses the same one."""
    emulator.change(faults=["upload-bytes/done-hang@1"])
    kill(long, emulator, "upload-bytes/done-hang")
    (cache,) = caches(emulator)
    created, expires = (datetime.fromisoformat(cache[name]) for name in ("createTime", "expireTime"))
    assert (expires - created).total_seconds() <= 601
    emulator.change(faults=[])
    whole(long, long.run(emulator.address, endpoint=emulator.address))
    assert (calls(emulator, "cache-create"), caches(emulator)) == (1, [])


def kill(project: Project, emulator: Emulator, held: str) -> None:
    """Kill a run as soon as the API holds a call back."""
    with started(project, emulator) as process:
        wait_for(lambda: held in emulator.stats()["held"])
        process.kill()
        process.communicate()


@pytest.mark.parametrize("when", ["hang", "done-hang"])
@pytest.mark.parametrize("call", ["cache-create", "cache-update", "cache-delete", "batch-create"])
def test_a_kill_leaves_one_bill_and_no_cache(long: Project, emulator: Emulator, call: str, when: str) -> None:
    """Killed while the API has done a step or not, the next run pays nothing twice and deletes the cache."""
    emulator.change(faults=[f"{call}/{when}@1"])
    kill(long, emulator, f"{call}/{when}")
    emulator.change(faults=[])
    report = long.run(emulator.address, endpoint=emulator.address)
    whole(long, report)
    assert answered(emulator) == ROWS
    assert (calls(emulator, "batch-create") <= 2, caches(emulator)) == (True, [])
    assert calls(emulator, "cache-create") == (2 if (call, when) == ("cache-create", "hang") else 1)
    storage = rows_of(long) - billed(emulator)
    assert stored(emulator) * 0.9 <= storage + AHEAD * 3_000 * STORAGE
    assert storage <= stored(emulator) + 3 * AHEAD * 3_000 * STORAGE


def test_a_table_of_an_earlier_version_is_gone_on_with(long: Project, emulator: Emulator) -> None:
    """The columns that it lacks are added, and it can be read before they are."""
    emulator.change(batch_wait=60)
    long.change("max_output_tokens = 200", 'max_output_tokens = 200\ncontext_cache = "off"')
    long.run(emulator.address, detach=True)
    folder = long.plan().folder.path
    with closing(sqlite3.connect(folder / FILE, isolation_level=None)) as db:
        for column in ("cache", "stored"):
            db.execute(f"ALTER TABLE batch DROP COLUMN {column}")
        db.execute("ALTER TABLE vain DROP COLUMN whole")
        db.execute("DROP TABLE cache")
    assert [batch.cache for batch in open_batches_of(folder)] == [""]
    with closing(Table(Paths(folder).table)) as table:
        assert table.put(Batch(7, "new", cache="cachedContents/x")) == table.all()[-1]
        table.put(Batch(7, "new", stage=table.all()[-1].stage.CLOSED))
        assert table.vain(b"id") == Vain()
    emulator.change(batch_wait=0)
    whole(long, long.run(emulator.address))


def test_a_batch_bears_storage_once(tmp_path: Path) -> None:
    """Whoever reads its results again finds what it bears, and the next batch bears from there on."""
    now = time.time()
    price = Price(0.125, 0.75, 0.025, storage=1.0)
    with closing(Table(tmp_path / "table")) as table:
        table.keep(Kept("cachedContents/x", "ours", 1_000, expires=now + 9_000, borne=now - 3_600))
        terms = Terms("model", "text", "ours", price, since=lambda: 0.0, wanted=True)
        keeping = Keeping(cast("Caches", None), table, terms, [])
        first = keeping.charged(Batch(1, "one", results="files/r", cache="cachedContents/x"))
        assert first.stored == pytest.approx(10**9 * (1 + AHEAD / 3_600), rel=1e-3)
        assert table.all() == [first] == [keeping.charged(first)]
        assert keeping.charged(Batch(2, "two", results="files/r", cache="cachedContents/x")).stored < 10**7
        assert keeping.charged(Batch(3, "three", cache="cachedContents/x")).stored == 0


def test_storage_that_no_answer_bears_is_left_to_the_next_batch(tmp_path: Path) -> None:
    """Of a job of which each line was refused; once more after a kill, too."""
    now, price = time.time(), Price(0.125, 0.75, 0.025, storage=1.0)
    with closing(Table(tmp_path / "table")) as table:
        table.keep(Kept("cachedContents/x", "ours", 1_000, expires=now + 9_000, borne=now - 3_600))
        terms = Terms("model", "text", "ours", price, since=lambda: 0.0, wanted=True)
        keeping = Keeping(cast("Caches", None), table, terms, [])
        for _ in range(2):
            charged = keeping.charged(Batch(1, "one", results="files/r", cache="cachedContents/x"))
            assert keeping.unborne(charged).stored == 0 == table.all()[0].stored
        borne = keeping.charged(Batch(2, "two", results="files/r", cache="cachedContents/x")).stored
        assert borne == pytest.approx(10**9 * (1 + AHEAD / 3_600), rel=1e-3)


def test_storage_that_has_come_to_cost_nothing_is_left_to_nobody(tmp_path: Path) -> None:
    """Prices may change between a kill and the next run."""
    now, price = time.time(), Price(0.125, 0.75, 0.025, storage=1.0)
    with closing(Table(tmp_path / "table")) as table:
        kept = Kept("cachedContents/x", "ours", 1_000, expires=now + 9_000, borne=now - 3_600)
        table.keep(kept)
        terms = Terms("model", "text", "ours", price, since=lambda: 0.0, wanted=True)
        keeping = Keeping(cast("Caches", None), table, terms, [])
        charged = keeping.charged(Batch(1, "one", results="files/r", cache=kept.name))
        free = replace(terms, price=replace(price, storage=0.0))
        assert charged.stored > 0
        assert Keeping(cast("Caches", None), table, free, []).unborne(charged).stored == 0
        assert table.all()[0].stored == 0
