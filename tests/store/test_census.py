"""The survey that is kept: taken for the very same input only, and never where it is not whole."""

import os
import time
from pathlib import Path

import polars as pl
import pytest

from pipeline.errors import StoreError
from pipeline.input.source import Source, open_source
from pipeline.input.survey import Survey
from pipeline.store import census as subject
from pipeline.store.census import FILE, census, keep, misleads
from pipeline.store.folder import Folder


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the survey of any input be worth keeping, and every file count as settled."""
    monkeypatch.setattr(subject, "WORTH", 1)
    monkeypatch.setattr(subject, "SETTLED", 0.0)


def opened(folder: Path, key: str = "id", used: str = "text", limit: int | None = None) -> Source:
    """Open the input of a folder."""
    return open_source(folder / "rows.csv", key=[key], used=[used], limit=limit)


def write(folder: Path, *texts: str) -> None:
    """Write the input of a folder."""
    pl.DataFrame({"id": range(len(texts)), "text": texts, "more": range(len(texts))}).write_csv(
        folder / "rows.csv"
    )


def seen(survey: Survey) -> list[tuple[int, int]]:
    """Return what a survey holds."""
    found: list[tuple[int, int]] = survey.names.read().tolist()
    return found


def kept(folder: Path) -> Survey:
    """Survey the input of a folder and keep that."""
    taken = census(opened(folder), Folder(folder))
    assert not taken.kept
    keep(taken, Folder(folder))
    return taken.survey


def test_an_unchanged_input_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept is what was seen."""
    write(tmp_path, "good", "bad", "good")
    first = kept(tmp_path)
    monkeypatch.setattr(Source, "survey", lambda _: pytest.fail("it was read again"))
    again = census(opened(tmp_path), Folder(tmp_path))
    assert again.kept
    assert seen(again.survey) == seen(first)


def test_a_changed_cell_of_the_same_size_and_time_is_seen(tmp_path: Path) -> None:
    """A program may set the time of a change back, but not that of the last change of any kind."""
    write(tmp_path, "good", "bad!")
    before = (tmp_path / "rows.csv").stat()
    first = kept(tmp_path)
    content = (tmp_path / "rows.csv").read_text().replace("bad!", "fine")
    with (tmp_path / "rows.csv").open("r+") as file:
        file.write(content)
    os.utime(tmp_path / "rows.csv", ns=(before.st_atime_ns, before.st_mtime_ns))
    after = (tmp_path / "rows.csv").stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )
    again = census(opened(tmp_path), Folder(tmp_path))
    assert not again.kept
    assert seen(again.survey) != seen(first)


@pytest.mark.parametrize("other", [{"key": "more"}, {"used": "more"}, {"limit": 1}])
def test_another_reading_of_the_same_file_is_another_survey(tmp_path: Path, other: dict[str, str]) -> None:
    """Key columns, the columns of the prompt and a limit all count."""
    write(tmp_path, "good", "bad")
    kept(tmp_path)
    assert not census(opened(tmp_path, **other), Folder(tmp_path)).kept  # type: ignore[arg-type]


def test_a_file_that_was_just_written_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more change could leave its times as they are."""
    monkeypatch.setattr(subject, "SETTLED", 60.0)
    write(tmp_path, "good")
    taken = census(opened(tmp_path), Folder(tmp_path))
    keep(taken, Folder(tmp_path))
    assert taken.name is None
    assert not (tmp_path / FILE).exists()


def test_a_small_input_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read again faster than anybody notices."""
    monkeypatch.setattr(subject, "WORTH", 2)
    write(tmp_path, "good")
    keep(census(opened(tmp_path), Folder(tmp_path)), Folder(tmp_path))
    assert not (tmp_path / FILE).exists()


def test_no_damage_is_taken_for_a_survey(tmp_path: Path) -> None:
    """Any bit may flip, and the file may be cut anywhere."""
    write(tmp_path, "good", "bad")
    first = kept(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        for content in (bytes(damaged), whole[:place]):
            (tmp_path / FILE).write_bytes(content)
            again = census(opened(tmp_path), Folder(tmp_path))
            assert not again.kept
            assert seen(again.survey) == seen(first)


def test_verifying_finds_a_survey_that_is_not_true(tmp_path: Path) -> None:
    """One of another input under the name of this one."""
    write(tmp_path, "good", "bad")
    first = kept(tmp_path)
    source = opened(tmp_path)
    assert not misleads(first, source, Folder(tmp_path))
    write(tmp_path, "good", "fine")
    other = opened(tmp_path).survey()
    assert not misleads(other, opened(tmp_path), Folder(tmp_path))  # it is of another state of the file
    now = subject._name(opened(tmp_path), time.time())
    keep(subject.Census(first, now, kept=False), Folder(tmp_path))
    assert misleads(other, opened(tmp_path), Folder(tmp_path))


def test_a_survey_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    """As any other file of the store does."""
    write(tmp_path, "good")
    taken = census(opened(tmp_path), Folder(tmp_path))
    with pytest.raises(StoreError, match="survey"):
        keep(taken, Folder(tmp_path / "missing"))
