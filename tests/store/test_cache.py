"""The response cache: what is learned is found again, and nothing that happens to it stops anybody."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.flow import Reply, Row, Usage
from pipeline.store.answers import ALWAYS, FILE, connect, disk_size, filled, prune, stock, surplus, unusable
from pipeline.store.cache import Cache, Learned, Use
from pipeline.store.journal import Journal

ROOT = Path(__file__).parents[2]
REPLIED = Reply("{}", "STOP", "", Usage(1, 0, 0, 2, 3), "gemini-3.1-flash-lite", "standard", 0.5, "api")
MANY = 10**9


def id_of(number: int) -> bytes:
    """Return an id."""
    return number.to_bytes(16, "big")


def row_of(number: int) -> Row:
    """Return a row with a key of its own."""
    return Row(number, id_of(number + 2**64), b"d" * 16, {})


def opened(folder: Path, use: Use = Use.FULL, *, most_bytes: int = MANY, most_rows: int = 1) -> Cache:
    """Open the cache of a folder."""
    return Cache(folder / FILE, use, most_bytes=most_bytes, most_rows=most_rows)


def fill(
    folder: Path,
    numbers: range,
    reply: Reply = REPLIED,
    *,
    use: Use = Use.FULL,
    now: int = 1_000,
    most_bytes: int = MANY,
) -> list[str]:
    """Run a journal and a cache in which these requests are answered; return the notes."""
    with (
        closing(Journal(folder / f"replies-{numbers.start}.sqlite")) as journal,
        closing(opened(folder, use, most_bytes=most_bytes)) as cache,
    ):
        for n in numbers:
            journal.keep(id_of(n), row_of(n), reply)
            cache.learn(Learned(id_of(n), id_of(n), row_of(n).key, reply.rows, asked=True))
        cache.write(folder / f"replies-{numbers.start}.sqlite", now)
        return cache.notes


def known(folder: Path, numbers: range, most_rows: int = 1) -> dict[int, Reply]:
    """Return what the cache of a folder knows."""
    with closing(opened(folder, most_rows=most_rows)) as cache:
        return {int.from_bytes(id_): reply for id_, reply in cache.find([*map(id_of, numbers)]).items()}


def test_what_is_learned_is_found_by_others(tmp_path: Path) -> None:
    """Answers come back whole, and only to the ids that they were learned under."""
    assert fill(tmp_path, range(3)) == []
    assert known(tmp_path, range(5)) == dict.fromkeys(range(3), REPLIED)


def test_an_answer_that_came_in_the_end_is_found_under_the_first_question(tmp_path: Path) -> None:
    """A repaired answer stands in the journal under another id than the cache has it under."""
    journal_file = tmp_path / "replies.sqlite"
    with closing(Journal(journal_file)) as journal, closing(opened(tmp_path)) as cache:
        journal.keep(id_of(7), row_of(1), REPLIED)
        cache.learn(Learned(id_of(1), id_of(7), row_of(1).key, 1, asked=True))
        cache.write(journal_file, 1_000)
    assert known(tmp_path, range(9)) == {1: REPLIED}


def test_more_can_be_looked_up_than_one_statement_takes(tmp_path: Path) -> None:
    """SQLite takes 32,766 variables, or up to 250,000 where it is built so; all that are known are found."""
    assert fill(tmp_path, range(299_000, 301_001)) == []
    with closing(opened(tmp_path)) as cache:
        found = cache.find([id_of(number) for number in range(300_000)])
        assert cache.notes == []
    assert {int.from_bytes(id_) for id_ in found} == set(range(299_000, 300_000))


def test_nothing_is_made_where_nothing_is_learned(tmp_path: Path) -> None:
    """No file appears for a run that asks nothing, nor for one without the cache."""
    fill(tmp_path, range(0))
    fill(tmp_path, range(3), use=Use.NONE)
    assert not (tmp_path / FILE).exists()


def test_an_answer_out_of_a_pack_serves_only_those_who_pack(tmp_path: Path) -> None:
    """Who asks for rows alone takes none; what is asked alone replaces it, but not the other way round."""
    packed = replace(REPLIED, rows=20, text="packed")
    fill(tmp_path, range(1), packed)
    assert known(tmp_path, range(1)) == {}
    assert known(tmp_path, range(1), most_rows=20) == {0: packed}
    (tmp_path / "replies-0.sqlite").unlink()
    fill(tmp_path, range(1))
    assert known(tmp_path, range(1), most_rows=20) == {0: REPLIED}
    (tmp_path / "replies-0.sqlite").unlink()
    fill(tmp_path, range(1), packed)
    assert known(tmp_path, range(1), most_rows=20) == {0: REPLIED}


def test_refresh_finds_nothing_and_replaces(tmp_path: Path) -> None:
    """It asks although the cache knows, and what it learns is found by the next one."""
    fill(tmp_path, range(2))
    newer = replace(REPLIED, text="newer")
    with closing(opened(tmp_path, Use.REFRESH)) as cache:
        assert cache.find([id_of(0)]) == {}
    (tmp_path / "replies-0.sqlite").unlink()
    fill(tmp_path, range(1), newer, use=Use.REFRESH)
    assert known(tmp_path, range(2)) == {0: newer, 1: REPLIED}


def test_what_an_earlier_run_had_replaces_nothing(tmp_path: Path) -> None:
    """A run that is continued later does not bring back what somebody has refreshed meanwhile."""
    fill(tmp_path, range(1), replace(REPLIED, text="newer"))
    older = tmp_path / "older.sqlite"
    with closing(Journal(older)) as journal, closing(opened(tmp_path)) as cache:
        journal.keep(id_of(0), row_of(0), REPLIED)
        cache.learn(Learned(id_of(0), id_of(0), row_of(0).key, 1, asked=False))
        cache.write(older, 2_000)
    assert known(tmp_path, range(1))[0].text == "newer"


def test_a_refresh_that_a_batch_has_answered_replaces(tmp_path: Path) -> None:
    """What came while no run was there replaces what is older, and nothing that is newer."""
    fill(tmp_path, range(1), replace(REPLIED, text="middle", at=50.0))
    for name, at in (("older", 40.0), ("newer", 60.0)):
        path = tmp_path / f"{name}.sqlite"
        with closing(Journal(path)) as journal, closing(opened(tmp_path, Use.REFRESH)) as cache:
            journal.keep(id_of(0), row_of(0), replace(REPLIED, text=name, at=at))
            cache.learn(Learned(id_of(0), id_of(0), row_of(0).key, 1, asked=False))
            cache.write(path, 2_000)
        assert known(tmp_path, range(1))[0].text == ("middle" if name == "older" else "newer")


def test_a_damaged_entry_is_not_served_and_goes(tmp_path: Path) -> None:
    """One flipped byte makes an answer unknown; it is removed, and named once."""
    fill(tmp_path, range(3))
    with closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        db.execute("UPDATE answer SET body = replace(body, 'STOP', 'STOQ') WHERE id = ?", (id_of(1),))
        db.execute("UPDATE answer SET body = CAST(body AS BLOB)")
    assert stock(tmp_path / FILE).damaged == 1
    with closing(opened(tmp_path)) as cache:
        assert sorted(cache.find([*map(id_of, range(3))])) == [id_of(0), id_of(2)]
        cache.write(tmp_path / "replies-0.sqlite", 1_000)
        assert "1 answer in the cache had a wrong checksum" in cache.notes[0]
    assert (stock(tmp_path / FILE).entries, stock(tmp_path / FILE).damaged) == (2, 0)


@pytest.mark.parametrize("damage", ["rubbish", "cut", "empty", "foreign", "middle"])
def test_a_damaged_file_is_set_aside_and_begun_anew(tmp_path: Path, damage: str) -> None:
    """The run goes on, what it learns stands in a new file, the damaged one is kept."""
    fill(tmp_path, range(2_000))
    path = tmp_path / FILE
    raw = path.read_bytes()
    match damage:
        case "rubbish":
            path.write_bytes(b"no database at all, really" * 200)
        case "cut":
            path.write_bytes(raw[: len(raw) // 2])
        case "empty":
            path.write_bytes(b"")
        case "middle":
            path.write_bytes(raw[:4096] + b"\xff" * (len(raw) - 4096))
        case _:
            path.unlink()
            with closing(sqlite3.connect(path)) as db:
                db.execute("CREATE TABLE other (a)")
    journal_file = tmp_path / "new.sqlite"
    with closing(Journal(journal_file)) as journal, closing(opened(tmp_path)) as cache:
        cache.find([*map(id_of, range(2_000))][:900])
        journal.keep(id_of(5_000), row_of(5_000), REPLIED)
        cache.learn(Learned(id_of(5_000), id_of(5_000), row_of(5_000).key, 1, asked=True))
        cache.write(journal_file, 1_000)
        assert "set aside as `cache.sqlite.damaged`" in cache.notes[0]
    assert (tmp_path / "cache.sqlite.damaged").exists()
    assert known(tmp_path, range(5_000, 5_001)) == {5_000: REPLIED}


def test_a_folder_that_cannot_be_written_is_named_once(tmp_path: Path) -> None:
    """Where the file cannot be made the run goes on without it."""
    journal_file = tmp_path / "replies.sqlite"
    (tmp_path / "file").write_text("")
    with closing(Journal(journal_file)) as journal, closing(opened(tmp_path / "file")) as cache:
        for n in range(2):
            journal.keep(id_of(n), row_of(n), REPLIED)
            cache.learn(Learned(id_of(n), id_of(n), row_of(n).key, 1, asked=True))
            cache.write(journal_file, 1_000)
        assert len(cache.notes) == 1
        assert "the run went on without it" in cache.notes[0]


def test_no_room_may_be_that_of_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite says only that a disk is full, so both places where it writes are named."""
    monkeypatch.setenv("TMPDIR", "/tmp/elsewhere")
    with closing(connect(tmp_path / FILE)) as db:
        db.execute("PRAGMA max_page_count=1")
        with pytest.raises(sqlite3.OperationalError, match="full") as raised:
            db.execute("CREATE TABLE more (name)")
    said = unusable(tmp_path / FILE, raised.value).message
    assert f"`{tmp_path / FILE}`" in said
    assert "temporary files `/tmp/elsewhere` (TMPDIR" in said


