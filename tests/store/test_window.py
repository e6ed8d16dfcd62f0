"""Answers in the order of the input."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.heads import heads
from pipeline.input.source import NAMES, Survey
from pipeline.scratch import Column
from pipeline.store.parts import Index, Parts, Places
from pipeline.store.standing import stand
from pipeline.store.window import WEIGHT, Window
from tests.store.test_compaction import DIGEST, LAYOUT, key, table

ROWS, EACH, CHUNK = 2_000, 100, 50
IN_ORDER = range(1, ROWS + 1)
SHUFFLED = random.Random(1).sample(IN_ORDER, ROWS)


class Counted(Parts):
    """Parts that count how often something is taken out of them, and how much at most."""

    takes, most = 0, 0

    def take(self, index: Index, places: Places) -> pa.Table:
        """Return the part rows at these places."""
        self.takes, self.most = self.takes + 1, max(self.most, len(places))
        return super().take(index, places)


def opened(folder: Path, order: Sequence[int], weight: int = WEIGHT) -> tuple[Counted, Window]:
    """Answer rows in order, for an input that has them in another."""
    parts = Counted(folder, LAYOUT.part)
    for start in IN_ORDER[::EACH]:
        parts.write(table(list(range(start, start + EACH)), 0))
    names = np.empty(ROWS, NAMES)
    names["key"], names["digest"] = heads([key(name) for name in order]), heads([DIGEST] * ROWS)
    column = Column(NAMES)
    column.add(names)
    return parts, Window(parts, stand(Survey(column), parts), weight)


def taken(folder: Path, order: Sequence[int], weight: int = WEIGHT) -> Counted:
    """Take the answers in the order of the input, a chunk at a time."""
    parts, window = opened(folder, order, weight)
    chunks = [window.take(start, CHUNK) for start in range(0, ROWS, CHUNK)]
    assert [found for chunk in chunks for found in chunk["_key"].to_pylist()] == [key(name) for name in order]
    return parts


def test_scattered_rows_are_taken_many_at_once(tmp_path: Path) -> None:
    """After a first chunk that tells how large they are, all that fit are read together."""
    assert taken(tmp_path, SHUFFLED).takes == 2


def test_rows_in_the_order_of_the_parts_are_not_kept(tmp_path: Path) -> None:
    """Where few parts are touched, no more than a chunk is in memory."""
    parts = taken(tmp_path, IN_ORDER)
    assert (parts.takes, parts.most) == (ROWS // CHUNK, CHUNK)


def test_what_was_taken_keeps_no_window_alive(tmp_path: Path) -> None:
    """A chunk that is still being written must not hold many times its size beside the next window."""
    _, window = opened(tmp_path, SHUFFLED)
    before = pa.total_allocated_bytes()
    chunks = [window.take(start, CHUNK) for start in (0, CHUNK)]
    whole = pa.total_allocated_bytes() - before
    del window
    assert sum(map(len, chunks)) == 2 * CHUNK
    assert pa.total_allocated_bytes() - before < whole / 4


def test_no_more_is_kept_than_fits(tmp_path: Path) -> None:
    """Large answers are read fewer at a time, in the worst case a chunk."""
    parts = taken(tmp_path, SHUFFLED, weight=100)
    assert (parts.takes, parts.most) == (ROWS // CHUNK, CHUNK)
