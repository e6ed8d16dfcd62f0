"""Removing run folders: only ours, only finished ones unless told, never one that runs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import StoreError, UsageError
from pipeline.keys import fingerprint
from pipeline.removal import REMOVED, Choice, age, damaged, remove_damaged, remove_run, sweep
from pipeline.runs import Run, find_runs
from pipeline.store.completion import Completion, mark, unmark
from pipeline.store.folder import Folder, owned, run_folder
from pipeline.store.parts import Parts
from tests.store.test_compaction import LAYOUT, table

NOW = datetime.now(UTC)


def made(runs: Path, print_: str = "a", *, finished: bool = True) -> Folder:
    """Make a run folder with a part and a journal in it."""
    folder = run_folder(runs, "job", fingerprint({"row": print_}))
    with owned(folder, {"row": print_}):
        Parts(folder.parts, LAYOUT.part).write(table([1], 0))
        folder.journal.write_bytes(b"")
        if finished:
            mark(folder, Completion(ok=1, failed=0, limited=False, output=runs / "out.csv"))
    return folder


def run_of(folder: Folder) -> Run:
    """Describe a run folder."""
    return next(run for run in find_runs(folder.path.parent.parent) if run.folder == folder)


def test_a_finished_run_goes_whole(tmp_path: Path) -> None:
    """Of a removed run nothing stays, not even the empty folder of its job; others stay."""
    first, second = made(tmp_path, "a"), made(tmp_path, "b")
    remove_run(run_of(first), unfinished=False)
    assert [run.folder for run in find_runs(tmp_path)] == [second]
    remove_run(run_of(second), unfinished=False)
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_goes_only_when_told(tmp_path: Path) -> None:
    """A run that has begun again since it was listed is kept as well."""
    folder = made(tmp_path)
    run = run_of(folder)
    unmark(folder)
    with pytest.raises(StoreError, match="not finished"):
        remove_run(run, unfinished=False)
    assert find_runs(tmp_path) == [run_of(folder)]
    remove_run(run, unfinished=True)
    assert find_runs(tmp_path) == []


def test_a_run_that_is_owned_stays(tmp_path: Path) -> None:
    """The lock is taken before anything is removed."""
    folder = made(tmp_path)
    run = run_of(folder)
    with owned(folder, {"row": "a"}), pytest.raises(StoreError, match="already running"):
        remove_run(run, unfinished=True)
    assert folder.journal.exists()


@pytest.mark.parametrize("strange", ["notes.txt", "parts/other.parquet"])
def test_what_is_not_ours_is_never_removed(tmp_path: Path, strange: str) -> None:
    """A file that no run has written keeps the whole folder."""
    folder = made(tmp_path)
    (folder.path / strange).write_text("mine")
    with pytest.raises(StoreError, match=strange):
        remove_run(run_of(folder), unfinished=True)
    assert (folder.path / strange).read_text() == "mine"
    assert folder.journal.exists()


def test_what_was_set_aside_can_be_removed_alone(tmp_path: Path) -> None:
    """Damaged parts, journals and their logs go; all that counts stays, and a run that runs keeps all."""
    folder = made(tmp_path)
    before = set(folder.path.rglob("*"))
    names = ["parts/part-0000002.damaged", "parts/part-0000002.damaged-2", "identity.damaged"]
    names += [
        f"replies.sqlite{end}" for end in (".damaged", ".damaged-wal", "-wal.damaged", ".damaged-2-shm")
    ]
    for name in names:
        (folder.path / name).write_text("x")
    run = run_of(folder)
    found = damaged(run, None)
    assert sorted(str(path.relative_to(folder.path)) for path in found) == sorted(names)
    assert damaged(run, NOW - timedelta(hours=1)) == []
    with owned(folder, {"row": "a"}), pytest.raises(StoreError, match="already running"):
        remove_damaged(run, found)
    remove_damaged(run, found)
    assert set(folder.path.rglob("*")) == before


def test_what_a_kill_has_left_is_removed_next_time(tmp_path: Path) -> None:
    """A folder that was being removed is no run any more, and the next cleaning removes the rest."""
    folder = made(tmp_path)
    doomed = folder.path.with_name(folder.path.name + REMOVED)
    folder.path.rename(doomed)
    assert find_runs(tmp_path) == []
    (tmp_path / "job" / f"my{REMOVED}").mkdir()
    sweep(tmp_path)
    assert [path.name for path in (tmp_path / "job").iterdir()] == [f"my{REMOVED}"]


def test_which_runs_may_go(tmp_path: Path) -> None:
    """Finished and whole ones; others where they are named or all are meant; none that has changed since."""
    done, begun = run_of(made(tmp_path, "a")), run_of(made(tmp_path, "b", finished=False))
    assert Choice(done, named=False).may_go(None, unfinished=False)
    assert not Choice(begun, named=False).may_go(None, unfinished=False)
    assert Choice(begun, named=True).may_go(None, unfinished=False)
    assert Choice(begun, named=False).may_go(None, unfinished=True)
    part = next(done.folder.parts.iterdir())
    part.write_bytes(part.read_bytes()[:-1])
    assert not Choice(run_of(done.folder), named=False).may_go(None, unfinished=False)
    assert Choice(run_of(done.folder), named=True).may_go(None, unfinished=False)
    assert Choice(run_of(done.folder), named=False).may_go(None, unfinished=True)
    part.unlink()
    assert not Choice(run_of(done.folder), named=False).may_go(None, unfinished=False)
    assert not Choice(done, named=True).may_go(NOW - timedelta(hours=1), unfinished=False)
    assert Choice(done, named=False).may_go(NOW + timedelta(hours=1), unfinished=False)


def test_a_run_that_runs_may_not_go(tmp_path: Path) -> None:
    """It is passed over, and whoever names it is told."""
    folder = made(tmp_path)
    with owned(folder, {"row": "a"}):
        run = run_of(folder)
    assert not Choice(run, named=False).may_go(None, unfinished=True)
    with pytest.raises(StoreError, match="is running"):
        Choice(run, named=True).may_go(None, unfinished=True)


@pytest.mark.parametrize(("text", "hours"), [("12h", 12), ("30d", 720), ("2w", 336), ("0d", 0), ("90m", 1.5)])
def test_ages(text: str, hours: float) -> None:
    """Minutes, hours, days and weeks."""
    assert age(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["30", "d", "-1d", "1.5d", "30 days", "1s"])
def test_what_is_no_age(text: str) -> None:
    """Anything else is refused with examples."""
    with pytest.raises(UsageError) as caught:
        age(text)
    assert "30d" in caught.value.hint
    assert "units `m`, `h`, `d` and `w`" in caught.value.message