def test_a_deleted_file_is_no_matter(tmp_path: Path) -> None:
    """It may go at any time, also while it is open."""
    fill(tmp_path, range(2))
    with closing(opened(tmp_path)) as cache:
        for file in tmp_path.glob(f"{FILE}*"):
            file.unlink()
        cache.find([id_of(0)])
        cache.use(id_of(0))
        cache.write(tmp_path / "replies-0.sqlite", 9_000)
    fill(tmp_path, range(3, 5))
    assert known(tmp_path, range(9)) == dict.fromkeys(range(3, 5), REPLIED)


def test_a_damaged_journal_is_not_the_fault_of_the_cache(tmp_path: Path) -> None:
    """The cache stays where it is when what it reads from is damaged."""
    fill(tmp_path, range(2))
    bad = tmp_path / "bad.sqlite"
    bad.write_bytes(b"no database at all, really" * 200)
    with closing(opened(tmp_path)) as cache:
        cache.learn(Learned(id_of(9), id_of(9), row_of(9).key, 1, asked=True))
        cache.write(bad, 1_000)
    assert known(tmp_path, range(9)) == dict.fromkeys(range(2), REPLIED)


def test_the_bound_holds_and_what_was_used_last_stays(tmp_path: Path) -> None:
    """With more than fits, the file shrinks below its bound and loses what was not used for longest."""
    big = replace(REPLIED, text="x" * 900)
    fill(tmp_path, range(600), big, now=1_000)
    with closing(opened(tmp_path)) as cache:
        for n in range(100):
            cache.use(id_of(n))
        cache.write(tmp_path / "replies-0.sqlite", 90_000)
    fill(tmp_path, range(600, 1_100), big, now=95_000, most_bytes=10**6)
    assert disk_size(tmp_path / FILE) <= 10**6
    left = known(tmp_path, range(1_100))
    assert set(range(1_099, 900, -1)) | set(range(100)) <= set(left)
    assert not set(range(100, 400)) & set(left)


