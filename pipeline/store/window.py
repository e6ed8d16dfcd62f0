"""The answers in the order of the input, which need not be that of the parts.

An input that was sorted anew, or whose rows were answered over many nights, has neighbours that lie in parts
far apart. Read a few thousand rows at a time, such a table would have every part read once for each of
these. So the blocks that would read a part again and again are found beforehand, and copied in one pass.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.store.parts import OPEN_PARTS, Parts, Places
from pipeline.store.rearranged import WEIGHT, Rearranged
from pipeline.store.standing import Standing

BLOCK = 5_000  # rows of the input that are read at once
READS = 2  # of a part; the blocks that read one more often are copied


class Window:
    """The answers that an input has. One thread at a time."""

    def __init__(self, parts: Parts, standing: Standing, weight: int = WEIGHT, *, block: int = BLOCK) -> None:
        self._parts = parts
        self._standing = standing
        self._weight = weight
        self._rows = block
        self._copied: NDArray[np.bool_] | None = None  # blocks
        self._copy: Rearranged | None = None
        self._number = -1  # of the block in memory
        self._table: pa.Table | None = None

    def take(self, start: int, rows: int) -> pa.Table:
        """Return the part rows that answer so many rows of the input from `start` on: all are answered.

        Raises what `Parts.take` does, and StoreError where there is no room for a copy.
        """
        pieces = list(self._pieces(start, start + rows))
        if not pieces:
            return self._parts.take(self._standing.index, np.empty(0, np.int64))
        return pieces[0] if len(pieces) == 1 else pa.concat_tables(pieces)

    def _pieces(self, start: int, stop: int) -> Iterator[pa.Table]:
        if self._copied is None:
            self._copied = _again(self._standing, self._rows)
        for number in range(start // self._rows, -(-stop // self._rows)):
            first = number * self._rows
            begin, end = max(start, first), min(stop, first + self._rows)
            if self._copied[number]:
                yield self._rearranged(self._copied).take(begin, end)
            else:
                yield self._block(number).slice(begin - first, end - begin)

    def _rearranged(self, blocks: NDArray[np.bool_]) -> Rearranged:
        if self._copy is None:
            self._table = None
            self._copy = Rearranged(self._parts, self._standing, blocks, rows=self._rows, weight=self._weight)
        return self._copy

    def _block(self, number: int) -> pa.Table:
        if number != self._number or self._table is None:
            self._table = None  # not two of them at a time
            places = _places(self._standing, number, self._rows)
            # nobody takes rows without an answer, so any will do for them
            self._table = self._parts.take(
                self._standing.index, np.where(places < 0, places.max(initial=0), places)
            )
            self._number = number
        return self._table


def _again(standing: Standing, rows: int) -> NDArray[np.bool_]:
    """Tell which blocks would read a part that is read so often that this is not worth it."""
    times = np.zeros(len(standing.index.starts), np.int64)
    for numbers in _read(standing, rows):
        times[numbers] += 1
    return np.array([bool((times[numbers] > READS).any()) for numbers in _read(standing, rows)], np.bool_)


def _read(standing: Standing, rows: int) -> Iterator[Places]:
    """Yield the numbers of the parts that each block reads: not those still open from the one before."""
    before = np.empty(0, np.int64)
    for block in range(-(-len(standing.rows) // rows)):
        places = _places(standing, block, rows)
        numbers = np.unique(np.searchsorted(standing.index.starts, places[places >= 0], side="right") - 1)
        yield numbers if len(before) > OPEN_PARTS else np.setdiff1d(numbers, before, assume_unique=True)
        before = numbers


def _places(standing: Standing, number: int, rows: int) -> Places:
    places: Places = standing.rows.read(number * rows, (number + 1) * rows)["place"]
    return places
