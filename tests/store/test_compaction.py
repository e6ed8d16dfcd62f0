"""Compaction: the same answers in fewer parts, whatever is killed when."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.arrow import Layout
from pipeline.flow import Failure, FailureKind, Outcome, Spent
from pipeline.heads import heads
from pipeline.store import compaction
from pipeline.store.compaction import LARGE, MANY, REACH, compact
from pipeline.store.parts import Parts


class Number(BaseModel):
    """An answer that tells which write it came from."""

    number: int


class Killed(BaseException):
    """The process is dead: it does nothing more to any file."""


LAYOUT = Layout(Number)
DIGEST = b"d" * 16


class Power:
    """Lets so many file operations happen, and none after these."""

    def __init__(self) -> None:
        self.left: int | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, _arguments: tuple[object, ...]) -> None:
        if self.left is None or event not in {"open", "os.rename", "os.remove"}:
            return
        if not self.left:
            raise Killed
        self.left -= 1

    @contextmanager
    def cut_after(self, operations: int) -> Iterator[None]:
        """Kill the block before its next file operation after these."""
        self.left = operations
        try:
            yield
        except Killed:
            pass
        finally:
            self.left = None


POWER = Power()  # an audit hook stays for ever, so there is one


def key(name: int) -> bytes:
    """Return the key of a row."""
    return name.to_bytes(16, "little") if name else b"\xff" * 16


def table(names: list[int], number: int) -> pa.Table:
    """Return a part in which these rows are answered with `number`; every third answer is a failure."""
    answer = Failure(FailureKind.INVALID, "no") if number % 3 == 2 else Number(number=number)
    return LAYOUT.table([Outcome(key(name), DIGEST, answer, Spent(cost_usd=number)) for name in names])


def opened(folder: Path) -> Parts:
    """Open the parts as the owner of a run folder does."""
    parts = Parts(folder, LAYOUT.part)
    parts.clean()
    return parts


def answers(parts: Parts, names: list[int]) -> list[object]:
    """Return what the parts answer to these rows."""
    index = parts.index()
    entries = np.concatenate([index.entries.read(number) for number in range(index.entries.count)])
    places = {entry["key"]: entry["place"] for entry in entries[np.argsort(entries["place"])]}
    wanted = np.array([places[head] for head in heads([key(name) for name in names])], np.int64)
    rows: list[object] = parts.take(index, wanted).drop_columns(["_digest"]).to_pylist()
    return rows


def files(folder: Path) -> int:
    """Return how many parts there are."""
    return len(list(folder.glob("part-*.parquet")))


WRITES = st.lists(st.integers(0, 12), min_size=0, max_size=6)
STEPS = st.lists(
    st.tuples(st.lists(WRITES, min_size=1, max_size=MANY + 8), st.integers(0, 2 * MANY + 8), st.booleans()),
    min_size=1,
    max_size=3,
)


@settings(max_examples=12)
@given(steps=STEPS)
def test_no_kill_changes_an_answer(steps: list[tuple[list[list[int]], int, bool]]) -> None:
    """Any writes and compactions, killed before any file operation, leave the last answer to each row."""
    last: dict[int, int] = {}
    number = 0
    with TemporaryDirectory() as name:
        folder = Path(name)
        for writes, operations, within in steps:
            parts = opened(folder)
            for names in writes:
                number += 1
                parts.write(table(names, number))
                last |= dict.fromkeys(names, number)
                if within:
                    compact(parts, REACH)
            with POWER.cut_after(operations):
                compact(parts)
            rows = sorted(last)
            found = answers(opened(folder), rows)
            expected = [table([row], last[row]).drop_columns(["_digest"]).to_pylist()[0] for row in rows]
            assert found == expected
        parts = opened(folder)
        compact(parts)
        assert files(folder) < MANY


def test_a_kill_leaves_what_it_says(tmp_path: Path) -> None:
    """Each number of operations is a moment of its own, until all are done; so the kills are real."""
    left = []
    (tmp_path / "before").mkdir()
    parts = opened(tmp_path / "before")
    for number in range(MANY):
        parts.write(table([number], number))
    for operations in range(3 * MANY - 2, 4 * MANY + 12):  # three times each part is opened to be read
        folder = tmp_path / str(operations)
        shutil.copytree(tmp_path / "before", folder)
        parts = opened(folder)
        with POWER.cut_after(operations):
            compact(parts)
        left.append(len(list(folder.iterdir())))
    draft = left.index(MANY + 1)
    assert set(left[:draft]) <= {MANY}
    assert left[draft:] == sorted(left[draft:], reverse=True)
    assert len(set(left)) == MANY + 1
    assert left[-1] == 1


def test_a_slow_run_keeps_few_parts(tmp_path: Path) -> None:
    """A part a minute for days: their number follows the rows, with an index in use all the time."""
    parts = opened(tmp_path)
    parts.write(table([1_000_000], 1))
    index = parts.index()
    first = parts.take(index, np.array([0]))
    most = 0
    for turn in range(120):
        parts.write(table(list(range(turn * 200, turn * 200 + 200)), turn))
        compact(parts, REACH)
        most = max(most, files(tmp_path))
    assert most <= 120 * 200 / LARGE + MANY + 1
    assert parts.take(index, np.array([0])).equals(first)
    assert parts.index().starts[-1] == 120 * 200 + 1


def test_large_parts_stay_as_they_are(tmp_path: Path) -> None:
    """Parts of a fast run between small ones are not written again, and newer answers in them win."""
    parts = opened(tmp_path)
    for number in range(MANY):
        parts.write(table([number], number))
    parts.write(table(list(range(LARGE)), 700))
    large = max(tmp_path.iterdir())
    before = large.stat().st_mtime_ns
    parts.write(table([3], 800))
    compact(parts)
    assert large.stat().st_mtime_ns == before
    assert [row["_cost_usd"] for row in answers(parts, [2, 3, 4])] == [700, 800, 700]  # type: ignore[index]
    assert files(tmp_path) == 2


def test_rows_beyond_one_pass_are_merged_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More small parts than are compared at once lose nothing either."""
    monkeypatch.setattr(compaction, "AT_ONCE", 50)
    parts = opened(tmp_path)
    for turn in range(3 * MANY):
        parts.write(table(list(range(turn, turn + 20)), turn))
    before = answers(parts, list(range(3 * MANY + 19)))
    again = opened(tmp_path)
    compact(again)
    assert answers(again, list(range(3 * MANY + 19))) == before
    assert files(tmp_path) < 3 * MANY / 2