@settings(max_examples=25)
@given(
    batches=st.lists(st.integers(1, 60), max_size=6),
    most=st.integers(40_000, 90_000),
    size=st.integers(1, 900),
)
def test_the_bound_holds_whatever_is_learned(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], most: int, size: int
) -> None:
    """After each write the entries take no more than the bound, and what was learned last is there."""
    folder, start = tmp_path_factory.mktemp("cache"), 0
    for number, count in enumerate(batches):
        reply = replace(REPLIED, text="x" * size)
        fill(folder, range(start, start + count), reply, now=number, most_bytes=most)
        start += count
        with closing(connect(folder / FILE)) as db:
            assert filled(db) <= most
        assert start - 1 in known(folder, range(start))


def test_pruning_by_age_and_size(tmp_path: Path) -> None:
    """Old entries go, all go, and the file gives the room back."""
    path = tmp_path / FILE
    fill(tmp_path, range(500), replace(REPLIED, text="x" * 900), now=1_000)
    fill(tmp_path, range(500, 700), replace(REPLIED, text="x" * 900), now=2_000)
    before = disk_size(path)
    assert surplus(path, None, 2_000) == 500
    prune(path, 500)
    assert (set(known(tmp_path, range(700))), stock(path).entries) == (set(range(500, 700)), 200)
    assert disk_size(path) < before / 2
    prune(path, surplus(path, None, ALWAYS))
    assert stock(path).entries == 0


def test_two_at_once_lose_nothing(tmp_path: Path) -> None:
    """Processes that begin and fill one cache at the same time all get in."""
    code = (
        "import sys; from pathlib import Path; from tests.store.test_cache import fill\n"
        "start = int(sys.argv[2])\n"
        "for n in range(start, start + 1_000, 100):\n"
        "    assert fill(Path(sys.argv[1]), range(n, n + 100)) == []\n"
    )
    starts = [0, 1_000, 2_000]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(start)], cwd=ROOT)
        for start in starts
    ]
    assert [one.wait(timeout=100) for one in running] == [0, 0, 0]
    assert stock(tmp_path / FILE).entries == 3_000
    assert not [*tmp_path.glob("*.tmp")]


def test_kill_while_it_is_written(tmp_path: Path) -> None:
    """SIGKILL at any moment leaves a file that the next one uses, with nothing damaged in it."""
    code = (
        "import sys; from pathlib import Path; from tests.store.test_cache import fill\n"
        "n = int(sys.argv[2])\n"
        "while True:\n"
        "    fill(Path(sys.argv[1]), range(n, n + 50)); n += 50; print(n, flush=True)\n"
    )
    start = 0
    for turn in range(6):
        command = [sys.executable, "-c", code, str(tmp_path), str(start)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(turn + 1):
                start = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
        start += 1_000
        found = stock(tmp_path / FILE)
        assert found.damaged == 0
        assert found.entries >= 50 * (turn + 1)
    assert fill(tmp_path, range(10**6, 10**6 + 5)) == []
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
