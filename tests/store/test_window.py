"""Answers in the order of the input."""

import random
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import scratch
from pipeline.errors import DamagedError, StoreError
from pipeline.heads import heads
from pipeline.input.survey import NAMES, Survey
from pipeline.scratch import Column
from pipeline.store.parts import OPEN_PARTS, Parts
from pipeline.store.rearranged import SAMPLE, WEIGHT
from pipeline.store.standing import Standing, stand
from pipeline.store.window import BLOCK, READS, Window
from tests.store.test_compaction import DIGEST, LAYOUT, key, table
from tests.test_scratch import files_of_at_most

EACH, CHUNK = 500, 3_000  # rows of a part; rows that are taken at once, which is no divisor of a block
ROWS = 8 * BLOCK
IN_ORDER = range(1, ROWS + 1)
SHUFFLED = random.Random(1).sample(IN_ORDER, ROWS)
ONCE_MORE = READS + 2  # reads of a part at most: for blocks, for the copy of others and to tell sizes


class Counted(Parts):
    """Parts that count how often each of them is read from the disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, LAYOUT.part)
        self.reads: list[str] = []

    def _read(self, path: Path, names: Sequence[str] | None = None) -> pa.Table:
        self.reads.append(path.name)
        return super()._read(path, names)

    @property
    def most(self) -> int:
        """How often the part was read that was read most often."""
        return max(map(self.reads.count, self.reads))


def answered(folder: Path, order: Sequence[int], each: int = EACH) -> tuple[Counted, Standing]:
    """Answer rows in the order of their names, for an input that has them in `order`."""
    parts = Counted(folder)
    names_ = sorted(set(order))
    for start in range(0, len(names_), each):
        parts.write(table(names_[start : start + each], 0))
    names = np.empty(len(order), NAMES)
    names["key"], names["digest"] = heads([key(name) for name in order]), heads([DIGEST] * len(order))
    column = Column(NAMES)
    column.add(names)
    return parts, stand(Survey(column), parts)


def taken(folder: Path, order: Sequence[int], weight: int = WEIGHT, each: int = EACH) -> Counted:
    """Take the answers in the order of the input, a chunk at a time."""
    parts, standing = answered(folder, order, each)
    window = Window(parts, standing, weight)
    starts = range(0, len(order), CHUNK)
    chunks = [window.take(start, min(CHUNK, len(order) - start)) for start in starts]
    assert [found for chunk in chunks for found in chunk["_key"].to_pylist()] == [key(name) for name in order]
    return parts


def swapped(order: Sequence[int]) -> list[int]:
    """Let every 1,000th row change its place with one far away, and mix two blocks."""
    mixed, far = list(order), len(order) // 2
    for at in range(0, far, 1_000):
        mixed[at], mixed[at + far] = mixed[at + far], mixed[at]
    random.Random(2).shuffle(some := mixed[BLOCK : 3 * BLOCK])
    return [*mixed[:BLOCK], *some, *mixed[3 * BLOCK :]]


def often(order: Sequence[int]) -> list[int]:
    """Let every third row be equal to the first one."""
    return [name if name % 3 else 1 for name in order]


@pytest.mark.parametrize(
    "order",
    [SHUFFLED, list(reversed(IN_ORDER)), swapped(IN_ORDER), often(IN_ORDER), often(SHUFFLED)],
    ids=["shuffled", "reversed", "swapped", "often", "often shuffled"],
)
@pytest.mark.parametrize("weight", [WEIGHT, 200_000], ids=["light", "heavy"])
def test_no_part_is_read_again_and_again(tmp_path: Path, order: Sequence[int], weight: int) -> None:
    """However the input is ordered, and however little fits into memory."""
    assert taken(tmp_path, order, weight).most <= ONCE_MORE


def test_rows_in_the_order_of_the_parts_are_not_copied(tmp_path: Path) -> None:
    """Each part is read once, and none to tell how large a copy will be."""
    assert len(taken(tmp_path, IN_ORDER).reads) == ROWS // EACH


def test_one_row_in_far_parts_is_no_reason_for_a_copy(tmp_path: Path) -> None:
    """Rows that were asked again lie in a part that stays open."""
    order = [name for name in IN_ORDER if name % 100] + [ROWS + name for name in IN_ORDER[::100]]
    again = sorted(order, key=lambda name: name - ROWS if name > ROWS else name)
    assert len(taken(tmp_path, again, each=BLOCK).reads) == ROWS // BLOCK


def test_what_is_open_is_not_read_again(tmp_path: Path) -> None:
    """Rows of some parts and then of these without the last and with an earlier one: only that is read."""
    parts, standing = answered(tmp_path, IN_ORDER)
    for first in (1, 0):
        parts.take(standing.index, np.arange(first, first + OPEN_PARTS) * EACH)
    assert len(parts.reads) == OPEN_PARTS + 1


def test_shuffled_rows_are_read_in_one_pass(tmp_path: Path) -> None:
    """Besides the few parts that tell how large answers are."""
    assert len(taken(tmp_path, SHUFFLED).reads) <= ROWS // EACH + SAMPLE


def test_what_was_taken_keeps_nothing_else_alive(tmp_path: Path) -> None:
    """A chunk that is still being written must not hold many times its size beside the next rows."""
    parts, standing = answered(tmp_path, SHUFFLED)
    window = Window(parts, standing)
    before = pa.total_allocated_bytes()
    chunks = [window.take(start, CHUNK) for start in (0, CHUNK)]
    whole = pa.total_allocated_bytes() - before
    del window, parts
    assert sum(map(len, chunks)) == 2 * CHUNK
    assert pa.total_allocated_bytes() - before < whole / 2


def test_no_more_is_in_memory_than_fits(tmp_path: Path) -> None:
    """Of a copy only some of the rows at a time."""
    parts, standing = answered(tmp_path, SHUFFLED)
    all_ = sum(parts.read(path).nbytes for path in parts.paths)
    window, before = Window(parts, standing, weight=all_ // 10), pa.total_allocated_bytes()
    for start in range(0, ROWS, CHUNK):
        window.take(start, CHUNK if start + CHUNK < ROWS else ROWS - start)
        assert pa.total_allocated_bytes() - before < all_ / 2


def test_a_full_disk_stops_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint says how much room is needed, and how to have it elsewhere."""
    parts, standing = answered(tmp_path, SHUFFLED)
    monkeypatch.setattr(scratch, "IN_MEMORY", 1)
    with pytest.raises(StoreError, match="a temporary file in") as caught, files_of_at_most(100_000):
        Window(parts, standing).take(0, CHUNK)
    assert "as much as the answers take" in caught.value.hint
    assert "TMPDIR" in caught.value.hint


def test_damage_is_found_while_answers_are_copied(tmp_path: Path) -> None:
    """And the part is named, whichever rows were wanted."""
    parts, standing = answered(tmp_path, SHUFFLED)
    path = parts.paths[ROWS // EACH // 2]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedError, match=path.name):
        Window(parts, standing).take(0, CHUNK)


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=200),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30)),
    st.sampled_from([1, 500, WEIGHT]),
)
@settings(max_examples=60)
def test_any_order_is_taken_as_it_is(order: list[int], sizes: tuple[int, int, int], weight: int) -> None:
    """With rows that are equal, at any sizes of parts, blocks and chunks."""
    each, block, chunk = sizes
    with TemporaryDirectory() as folder:
        parts, standing = answered(Path(folder), order, each)
        window = Window(parts, standing, weight, block=block)
        for start in range(0, len(order), chunk):
            names = order[start : start + chunk]
            assert window.take(start, len(names))["_key"].to_pylist() == [key(name) for name in names]