def spoil(path: Path) -> None:
    """Flip the last byte of the first column's page, which is one of the only key in it."""
    column, raw = pq.read_metadata(path).row_group(0).column(0), bytearray(path.read_bytes())
    raw[column.data_page_offset + column.total_compressed_size - 1] ^= 0xFF
    path.write_bytes(raw)


@pytest.mark.parametrize("spoiled", [spoil, lambda path: path.write_bytes(b""), Path.unlink])
def test_nothing_is_merged_beside_a_part_that_cannot_be_read(
    tmp_path: Path, spoiled: Callable[[Path], object]
) -> None:
    """What a damaged part answers is not known, so nothing may be put behind it."""
    parts = opened(tmp_path)
    for number in range(MANY + 1):
        parts.write(table([number], number))
    spoiled(tmp_path / "part-0000007.parquet")
    before = sorted(tmp_path.iterdir())
    compact(parts)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("letter", [b"_cost_usd", b"_key", b"_source"])
def test_a_changed_footer_is_not_passed_on(tmp_path: Path, letter: bytes) -> None:
    """A part whose footer no longer matches its checksum stays as it is, for whoever sets it aside."""
    parts = opened(tmp_path)
    for number in range(MANY):
        parts.write(table([number + 1], 0))
    victim = tmp_path / "part-0000006.parquet"
    content = bytearray(victim.read_bytes())
    content[content.rindex(letter)] ^= 2  # after the pages, the last one stands in the footer
    victim.write_bytes(content)
    parts = opened(tmp_path)
    compact(parts)
    assert victim.read_bytes() == content
    parts.index()
    assert parts.set_aside == [victim.name]
