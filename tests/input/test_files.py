"""Which files a path, a folder or a glob means."""

from pathlib import Path

import pytest

from pipeline.input.files import find, would_read

PLACES = ["a.csv", "b.parquet", "in/a.csv", "in/out.ndjson", "in/deep/a.CSV", "in/.hidden/a.csv", "in/.a.csv"]
INPUTS = [
    "in",
    ".",
    "in/*.csv",
    "in/*",
    "in/**",
    "**/*.csv",
    "*/*.csv",
    "in/**/[af]*.*",
    "in/.*",
    "in/first.csv",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_a_target_is_one_of_the_files_once_it_is_written(
    tmp_path: Path, given: str, place: str, kind: str
) -> None:
    """What is told before it exists is what is found when it does."""
    target, path = tmp_path / place, tmp_path / given
    for name in ("in/first.csv", "in/first.ndjson", "in/.first"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    told = would_read(path, kind, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    assert told == (target in find(path, kind)[0])


def test_a_folder_without_a_format_reads_tables_of_every_kind(tmp_path: Path) -> None:
    """So does a link to it; a name that no table has is none of its files."""
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    assert would_read(tmp_path / "in", None, tmp_path / "link" / "out.parquet")
    assert would_read(tmp_path / "link", None, tmp_path / "in" / "out.parquet")
    assert not would_read(tmp_path / "in", None, tmp_path / "in" / "out.txt")
    assert not would_read(tmp_path / "in", None, tmp_path / "inner" / "out.csv")
