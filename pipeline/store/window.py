"""The answers in the order of the input, which need not be that of the parts.

An input that was sorted anew, or whose rows were answered over many nights, has neighbours that lie in parts
far apart. Read a few thousand rows at a time, such a table would have every part read once for each of
these. So where rows are scattered, many are taken at once: as many as fit into `WEIGHT`.
"""

import numpy as np
import pyarrow as pa

from pipeline.store.parts import Parts, Places
from pipeline.store.standing import Standing

WEIGHT = 32 * 2**20  # bytes of answers that are kept where they are scattered, by the size of the last ones
MOST = 1 << 17  # of them at once, in case that the next ones are much larger
FEW = 8  # parts in which the rows of a chunk lie that are not scattered


class Window:
    """Some of the answers that an input has, read ahead. One thread at a time."""

    def __init__(self, parts: Parts, standing: Standing, weight: int = WEIGHT) -> None:
        self._parts = parts
        self._standing = standing
        self._weight = weight
        self._fit = 0  # rows that are read at once
        self._start = 0
        self._table: pa.Table | None = None

    def take(self, start: int, rows: int) -> pa.Table:
        """Return the part rows that answer so many rows of the input from `start` on: all are answered.

        Raises what `Parts.take` does.
        """
        table, begin = self._table, start - self._start
        if table is None or begin < 0 or begin + rows > len(table):
            del table  # or it would stay beside the next one
            table, begin = self._read(start, rows), 0
        found = table.slice(begin, rows)
        # a slice would keep all of the window alive, beside the next one
        return found if len(found) == len(table) else found.take(pa.array(np.arange(len(found))))

    def _read(self, start: int, rows: int) -> pa.Table:
        places = self._places(start, rows)
        if self._scattered(places):
            places = self._places(start, max(rows, self._fit))
        self._table = None  # not two of them at a time
        table = self._parts.take(self._standing.index, places)
        self._fit = min(MOST, self._weight * len(table) // max(1, table.nbytes))
        self._start, self._table = start, table
        return table

    def _places(self, start: int, rows: int) -> Places:
        places = self._standing.rows.read(start, start + rows)["place"]
        open_ = np.flatnonzero(places < 0)
        return places[: open_[0]] if len(open_) else places

    def _scattered(self, places: Places) -> bool:
        return len(np.unique(np.searchsorted(self._standing.index.starts, places, side="right"))) > FEW
