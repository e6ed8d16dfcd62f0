"""How an input stood with the parts: taken for the very same of both only, and only when whole."""

import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.input.survey import NAMES, Survey
from pipeline.scratch import Column
from pipeline.store import census, memo
from pipeline.store.census import Census
from pipeline.store.folder import Folder
from pipeline.store.memo import FILE, Follower, recall, remember
from pipeline.store.parts import Parts
from pipeline.store.standing import Standing, stand
from tests.store.test_compaction import DIGEST, LAYOUT, key, table

ROWS = 40


@pytest.fixture(autouse=True)
def worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every input be worth it."""
    monkeypatch.setattr(census, "WORTH", 1)


def taken(name: bytes = b"x" * 16) -> Census:
    """Survey an input of numbered rows."""
    rows = np.empty(ROWS, NAMES)
    rows["key"] = [int.from_bytes(key(one)[:8], "little") for one in range(1, ROWS + 1)]
    rows["digest"] = int.from_bytes(DIGEST[:8], "little")
    survey = Survey(Column(NAMES))
    survey.names.add(rows)
    return Census(survey, name, kept=False)


def opened(folder: Path) -> Parts:
    """Open the parts of a run folder."""
    (folder / "parts").mkdir(exist_ok=True)
    return Parts(folder / "parts", LAYOUT.part)


def kept(folder: Path) -> Standing:
    """Answer some rows and keep how the input stands then."""
    parts = opened(folder)
    for start in (1, 11, 5):
        parts.write(table(list(range(start, start + 10)), start))
    standing = stand(taken().survey, parts)
    remember(standing, taken(), Folder(folder))
    return standing


def stood(standing: Standing) -> list[object]:
    """Return all that a standing says."""
    return [standing.rows.read().tolist(), standing.index.starts.tolist(), standing.index.last_round]


def test_what_is_kept_is_taken_without_reading_the_parts(tmp_path: Path) -> None:
    """The same input and parts stand as they stood; a part that is cut in place shows that none was read."""
    first = kept(tmp_path)
    parts = opened(tmp_path)
    found = recall(taken(), parts, Folder(tmp_path))
    assert found is not None
    for path in parts.paths:
        path.write_bytes(b"")
    assert stood(stand(taken().survey, parts, found)) == stood(first)


def test_new_parts_are_added(tmp_path: Path) -> None:
    """Rows that were answered since, or again, stand as if all parts were read."""
    kept(tmp_path)
    parts = opened(tmp_path)
    parts.write(table([3, 30, 3, 12], 2))
    parts.write(table([12, 35], 4))
    found = stand(taken().survey, parts, recall(taken(), parts, Folder(tmp_path)))
    assert found.index.known == 3
    assert stood(found) == stood(stand(taken().survey, parts))


@pytest.mark.parametrize("before", [0, 3])
def test_a_run_follows_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int) -> None:
    """After a kill no more rows are new than may be between two times that it is written."""
    monkeypatch.setattr(memo, "OFTEN", 15)
    if before:
        kept(tmp_path)
    parts = opened(tmp_path)
    standing = stand(taken().survey, parts, recall(taken(), parts, Folder(tmp_path)))
    follower = Follower(standing, taken(), parts, Folder(tmp_path))
    for number in range(7):
        parts.write(table(list(range(number, number + 10)), number))
        follower.follow()
        found = recall(taken(), parts, Folder(tmp_path))
        assert (0 if found is None else len(found.index.files)) == before + (number + 1) // 2 * 2
    assert stood(stand(taken().survey, parts, found)) == stood(stand(taken().survey, parts))
    assert follower.standing.index.known == before + 4


@pytest.mark.parametrize("change", ["input", "part", "time", "gone", "no part"])
def test_another_input_or_part_is_not_taken(tmp_path: Path, change: str) -> None:
    """An input of another name, a part that was written over, touched or removed, or no part at all."""
    kept(tmp_path)
    first = opened(tmp_path).paths[0]
    if change == "part":
        raw = first.read_bytes()
        first.write_bytes(raw)
    elif change == "time":
        os.utime(first, ns=(1, 1))
    elif change in {"gone", "no part"}:
        for path in opened(tmp_path).paths[: 1 if change == "gone" else None]:
            path.unlink()
    name = b"y" * 16 if change == "input" else b"x" * 16
    assert recall(taken(name), opened(tmp_path), Folder(tmp_path)) is None


def test_no_changed_byte_is_taken(tmp_path: Path) -> None:
    """Each byte in turn, and each cut: it is not whole then."""
    kept(tmp_path)
    path = tmp_path / FILE
    whole, parts = path.read_bytes(), opened(tmp_path)
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x21]) + whole[at + 1 :])
        assert recall(taken(), parts, Folder(tmp_path)) is None, at
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at])
        assert recall(taken(), parts, Folder(tmp_path)) is None, at
    path.write_bytes(whole)
    assert recall(taken(), parts, Folder(tmp_path)) is not None
