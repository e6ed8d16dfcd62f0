"""Files appear whole or not at all."""

import os
from pathlib import Path

import pytest

from pipeline.disk import clear_drafts, draft_of, make_folder, obstacle, set_aside, whole_file
from tests.conftest import NOBODY, as_nobody, open_to_all


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    """Before the end of the block the target is not there, after it is."""
    target = tmp_path / "table"
    with whole_file(target) as draft:
        draft.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_an_old_file_stays_when_writing_fails(tmp_path: Path) -> None:
    """A failure leaves the old file and no draft."""
    target = tmp_path / "table"
    target.write_text("old")

    def spoil() -> None:
        with whole_file(target) as draft:
            draft.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        spoil()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("file/a", "`file` is no folder"),
        ("file/a/b", "`file` is no folder"),
        ("nowhere/a", "`nowhere` is a link that leads to no folder"),
        ("loop/a", "`loop` is a link that leads to no folder"),
        ("folder/" + "é" * 122 + ".parquet", "its name is too long"),
        ("x" * 300 + "/a", "its name is too long"),
        ("closed/a/b", "the folder `closed` may not be written to"),
        ("a/b/c", None),
        ("way/a", None),
    ],
)
def test_what_is_in_the_way_is_known_before(tmp_path: Path, name: str, said: str | None) -> None:
    """Of a file that is yet to be written, without writing anything."""
    (tmp_path / "file").touch()
    for folder, mode in (("folder", 0o777), ("closed", 0o555)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder).chmod(mode)
    for link, to in (("nowhere", "missing/x"), ("loop", "loop"), ("way", "folder")):
        (tmp_path / link).symlink_to(to)
    open_to_all(tmp_path)
    if os.geteuid() == 0:
        os.chown(tmp_path, NOBODY, -1)
    before = sorted(tmp_path.rglob("*"))
    with as_nobody():
        found = obstacle(tmp_path / name)
    assert found == (said and said.replace("`", f"`{tmp_path}/", 1))
    assert sorted(tmp_path.rglob("*")) == before


def test_drafts_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    """Only drafts of the named file go, whatever signs its name holds."""
    mine, other = tmp_path / "a[1].parquet.77.tmp", tmp_path / "b.parquet.77.tmp"
    for draft in (mine, other):
        draft.write_text("half")
    clear_drafts(tmp_path, "a[1].parquet")
    assert list(tmp_path.iterdir()) == [other]


def test_what_is_being_written_is_no_left_over(tmp_path: Path) -> None:
    """A draft that somebody writes stays, and so does a file that only ends like one."""
    foreign = tmp_path / "notes.tmp"
    foreign.write_text("not ours")
    with whole_file(tmp_path / "table") as draft:
        clear_drafts(tmp_path)
        assert draft.exists()
    assert foreign.exists()


def test_two_writers_of_one_number_do_not_meet(tmp_path: Path) -> None:
    """A draft that another process with our number writes stays its own; each file gets its own content."""
    target = tmp_path / "table"
    with whole_file(target) as first:
        first.write_text("first")
        with whole_file(target) as second:
            second.write_text("second")
        assert target.read_text() == "second"
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_nothing_of_a_left_over_gets_into_a_file(tmp_path: Path) -> None:
    """A draft that a killed process of the same number has left is empty when it is written anew."""
    (tmp_path / f"table.{os.getpid()}.tmp").write_text("a long left-over")
    with whole_file(tmp_path / "table") as draft, draft.open("r+") as file:
        file.write("new")
    assert (tmp_path / "table").read_text() == "new"


def test_a_draft_goes_unless_it_was_renamed(tmp_path: Path) -> None:
    """A new file under the name that it had is somebody else's and stays."""
    with draft_of(tmp_path / "table") as (draft, _):
        clear_drafts(tmp_path)
        assert draft.exists()
    assert not draft.exists()
    with draft_of(tmp_path / "table") as (draft, _):
        draft.rename(tmp_path / "table")
        draft.write_text("another")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "table", draft]


def test_folders_are_made_with_those_above(tmp_path: Path) -> None:
    """Missing parents are made; what is there already is no error."""
    for _ in range(2):
        make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_what_is_set_aside_keeps_its_content_and_replaces_nothing(tmp_path: Path) -> None:
    """Each damaged file of one name gets a name of its own."""
    for content in ("first", "second"):
        (tmp_path / "x.parquet").write_text(content)
        assert set_aside(tmp_path / "x.parquet").read_text() == content
    assert len(list(tmp_path.glob("x.damaged*"))) == 2
