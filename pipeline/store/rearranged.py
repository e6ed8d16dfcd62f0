"""Answers that lie far apart, copied once into the order of the input.

Each part is read once, and its rows go into temporary buckets, each for some ten thousand rows of the input.
What a bucket needs is known before from how the input stands, so a row that answers many of it lies there
once only, and all do in the order of their places.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.scratch import SLICE, Buckets, Pieces, Records
from pipeline.store.parts import Parts, Places
from pipeline.store.standing import Standing

WEIGHT = 16 * 2**20  # bytes of answers that are in memory at a time, about
MOST = 1 << 17  # of them, in case that some are much larger than others
SAMPLE = 4  # parts that tell how large answers are
_WANTED = np.dtype([("place", "<i8"), ("bucket", "<i4")])
# what is packed at once is so small that threads would take several times as long
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
_UNPACKED = pa.ipc.IpcReadOptions(use_threads=False)


class Rearranged:
    """The answers of those blocks of an input that `blocks` names, each of so many rows.

    Making it reads all parts that they need; raises what `Parts.table` does, and StoreError where there is
    no room. One thread at a time.
    """

    def __init__(
        self, parts: Parts, standing: Standing, blocks: NDArray[np.bool_], *, rows: int, weight: int = WEIGHT
    ) -> None:
        self._parts, self._standing, self._blocks = parts, standing, blocks
        self._weight = weight
        self._block = rows
        self._each = max(1, min(MOST, weight // self._size()) // rows)  # blocks in a bucket
        self._buckets = -(-len(blocks) // self._each)
        self._pieces = Pieces(self._buckets)
        self._open = -1  # the bucket that is in memory
        self._table: pa.Table | None = None
        self._places = np.empty(0, np.int64)  # of the rows of that table
        self._fill()

    def take(self, start: int, stop: int) -> pa.Table:
        """Return the part rows that answer these rows of the input, all of one block."""
        bucket = start // self._block // self._each
        if bucket != self._open or self._table is None:
            self._table = None  # not two of them at a time
            self._table, self._places, self._open = self._read(bucket), self._wanted(bucket), bucket
        places = self._standing.rows.read(start, stop)["place"]
        return self._table.take(pa.array(np.searchsorted(self._places, places)))

    def _size(self) -> int:
        """Return about how many bytes an answer takes."""
        last = len(self._standing.index.starts) - 2
        tables = [
            self._parts.table(number)
            for number in np.unique(np.linspace(0, last, SAMPLE, dtype=int)).tolist()
        ]
        size, rows = sum(int(table.nbytes) for table in tables), sum(map(len, tables))
        return max(1, size // max(1, rows))

    def _wanted(self, bucket: int) -> Places:
        """Return the places of all rows of the parts that are in a bucket, in order."""
        first, last = bucket * self._each, (bucket + 1) * self._each
        places = self._standing.rows.read(first * self._block, last * self._block)["place"]
        copied = np.repeat(self._blocks[first:last], self._block)[: len(places)]
        return np.unique(places[copied & (places >= 0)])

    def _fill(self) -> None:
        tables, numbers, size = list[pa.Table](), list[NDArray[np.int32]](), 0
        for rows, buckets in self._rows():
            tables.append(rows)
            numbers.append(buckets)
            size += rows.nbytes
            if size >= self._weight:
                self._write(tables, np.concatenate(numbers))
                numbers, size = [], 0
        if tables:
            self._write(tables, np.concatenate(numbers))

    def _rows(self) -> Iterator[tuple[pa.Table, NDArray[np.int32]]]:
        """Yield the rows of all parts in the order of their places, and the bucket of each."""
        starts = self._standing.index.starts
        for records in self._by_place():
            parts = np.searchsorted(starts, records["place"], side="right") - 1
            bounds = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(records)]
            for begin, end in pairwise(bounds):
                number = int(parts[begin])
                table = self._parts.table(number)
                step = max(1, self._weight * len(table) // max(1, table.nbytes))
                for at in range(begin, end, step):
                    some = records[at : min(at + step, end)]
                    yield table.take(pa.array(some["place"] - starts[number])), some["bucket"]

    def _by_place(self) -> Iterator[Records]:
        """Yield which row of the parts is wanted in which bucket, in the order of their places."""
        groups = 1 + int(self._blocks.sum()) * self._block // SLICE
        wanted = Buckets(_WANTED, groups)
        for bucket in range(self._buckets):
            places = self._wanted(bucket)
            records = np.empty(len(places), _WANTED)
            records["place"], records["bucket"] = places, bucket
            wanted.add(records, places * groups // self._standing.index.starts[-1])
        for group in range(groups):
            records = wanted.read(group)
            if len(records):
                yield records[np.argsort(records["place"], kind="stable")]

    def _write(self, tables: list[pa.Table], numbers: NDArray[np.int32]) -> None:
        """Add rows to their buckets, and forget them."""
        joined = pa.concat_tables(tables).combine_chunks()
        tables.clear()  # or they would stay beside it
        joined = joined.take(pa.array(np.argsort(numbers, kind="stable")))
        ends = np.cumsum(np.bincount(numbers, minlength=self._buckets))
        for number, (begin, end) in enumerate(pairwise([0, *ends.tolist()])):
            if end > begin:
                self._pieces.add(number, _packed(joined.slice(begin, end - begin)))

    def _read(self, bucket: int) -> pa.Table:
        tables = [
            pa.ipc.open_stream(piece, options=_UNPACKED).read_all() for piece in self._pieces.read(bucket)
        ]
        return pa.concat_tables(tables).combine_chunks()


def _packed(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=_PACKED) as stream:
        stream.write_table(table)
    return memoryview(sink.getvalue())
